"""The input pipeline: what a record becomes, and an order that the seed alone decides."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from faceflow.components.common import images
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, TrainingError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.model import resize
from faceflow.components.common.operations import Variant
from faceflow.components.common.record import Record
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


# ---- online variants

ONLINE = {1: ("opening",), 2: ("opening", "gaussian_noise(sigma=20)"), 4: ("gaussian_noise(sigma=20)", "flip", "grey")}


@pytest.fixture(scope="module")
def online(make_packed, tmp_path_factory):
    path = tmp_path_factory.mktemp("online") / "packed"
    return PackedFaces.open(make_packed(path, images=8, online=lambda identity: ONLINE.get(identity, ())))


def epochs_of(packed, which, **changes):
    """For each epoch, its images in order: pixels and label."""
    changes = {"variants": packed.online_variants, "flip": False, "batch_size": 1} | changes
    seen = [(pixels[0], int(label[0])) for pixels, label in batches(packed.train, WHOLE, epochs=which, **changes)]
    size = len(seen) // len(which)
    return [seen[begin : begin + size] for begin in range(0, len(seen), size)]


def is_grey(pixels):
    return bool((np.frombuffer(pixels, np.uint8).reshape(-1, 3) == np.frombuffer(pixels, np.uint8)[::3, None]).all())


def test_an_epoch_holds_each_image_and_each_of_its_online_variants_once(online):
    records = list(online.train.records())
    assert [variant.name for variant in online.online_variants] == [
        "flip", "gaussian_noise(sigma=20)", "grey", "opening"
    ]  # fmt: skip
    wanted = {"": Counter(), "opening": Counter(), "flip": Counter(), "grey": Counter()}
    for record in records:
        image = images.decode(record.image)
        for name in {"", *record.online_variants} & wanted.keys():
            changed = Variant.parse(name).make(image, 0, "") if name else image
            wanted[name][record.label, changed.tobytes()] += 1
    assert online.train.manifest.images == 6 * (5 + 1 + 2 + 3) > online.train.manifest.records == 6 * 5
    first, second = epochs_of(online, range(2))
    noisy = []
    for epoch in (first, second):
        assert Counter(label for _, label in epoch) == {0: 6, 1: 12, 2: 18, 3: 6, 4: 24}
        left = Counter((label, pixels.tobytes()) for pixels, label in epoch)
        for name in ("", "opening", "flip"):
            assert not wanted[name] - left
            left -= wanted[name]
        grey = [key for key in left if is_grey(key[1])]
        assert len(grey) == sum(wanted["grey"].values()) == 6
        noisy.append({key for key in left if key not in grey})
        assert len(noisy[-1]) == 12
    assert not noisy[0] & noisy[1]  # the noise of every epoch is new


def test_online_noise_is_that_of_the_operation_about_the_image(online):
    sources = [images.decode(record.image) for record in online.train.records() if record.label == 2]
    still = {image.tobytes() for image in sources}
    still |= {Variant.parse("opening").make(image, 0, "").tobytes() for image in sources}
    (epoch,) = epochs_of(online, range(1))
    matched = set()
    for pixels, label in epoch:
        if label == 2 and pixels.tobytes() not in still:
            apart = [pixels - image.astype(int) for image in sources]
            nearest = int(np.argmin([each.std() for each in apart]))
            middle = apart[nearest][(sources[nearest] > 80) & (sources[nearest] < 175)]
            assert middle.std() == pytest.approx(20, rel=0.05)
            matched.add(nearest)
    assert matched == set(range(len(sources)))


def test_resuming_repeats_the_online_noise(online):
    unbroken, resumed = epochs_of(online, range(3), batch_size=1), epochs_of(online, range(2, 3), batch_size=1)
    assert [(pixels.tobytes(), label) for pixels, label in unbroken[2]] == [
        (pixels.tobytes(), label) for pixels, label in resumed[0]
    ]


def test_the_variants_of_an_image_are_spread_over_the_epoch(online):
    pictures = [images.decode(record.image) for record in online.train.records()]
    number_of = {image.tobytes(): number for number, image in enumerate(pictures)}
    number_of |= {image[:, ::-1].tobytes(): number for number, image in enumerate(pictures)}
    places = {number: [] for number in range(len(pictures))}
    epochs = epochs_of(online, range(4))
    for epoch in epochs:
        for place, (pixels, label) in enumerate(epoch):
            if label == 4 and pixels.tobytes() in number_of:
                places[number_of[pixels.tobytes()]].append(place)
    pairs = [pair for each in places.values() for pair in zip(each[::2], each[1::2], strict=True)]
    apart = [second - first for first, second in pairs]
    # Two places drawn from n at random are (n + 1) / 3 apart on average.
    assert len(apart) == 24
    assert np.mean(apart) == pytest.approx((len(epochs[0]) + 1) / 3, rel=0.5)


def test_the_reports_sample_shows_the_variants(online):
    shown = sample(online.train, WHOLE, 20, online.online_variants).numpy()
    stored = {images.decode(record.image).tobytes() for record in online.train.records()}
    kept = [image for image in shown if image.tobytes() in stored]
    assert shown.shape == (20, 112, 112, 3)
    assert len(kept) < 20
    assert {Variant.parse("opening").make(image, 0, "").tobytes() for image in kept} & {
        each.tobytes() for each in shown
    }


def test_validation_carries_no_online_variants(online):
    assert online.validation.manifest.images == online.validation.manifest.records == 10


def test_a_variant_that_this_version_does_not_know_is_told(make_packed, tmp_path):
    with pytest.raises(DatasetError, match=r"augmentation that this faceflow cannot do: 'sepia'.*known operations"):
        PackedFaces.open(make_packed(tmp_path / "packed", images=3, online=lambda identity: ("sepia",)))


# ---- the packed directory


def test_a_packed_directory_opens(packed):
    opened = PackedFaces.open(packed)
    assert opened.identities == [f"toy/id{identity}" for identity in range(5)]
    assert opened.input_size(64) == (64, 64)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_input_has_the_template_s_proportions(make_packed, tmp_path, name):
    opened = PackedFaces.open(make_packed(tmp_path / "packed", images=3, template=name))
    template = TEMPLATES[name]
    assert opened.input_size(template.height) == (template.height, template.width)
    size = opened.input_size(56)
    assert size == ((56, 48) if name == "arcface_96x112" else (56, 56))
    face = np.random.default_rng(0).integers(0, 256, (template.height, template.width, 3)).astype(np.uint8)
    record = Record("toy/a/1.jpg", "toy/a", images.encode_jpeg(face), template.height, template.width, label=0)
    pixels, _ = FaceReader((template.height, template.width), size, 1).read(tf.constant(record.encode()))
    np.testing.assert_array_equal(pixels, resize(images.decode(record.image), *size))


@pytest.mark.parametrize("field, value", [("template", "arcface_96x112"), ("interpolation", "nearest")])
def test_sides_that_were_aligned_differently_are_refused(make_packed, tmp_path, field, value):
    packed = make_packed(tmp_path / "packed", images=3)
    manifest = packed / "validation" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), field: value}))
    with pytest.raises(DatasetError, match="aligned to different templates do not go together"):
        PackedFaces.open(packed)


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
