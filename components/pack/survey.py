"""The first pass over the faces: what each identity has, from the ledger alone. No shard is opened.

A *source image* is a record that is not an augmented copy; its copies carry its key with ``#<variant>`` appended and
follow it directly, as augment writes them. The split is made over source images, so that a copy is never parted from
the image that it was made of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hashes
from faceflow.components.common.ledger import rows_kept
from faceflow.components.common.smallest import Smallest


@dataclass(frozen=True)
class Survey:
    """What the plan is made from.

    Attributes:
        identities: All of them, sorted.
        images: (identities,) int64: source images of each.
        records: (identities,) int64: records of each, augmented copies included.
        record_bytes: Mean size of a record in its shard.
    """

    identities: list[str]
    images: NDArray[np.int64]
    records: NDArray[np.int64]
    record_bytes: float


def split_hashes(seed: int, keys: pa.StringArray) -> NDArray[np.uint64]:
    """The numbers by which source images of one identity compete for validation: the smallest go there."""
    return stable_hashes((seed, "split"), keys.cast(pa.binary()).to_pylist())


def count(faces: Dataset) -> Survey:
    """Count every identity's source images and records.

    Raises:
        DatasetError: The ledger does not go with the shards.
    """
    numbers: dict[bytes, int] = {}
    images = np.zeros(1 << 10, np.int64)
    variants = np.zeros(1 << 10, np.int64)
    for rows in rows_kept(faces.path):
        known = np.array([numbers.setdefault(name, len(numbers)) for name in rows.identities], np.int64)
        if len(numbers) > len(images):
            more = np.zeros(len(numbers), np.int64)
            images, variants = np.concatenate([images, more]), np.concatenate([variants, more])
        owned = known[rows.codes]
        images += np.bincount(owned, minlength=len(images))
        variants += np.bincount(owned, rows.images, minlength=len(images)).astype(np.int64)
    names = sorted(name for name, number in numbers.items() if images[number])
    places = np.array([numbers[name] for name in names], np.int64)
    images, variants = images[places], variants[places]
    manifest = faces.manifest
    # A variant is a record of its own, or a name that its source image's record carries.
    records = variants if manifest.records == variants.sum() else images
    if manifest.images != variants.sum() or manifest.records != records.sum():
        raise DatasetError(
            f"{faces.path} has {manifest.records:,} records and {manifest.images:,} images by its manifest, but its "
            f"ledger names {int(images.sum()):,} source images and {int(variants.sum()):,} with their variants: "
            f"run the stage that wrote it ({manifest.stage}) again."
        )
    size = sum(shard.bytes for shard in manifest.shards) / max(1, manifest.records)
    return Survey([name.decode() for name in names], images, records, size)


def thresholds(faces: Dataset, survey: Survey, taken: NDArray[np.int64], seed: int) -> NDArray[np.uint64]:
    """Split hashes up to which the source images of each identity go to validation.

    Args:
        faces: What was surveyed.
        survey: The survey.
        taken: How many of each identity go there.
        seed: The stage's seed.

    Returns:
        (identities,) uint64; without meaning where none are taken.
    """
    found = np.zeros(len(survey.identities), np.uint64)
    wanted = np.flatnonzero(taken)
    if not len(wanted):
        return found
    numbers = {identity.encode(): number for number, identity in enumerate(survey.identities)}
    smallest = Smallest(taken)
    for rows in rows_kept(faces.path):
        known = np.array([numbers.get(name, 0) for name in rows.identities], np.int64)
        owned = known[rows.codes]
        split = np.flatnonzero(taken[owned] > 0)
        smallest.add(owned[split], split_hashes(seed, rows.keys.take(pa.array(split))))
    found[wanted] = smallest.nth(wanted, taken[wanted] - 1)
    return found
