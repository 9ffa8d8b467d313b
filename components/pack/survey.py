"""The first pass over the faces: what each identity has, from keys and sizes alone. No image is decoded.

A *source image* is a record that is not an augmented copy; its copies carry its key with ``#<variant>`` appended and
follow it directly, as augment writes them. The split is made over source images, so that a copy is never parted from
the image that it was made of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.record import peek, variant_key
from faceflow.components.common.tfrecord import read

_SCHEMA = pa.schema(
    [
        ("identity", pa.string()),
        ("hashes", pa.list_(pa.uint64())),
        ("records", pa.int64()),
        ("source_bytes", pa.int64()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True, slots=True)
class Owned:
    """What one identity has.

    Attributes:
        hashes: Sorted split hashes of its source images.
        records: Its records, augmented copies included.
        source_bytes: Bytes of the records of its source images.
        bytes: Bytes of all its records.
    """

    hashes: NDArray[np.uint64]
    records: int
    source_bytes: int
    bytes: int


Survey = Mapping[str, Owned]


def split_hash(seed: int, key: str) -> int:
    """The number by which source images of one identity compete for validation: the smallest go there."""
    return stable_hash(seed, "split", key)


def walk(path: Path) -> Iterator[tuple[bytes, str, str, str, str]]:
    """Yield a shard's records with the source image that each belongs to.

    Yields:
        Payload, key, identity, variant, and key of the source image.

    Raises:
        DatasetError: An augmented copy does not follow its source image.
    """
    source = ""
    for payload in read(path):
        key, identity, variant = peek(payload)
        if not variant:
            source = key
        elif key != variant_key(source, variant):
            raise DatasetError(
                f"{path}: '{key}' is an augmented copy ({variant}), but the image before it is '{source}': "
                "a copy must follow its source image, as augment writes it. Give pack a dataset that augment wrote."
            )
        yield payload, key, identity, variant, source


def survey_shard(shard: tuple[int, str], *, directory: str, seed: int) -> None:
    """Survey one shard, into a Parquet file with a row an identity.

    Args:
        shard: The shard's number, and its path.
        directory: Where the file is written, under the shard's number.
        seed: The stage's seed.
    """
    index, path = shard
    hashes: dict[str, list[int]] = defaultdict(list)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for payload, key, identity, variant, _ in walk(Path(path)):
        count = counts[identity]
        count[0] += 1
        count[2] += len(payload)
        if not variant:
            hashes[identity].append(split_hash(seed, key))
            count[1] += len(payload)
    columns = [list(counts), [hashes[identity] for identity in counts], *map(list, zip(*counts.values(), strict=True))]
    if not counts:
        columns = [[] for _ in _SCHEMA]
    pq.write_table(pa.table(columns, schema=_SCHEMA), _file(directory, index))


def merge(directory: str, shards: int) -> Survey:
    """Put the shards' surveys together.

    Raises:
        DatasetError: Two source images have the same key.
    """
    hashes: dict[str, list[NDArray[np.uint64]]] = defaultdict(list)
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(3, np.int64))
    for index in range(shards):
        table = pq.read_table(_file(directory, index))
        numbers = np.column_stack([table[name].to_numpy() for name in ("records", "source_bytes", "bytes")])
        for identity, values, count in zip(table["identity"].to_pylist(), table["hashes"], numbers, strict=True):
            hashes[identity].append(values.values.to_numpy())
            counts[identity] += count
    merged = {}
    for identity in sorted(hashes):
        own = np.sort(np.concatenate(hashes[identity]))
        if (own[1:] == own[:-1]).any():
            raise DatasetError(
                f"two images of identity '{identity}' have the same key. Keys must be unique: give each source a "
                "'name' of its own and run augment again."
            )
        merged[identity] = Owned(own, *(int(number) for number in counts[identity]))
    return merged


def _file(directory: str, index: int) -> Path:
    return Path(directory) / f"survey-{index:05d}.parquet"
