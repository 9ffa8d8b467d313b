"""The input pipeline: what a record becomes, and an order that the seed alone decides."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from faceflow.components.common import images
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, TrainingError
from faceflow.components.common.model import resize
from faceflow.components.train.input import FaceReader, sample, training_batches, validation_batches
from faceflow.components.train.packed import PackedFaces

READER = FaceReader((112, 112), (56, 56), 5)
WHOLE = FaceReader((112, 112), (112, 112), 5)


@pytest.fixture(scope="module")
def train(packed):
    return Dataset(packed / "train")


def batches(dataset, reader=READER, **changes):
    arguments = {"batch_size": 8, "epochs": range(2), "seed": 3} | changes
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in training_batches(dataset, reader, **arguments)]


def test_pixels_are_those_that_evaluation_decodes(train):
    record = next(iter(train.records()))
    pixels, label = WHOLE.read(tf.constant(record.encode()))
    np.testing.assert_array_equal(pixels, images.decode(record.image))
    assert int(label) == record.label
    small, _ = READER.read(tf.constant(record.encode()))
    np.testing.assert_array_equal(small, resize(images.decode(record.image), 56, 56))
    assert small.dtype == tf.uint8


def test_the_same_seed_gives_the_same_batches_and_another_another(train):
    first, again, other = batches(train), batches(train), batches(train, seed=4)
    assert all(
        np.array_equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True)
    )
    assert not all(np.array_equal(one[0], two[0]) for one, two in zip(first, other, strict=True))


def test_tensorflows_own_seed_changes_nothing(train):
    first = batches(train)
    for seed in (0, 1):
        tf.random.set_seed(seed)
        assert all(np.array_equal(one[0], two[0]) for one, two in zip(first, batches(train), strict=True))


def test_resuming_at_an_epoch_reads_what_an_unbroken_training_reads(train):
    unbroken, resumed = batches(train, epochs=range(3)), batches(train, epochs=range(2, 3))
    steps = len(unbroken) // 3
    assert len(resumed) == steps == train.manifest.images // 8
    for one, two in zip(unbroken[2 * steps :], resumed, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[1], two[1])


def test_an_epoch_has_each_record_once_in_an_order_of_its_own(train):
    plain = batches(train, WHOLE, flip=False, batch_size=7, epochs=range(2), shuffle_block=16)
    steps = len(plain) // 2
    stored = Counter(images.decode(record.image).tobytes() for record in train.records())
    orders = []
    for epoch in (plain[:steps], plain[steps:]):
        seen = [pixels.tobytes() for batch, _ in epoch for pixels in batch]
        assert Counter(seen) == stored
        orders.append(seen)
    assert orders[0] != orders[1]


def test_about_half_the_images_are_mirrored_and_nothing_else_is_done(train):
    stored = {images.decode(record.image).tobytes() for record in train.records()}
    mirrored = 0
    seen = [pixels for batch, _ in batches(train, WHOLE, batch_size=10, epochs=range(6)) for pixels in batch]
    for pixels in seen:
        straight = pixels.tobytes() in stored
        assert straight or pixels[:, ::-1].tobytes() in stored
        mirrored += not straight
    assert abs(mirrored / len(seen) - 0.5) < 4 * 0.5 / len(seen) ** 0.5


def test_labels_stay_with_their_images(train):
    truth = {images.decode(record.image).tobytes(): record.label for record in train.records()}
    for pixels, labels in batches(train, WHOLE, flip=False):
        assert [truth[each.tobytes()] for each in pixels] == labels.tolist()


def test_validation_reads_every_record_once_and_knows_its_length(packed):
    dataset = Dataset(packed / "validation")
    stream = validation_batches(dataset, READER, 4)
    labels = np.concatenate([labels for _, labels in stream])
    assert int(stream.cardinality()) == len(list(stream)) == -(-dataset.manifest.images // 4)
    assert Counter(labels.tolist()) == Counter(record.label for record in dataset.records())
    assert sample(dataset, READER, 3).shape == (3, 56, 56, 3)


@pytest.mark.parametrize("bad", [5, 99, -1, None])
def test_a_label_out_of_range_is_told_with_its_record(bad, make_packed, tmp_path):
    packed = make_packed(tmp_path / "packed", images=4, label=lambda identity: bad if identity == 2 else identity)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"label outside 0\.\.4 in record(.|\n)*toy/id2/"):
        batches(Dataset(packed / "train"))


def test_an_image_of_another_size_is_told_with_its_record(train):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not 96x112 pixels in record(.|\n)*toy/id"):
        batches(train, FaceReader((112, 96), (112, 96), 5))


# ---- the packed directory


def test_a_packed_directory_opens(packed):
    opened = PackedFaces.open(packed)
    assert opened.identities == [f"toy/id{identity}" for identity in range(5)]
    assert opened.input_size(64) == (64, 64)


def test_a_narrow_template_gives_a_narrow_input(make_packed, tmp_path):
    opened = PackedFaces.open(make_packed(tmp_path / "packed", images=3, template="arcface_96x112"))
    assert opened.input_size(112) == (112, 96)
    assert opened.input_size(56) == (56, 48)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"template": None}, DatasetError, "template None.*run align before pack"),
        ({"identities": 1}, TrainingError, "has 1 identity to learn from.*at least 2"),
        ({"validation": 4}, TrainingError, "has no images"),
    ],
)
def test_what_cannot_be_learnt_from_is_told_before_training(make_packed, tmp_path, changes, error, told):
    packed = make_packed(tmp_path / "packed", **{"images": 4} | changes)
    with pytest.raises(error, match=told):
        PackedFaces.open(packed)


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (None, "labels.csv is missing"),
        ("label,identity\n0,a\n2,b\n", "2 labels that are not 0 to 1"),
        ("label,identity\n0,a\n0,b\n", "2 labels that are not 0 to 1"),
        ("label\n0\n", "damaged"),
        ("label,identity\nx,a\n", "damaged"),
    ],
)
def test_a_damaged_list_of_labels_is_told(make_packed, tmp_path, labels, told):
    packed = make_packed(tmp_path / "packed", images=3)
    file: Path = packed / "labels.csv"
    if labels is None:
        file.unlink()
    else:
        file.write_text(labels)
    with pytest.raises(DatasetError, match=told):
        PackedFaces.open(packed)
