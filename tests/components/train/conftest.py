import csv
from dataclasses import replace

import numpy as np
import pytest

from faceflow.components.common.dataset import ShardWriter, finish, publishing
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.record import Record


def pattern(identity, image, size=112):
    """A picture of coarse blocks that an identity has in common, under light and noise of its own."""
    shared = np.random.default_rng([1, identity]).uniform(40, 215, (7, 7, 3))
    rng = np.random.default_rng([2, identity, image])
    blocks = np.kron(shared * rng.uniform(0.8, 1.2), np.ones((size // 7, size // 7, 1)))
    return np.clip(blocks + rng.normal(0, 12, blocks.shape), 0, 255).astype(np.uint8)


def write_dataset(path, records, shards=3, template="arcface_112"):
    with publishing(path) as directory:
        for shard in range(shards):
            with ShardWriter(directory, shard, stage="pack") as out:
                for record in records[shard::shards]:
                    out.write(record)
                    out.kept(record.key, record.identity, ["", *record.online_variants])
        finish(directory, stage="pack", settings={}, template=template, inputs={}, images_in=len(records))


def write_packed(
    path,
    identities=5,
    images=16,
    *,
    validation=2,
    label=lambda identity: identity,
    template="arcface_112",
    online=lambda identity: (),
):
    """A packed dataset; the last ``validation`` images of each identity are for validation."""
    sides = {"train": [], "validation": []}
    for image in range(images):
        for identity in range(identities):
            name = f"toy/id{identity}"
            side = "validation" if image >= images - validation else "train"
            encoded = encode_jpeg(pattern(identity, image))
            record = Record(f"{name}/{image}.jpg", name, encoded, 112, 112, label=label(identity))
            if side == "train":
                record = replace(record, online_variants=online(identity))
            sides[side].append(record)
    path.mkdir()
    write_dataset(path / "train", sides["train"], template=template)
    write_dataset(path / "validation", sides["validation"], 1, template=template)
    with open(path / "labels.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["label", "identity"])
        rows.writerows([label, f"toy/id{label}"] for label in range(identities))
    return path


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    return write_packed(tmp_path_factory.mktemp("packed") / "packed")


@pytest.fixture(scope="session")
def make_packed():
    return write_packed
