"""The first pass: how many images each identity has, and a hash of each image's key. No image is decoded.

Each shard gives one Parquet file with a row an identity, so shards are counted independently; :func:`merge` puts them
together. Which images a sample takes is decided by the hashes alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.record import peek
from faceflow.components.common.tfrecord import read

Census = Mapping[str, NDArray[np.uint64]]

_SCHEMA = pa.schema([("identity", pa.string()), ("hashes", pa.list_(pa.uint64()))])
_SOURCES = b"sources"


def sampling_hash(seed: int, key: str) -> int:
    """The number by which images of one identity compete to be sampled: the smallest win."""
    return stable_hash(seed, "sample", key)


def source_of(key: str) -> str:
    """The source's name, with which every key begins."""
    return key.partition("/")[0]


def count_shard(shard: tuple[int, str], *, directory: str, seed: int) -> None:
    """Count one shard.

    Args:
        shard: The shard's number over all inputs, and its path.
        directory: Where the counts are written, under the shard's number.
        seed: The stage's seed.

    Raises:
        DatasetError: The shard holds augmented images already.
    """
    index, path = shard
    hashes: dict[str, list[int]] = defaultdict(list)
    sources: set[str] = set()
    for payload in read(Path(path)):
        key, identity, variant = peek(payload)
        if variant:
            raise DatasetError(
                f"{path}: image '{key}' is an augmented copy ({variant}): give augment the datasets that align wrote."
            )
        hashes[identity].append(sampling_hash(seed, key))
        sources.add(source_of(key))
    table = pa.table([list(hashes), list(hashes.values())], schema=_SCHEMA)
    table = table.replace_schema_metadata({_SOURCES: "\n".join(sorted(sources))})
    pq.write_table(table, _file(directory, index))


def merge(directory: str, datasets: Sequence[Dataset]) -> Census:
    """Put the shards' counts together, and check that the datasets go together.

    Args:
        directory: Where :func:`count_shard` wrote.
        datasets: The inputs, in the order in which their shards were numbered.

    Returns:
        For every identity, the sampling hashes of its images.

    Raises:
        DatasetError: Two datasets hold a source of the same name, or two images have the same key.
    """
    hashes: dict[str, list[NDArray[np.uint64]]] = defaultdict(list)
    owners: dict[str, Dataset] = {}
    index = 0
    for dataset in datasets:
        sources: set[str] = set()
        for _ in dataset.shards:
            table = pq.read_table(_file(directory, index))
            sources.update((table.schema.metadata or {}).get(_SOURCES, b"").decode().split("\n"))
            for identity, values in zip(table["identity"].to_pylist(), table["hashes"], strict=True):
                hashes[identity].append(values.values.to_numpy())
            index += 1
        for source in sorted(sources - {""}):
            if source in owners:
                raise DatasetError(
                    f"two inputs hold a source named '{source}': {owners[source].path} and {dataset.path}. "
                    "Their keys would collide: give each source a 'name' of its own "
                    "(the same 'namespace' still merges their identities)."
                )
            owners[source] = dataset
    census = {identity: np.sort(np.concatenate(parts)) for identity, parts in sorted(hashes.items())}
    for identity, values in census.items():
        if len(values) > 1 and (values[1:] == values[:-1]).any():
            _refuse_duplicate(datasets, identity)
    return census


def _refuse_duplicate(datasets: Sequence[Dataset], identity: str) -> None:
    seen: dict[str, Path] = {}
    for shard in (path for dataset in datasets for path in dataset.shards):
        for payload in read(shard):
            key, owner, _ = peek(payload)
            if owner == identity and key in seen:
                raise DatasetError(
                    f"two images have the key '{key}': in {seen[key]} and in {shard}. Keys must be unique: "
                    "run the stage that wrote this dataset again, and report it if that does not help."
                )
            seen[key] = shard


def _file(directory: str, index: int) -> Path:
    return Path(directory) / f"census-{index:05d}.parquet"
