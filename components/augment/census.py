"""The first pass: how many images each identity has, and the sampling hashes that can matter. No shard is opened.

A dataset's ledger names every image that is in it, so counting reads keys of some 40 bytes instead of pictures. Which
images a sample takes is decided by the hashes of their keys alone, the smallest first; so of one identity no more are
kept than the largest sample takes, and memory is bounded by identities and sample size, not by the number of images.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.duplicates import Duplicates
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash, stable_hashes
from faceflow.components.common.ledger import Kept, rows_kept
from faceflow.components.common.record import glanced
from faceflow.components.common.smallest import Smallest
from faceflow.components.common.tfrecord import read


@dataclass(frozen=True)
class Census:
    """What the policy is decided from.

    Attributes:
        identities: All of them, sorted.
        images: How many images each has.
        smallest: The smallest sampling hashes of each.
    """

    identities: list[str]
    images: NDArray[np.int64]
    smallest: Smallest

    def __len__(self) -> int:
        """Number of identities."""
        return len(self.identities)


def sampling_hash(seed: int, key: str | bytes) -> int:
    """The number by which images of one identity compete to be sampled: the smallest win."""
    return stable_hash(seed, "sample", key)


def count(datasets: Sequence[Dataset], *, seed: int, sample: int, without: Container[bytes] = frozenset()) -> Census:
    """Count the images of every identity.

    Args:
        datasets: What align wrote.
        seed: The stage's seed.
        sample: How many of the smallest sampling hashes of each identity to keep.
        without: Keys, UTF-8, of images that do not count.

    Raises:
        DatasetError: Two datasets hold a source of the same name, two images have the same key, a dataset holds
            augmented copies, or its ledger does not go with its shards.
    """
    numbers: dict[bytes, int] = {}
    images = np.zeros(1 << 10, np.int64)
    smallest = Smallest(sample)
    owners: dict[str, Dataset] = {}
    with Duplicates(sum(dataset.manifest.images for dataset in datasets)) as twice:
        for dataset in datasets:
            sources: set[str] = set()
            for batch in _batches(dataset):
                sources |= _sources(batch.keys)
                keys: list[bytes] = batch.keys.cast(pa.binary()).to_pylist()
                hashes = stable_hashes((seed, "sample"), keys)
                twice.add(hashes)
                known = np.array([numbers.setdefault(name, len(numbers)) for name in batch.identities], np.int64)
                owned = known[batch.codes]
                if without:
                    counted = np.array([key not in without for key in keys], bool)
                    owned, hashes = owned[counted], hashes[counted]
                if len(numbers) > len(images):
                    images = np.concatenate([images, np.zeros(len(numbers), np.int64)])
                images += np.bincount(owned, minlength=len(images))
                smallest.add(owned, hashes)
            _check_sources(sources, owners, dataset)
        if found := twice.found():
            _refuse_duplicate(datasets, seed, found)
    order = sorted(numbers)
    places = np.array([numbers[name] for name in order], np.int64)
    present = images[places] > 0
    order = [name for name, there in zip(order, present, strict=True) if there]
    places = places[present]
    return Census([name.decode() for name in order], images[places], smallest.renumbered(places))


def _batches(dataset: Dataset) -> Iterator[Kept]:
    """A dataset's images.

    Raises:
        DatasetError: They are not what align wrote, or the ledger does not go with the manifest.
    """
    copies = sorted(set(dataset.manifest.variants) - {""})
    if copies:
        raise DatasetError(
            f"{dataset.path} holds augmented copies ({', '.join(copies)}): give augment the datasets that align wrote."
        )
    images = 0
    for batch in rows_kept(dataset.path):
        images += len(batch.keys)
        yield batch
    if images != dataset.manifest.images:
        raise DatasetError(
            f"{dataset.path} has {dataset.manifest.images:,} images by its manifest and {images:,} by its ledger: "
            f"run the stage that wrote it ({dataset.manifest.stage}) again."
        )


def _sources(keys: pa.StringArray) -> set[str]:
    """The sources that keys begin with: there are few, so each is looked for in all keys at once."""
    found = set()
    while len(keys):
        source = keys[0].as_py().partition("/")[0]
        found.add(source)
        ours = pc.or_(pc.starts_with(keys, f"{source}/"), pc.equal(keys, source))
        keys = keys.filter(pc.invert(ours))
    return found


def _check_sources(sources: set[str], owners: dict[str, Dataset], dataset: Dataset) -> None:
    for source in sorted(sources):
        if source in owners:
            raise DatasetError(
                f"two inputs hold a source named '{source}': {owners[source].path} and {dataset.path}. "
                "Their keys would collide: give each source a 'name' of its own "
                "(the same 'namespace' still merges their identities)."
            )
        owners[source] = dataset


def _refuse_duplicate(datasets: Sequence[Dataset], seed: int, hashes: Container[int]) -> None:
    seen: dict[bytes, Path] = {}
    for shard in (path for dataset in datasets for path in dataset.shards):
        for payload in read(shard):
            key = glanced(payload).key
            if key in seen:
                raise DatasetError(
                    f"two images have the key '{key.decode()}': in {seen[key]} and in {shard}. Keys must be unique: "
                    "run the stage that wrote this dataset again, and report it if that does not help."
                )
            if sampling_hash(seed, key) in hashes:
                seen[key] = shard
