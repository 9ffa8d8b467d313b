"""The tables between the two halves of the shuffle: where each record goes, and where its frame is.

Scatter writes one of each input shard, bucket by bucket. :func:`index` puts their cuts together, so that gather reads
the rows of its bucket alone.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import files

ROW = np.dtype([("position", "<u8"), ("offset", "<u8"), ("size", "<u4"), ("place", "<u4"), ("label", "<i8")])
_SPANS = "spans.bin"
_SOURCES = "sources.json"


def spill_file(spill: str, index: int) -> str:
    """Location of the copies of one input shard's frames, where they are copied."""
    return files.join(spill, f"spill-{index:05d}.bin")


def write(
    spill: str, index: int, table: NDArray[np.void], buckets: NDArray[np.int64], count: int, left_out: int
) -> None:
    """Write one input shard's table.

    Args:
        spill: The folder of the tables.
        index: The shard's number.
        table: (records,) of :data:`ROW`: its place in its bucket, where the frame is and how long, where in the
            payload its label belongs, and its label.
        buckets: (records,) the bucket of each; -1 for one that is left out.
        count: How many buckets there are.
        left_out: Images that are left out.
    """
    order = np.argsort(buckets, kind="stable")
    cuts = np.searchsorted(buckets[order], np.arange(count + 1))
    files.write_bytes(_table(spill, index), table[order].tobytes())
    told = io.BytesIO()
    np.savez(told, cuts=cuts, left_out=left_out)
    files.write_bytes(_cuts(spill, index), told.getvalue())


def index(spill: str, shards: Sequence[str], buckets: int, *, copied: bool) -> int:
    """Write down, for each bucket, which rows of which tables it has, and where their frames are.

    Args:
        spill: The folder of the tables.
        shards: Locations of the input shards.
        buckets: How many buckets there are.
        copied: Whether the frames were copied to spill files.

    Returns:
        How many images were left out, over all shards.
    """
    spans = np.zeros((buckets, len(shards), 2), "<u4")
    left_out = 0
    for number in range(len(shards)):
        with np.load(io.BytesIO(files.read_bytes(_cuts(spill, number)))) as told:
            spans[:, number, 0], spans[:, number, 1] = told["cuts"][:-1], told["cuts"][1:]
            left_out += int(told["left_out"])
    files.write_bytes(files.join(spill, _SPANS), spans.tobytes())
    sources = [spill_file(spill, number) for number in range(len(shards))] if copied else list(shards)
    files.write_bytes(files.join(spill, _SOURCES), json.dumps({"copied": copied, "files": sources}).encode())
    return left_out


@dataclass(frozen=True)
class Rows:
    """The rows of one bucket.

    Attributes:
        table: (records,) of :data:`ROW`, input shard by input shard.
        sources: (records,) the number of each one's file.
        files: The files that hold the frames.
        copied: Whether these are spill files, in which the bucket's frames are together.
    """

    table: NDArray[np.void]
    sources: NDArray[np.int64]
    files: list[str]
    copied: bool


def read(spill: str, bucket: int) -> Rows:
    """Read the rows of one bucket out of all tables."""
    told = json.loads(files.read_bytes(files.join(spill, _SOURCES)))
    count = len(told["files"])
    with files.open_read(files.join(spill, _SPANS), 0) as file:
        file.seek(8 * count * bucket)
        spans = np.frombuffer(file.read(8 * count), "<u4").reshape(-1, 2)
    parts = [np.empty(0, ROW)]
    filled = np.flatnonzero(spans[:, 1] > spans[:, 0]).tolist()
    for number in filled:
        begin, end = spans[number].tolist()
        with files.open_read(_table(spill, number), 0) as file:
            file.seek(ROW.itemsize * begin)
            parts.append(np.frombuffer(file.read(ROW.itemsize * (end - begin)), ROW))
    sources = np.repeat(np.array(filled, np.int64), [len(part) for part in parts[1:]])
    return Rows(np.concatenate(parts), sources, told["files"], told["copied"])


def _table(spill: str, index: int) -> str:
    return files.join(spill, f"table-{index:05d}.bin")


def _cuts(spill: str, index: int) -> str:
    return files.join(spill, f"cuts-{index:05d}.npz")
