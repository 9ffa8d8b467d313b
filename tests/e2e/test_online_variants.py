"""Augment, pack and train with written and with online variants: the same counts, and both learn."""

import json

import keras
import numpy as np
import pytest

from faceflow.components.augment import stage as augment
from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.record import Record
from faceflow.components.pack import stage as pack
from faceflow.components.train import devices, training
from faceflow.components.train import stage as train
from faceflow.components.train.checkpoint import Checkpoints
from faceflow.components.train.packed import PackedFaces

POLICY = "n > 9: sample(9) | n > 7: keep, opening | n > 3: keep, gaussian_noise, mask, jpeg(quality=20) | drop"
IMAGES = {"ann": 12, "bea": 8, "cleo": 9, "dora": 4, "eve": 6, "fay": 2}
COUNTS = {"": 9 + 8 + 9 + 4 + 6, "opening": 8 + 9, "gaussian_noise": 10, "mask": 10, "jpeg(quality=20)": 10}


def aligned(path):
    with publishing(path) as directory:
        for index in range(2):
            with ShardWriter(directory, index, stage="align") as out:
                for name, count in list(IMAGES.items())[index::2]:
                    shared = np.random.default_rng(list(name.encode())).uniform(40, 215, (7, 7, 3))
                    for number in range(count):
                        rng = np.random.default_rng([*name.encode(), number])
                        pixels = np.kron(shared, np.ones((16, 16, 1))) + rng.normal(0, 12, (112, 112, 3))
                        key = f"s/{name}/{number}.jpg"
                        image = encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))
                        out.write(Record(key, f"s/{name}", image, 112, 112))
                        out.kept(key, f"s/{name}")
        finish(
            directory, stage="align", settings={}, template="arcface_112", inputs={}, images_in=sum(IMAGES.values())
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("modes")
    faces = aligned(folder / "faces")
    for mode in (True, False):
        out = folder / str(mode)
        augment.run(
            augment.Settings(policy=POLICY, materialize=mode),
            augment.Inputs((faces,)),
            augment.Outputs(out / "augmented", out / "held_out", out / "augment.html"),
        )
        pack.run(
            pack.Settings(validation_fraction=0.12),
            pack.Inputs(out / "augmented"),
            pack.Outputs(out / "packed", out / "pack.html"),
        )
    return folder


def both(ran, what):
    return [what(ran / str(mode)) for mode in (True, False)]


def test_augment_counts_the_same(ran):
    written, online = both(ran, lambda out: Dataset(out / "augmented").manifest)
    assert written.variants == online.variants == COUNTS
    assert written.images == online.images == sum(COUNTS.values()) == written.records
    assert online.records == COUNTS[""]
    assert (written.identities, written.drops) == (online.identities, online.drops)
    ledgers = both(ran, lambda out: Dataset(out / "augmented").ledger().to_pylist())
    assert ledgers[0] == ledgers[1]
    assert sum(shard.bytes for shard in online.shards) < 0.55 * sum(shard.bytes for shard in written.shards)


def test_an_online_record_is_the_image_as_it_came_with_the_names_of_its_variants(ran):
    source = {record.key: record for record in Dataset(ran / "faces").records()}
    earned = {"bea": ("opening",), "cleo": ("opening",), "ann": ()}
    for record in Dataset(ran / "False" / "augmented").records():
        name = record.identity.removeprefix("s/")
        assert record.image == source[record.key].image
        assert record.online_variants == earned.get(name, ("gaussian_noise", "mask", "jpeg(quality=20)"))


@pytest.mark.parametrize("side", ["train", "validation"])
def test_pack_counts_the_same(ran, side):
    written, online = both(ran, lambda out: Dataset(out / "packed" / side).manifest)
    assert (written.images, written.variants) == (online.images, online.variants)
    assert (written.images_in, written.identities) == (online.images_in, online.identities)
    numbers = both(ran, lambda out: json.loads((out / "packed" / "statistics.json").read_text())[side])
    for name in ("images_per_label", "variants"):
        assert numbers[0][name] == numbers[1][name]
    keys = both(ran, lambda out: {record.key for record in Dataset(out / "packed" / side).records()})
    assert {key for key in keys[0] if "#" not in key} == keys[1]
    if side == "validation":
        assert set(online.variants) == {""}
        assert not any(record.online_variants for record in Dataset(ran / "False" / "packed" / side).records())
    else:
        assert online.images > online.records


def test_the_whole_packs_counts_agree(ran):
    written, online = both(ran, lambda out: Dataset(out / "packed").manifest)
    assert (written.images, written.variants, written.images_in) == (online.images, online.variants, online.images_in)
    labels = both(ran, lambda out: (out / "packed" / "labels.csv").read_text())
    assert labels[0] == labels[1]


def network(height, width, embedding_size, _=1.0, precision="float32"):
    """Quick to trace; the real one has tests of its own."""
    pixels = keras.Input((height, width, 3))
    pooled = keras.layers.AveragePooling2D(4)(keras.layers.Rescaling(1 / 127.5, -1.0)(pixels))
    return keras.Model(pixels, keras.layers.Dense(embedding_size)(keras.layers.Flatten()(pooled)))


def test_training_takes_the_same_images_and_learns(ran):
    settings = train.Settings(
        epochs=3, softmax_fraction=0.0, batch_size=8, input_size_px=28, embedding_size=8, learning_rate=0.02,
        jit_compile="off",
    )  # fmt: skip
    opened = both(ran, lambda out: PackedFaces.open(out / "packed"))
    assert opened[0].train.manifest.images == opened[1].train.manifest.images > 2 * 8
    assert [len(packed.online_variants) for packed in opened] == [0, 4]
    chosen = devices.choose("off", settings.batch_size)
    for packed in opened:
        history = training.train(settings, packed, Checkpoints(None, "key"), chosen, build=network).history
        assert history[2]["loss"] < history[0]["loss"]
