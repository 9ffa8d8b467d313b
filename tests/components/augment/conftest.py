import random

import cv2
import numpy as np
import pytest

from faceflow.components.common.dataset import ShardWriter, finish, publishing
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.record import Record


def face(source, identity, number, side):
    """A small record with smooth noise for a picture, different for every key."""
    key = f"{source}/{identity}/{number:04d}.jpg"
    rng = np.random.default_rng(list(key.encode()))
    picture = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    return Record(
        key,
        f"{source}/{identity}",
        encode_jpeg(picture, 90),
        side,
        side,
        landmarks=rng.uniform(0, side, (5, 2)).astype(np.float32),
        score=0.5 + number / 10_000,
        gender="female" if number % 2 else None,
    )


@pytest.fixture
def aligned(tmp_path):
    """Write a dataset as align does: ``aligned("name", {identity: images}, shards=2)`` gives its path."""

    def write(
        source, images, *, shards=2, template="arcface_112", side=24, order=0, stage="align", records=None, at=""
    ):
        if records is None:
            records = [
                face(source, identity, number, side) for identity in images for number in range(images[identity])
            ]
        random.Random(order).shuffle(records)
        path = tmp_path / (at or f"faces-{source}")
        with publishing(path) as directory:
            for index in range(shards):
                with ShardWriter(directory, index, stage=stage) as part:
                    for record in records[index::shards]:
                        part.write(record)
                        part.kept(record.key, record.identity, [record.variant])
            finish(
                directory, stage=stage, settings={}, template=template, inputs={}, images_in=len(records),
                licences=[f"licence of {source}"],
            )  # fmt: skip
        return path

    return write
