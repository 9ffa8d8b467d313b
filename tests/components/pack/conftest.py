import random

import cv2
import numpy as np
import pytest

from faceflow.components.common.dataset import ShardWriter, finish, publishing
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.record import Record, variant_key


def face(identity, number, variant=""):
    """A small record with smooth noise for a picture, different for every key."""
    key = f"{identity}/{number:04d}.jpg"
    if variant:
        key = variant_key(key, variant)
    rng = np.random.default_rng(list(key.encode()))
    picture = cv2.resize(rng.integers(0, 256, (5, 5, 3), np.uint8), (20, 24), interpolation=cv2.INTER_CUBIC)
    return Record(
        key,
        identity,
        encode_jpeg(picture, 90),
        24,
        20,
        landmarks=rng.uniform(0, 20, (5, 2)).astype(np.float32) if number % 3 else None,
        score=0.5 + number / 10_000,
        variant=variant,
        gender="male" if number % 2 else None,
        age=20.0 + number if number % 5 == 0 else None,
    )


@pytest.fixture(scope="session")
def augmented(tmp_path_factory):
    """Write a dataset as augment does: ``augmented({identity: (images, variants)}, shards=2)`` gives its path."""

    def write(images, *, shards=2, order=0, families=None, template="arcface_112"):
        if families is None:
            families = [
                [face(identity, number, variant) for variant in ("", *variants)]
                for identity, (count, variants) in images.items()
                for number in range(count)
            ]
        random.Random(order).shuffle(families)
        path = tmp_path_factory.mktemp("augmented") / "faces"
        with publishing(path) as directory:
            for index in range(shards):
                with ShardWriter(directory, index, stage="augment") as part:
                    for family in families[index::shards]:
                        for record in family:
                            part.write(record)
                        names = [name for record in family for name in (record.variant, *record.online_variants)]
                        part.kept(family[0].key, family[0].identity, names)
            finish(
                directory, stage="augment", settings={}, template=template, inputs={}, images_in=len(families),
                licences=["a licence"],
            )  # fmt: skip
        return path

    return write
