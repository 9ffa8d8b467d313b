"""The global shuffle: every record goes to the place that a hash of the seed and its key gives it.

Scatter reads each input shard once and appends its records, bucket by bucket, to one spill file; a bucket is a range
of hashes and becomes one output shard. Gather reads its bucket out of every spill file and sorts it. So no record
travels through the engine, scatter holds at most one window of records, gather at most one shard, and any number of
workers gives the same bytes.
"""

from __future__ import annotations

import os
import struct
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.layout import TRAIN, VALIDATION
from faceflow.components.common.record import Record
from faceflow.components.pack import plan as plans
from faceflow.components.pack.survey import split_hash, walk

STAGE = "pack"
WINDOW_BYTES = 64 << 20

_FRAME = struct.Struct("<QI")  # shuffle hash, length of the payload that follows
_RUN = np.dtype([("bucket", np.int64), ("spill", np.int64), ("offset", np.int64), ("bytes", np.int64)])


def shuffle_hash(seed: int, key: str) -> int:
    """Where a record stands in the shuffle, from 0 to 2**64 - 1."""
    return stable_hash(seed, "shuffle", key)


def scatter_shard(
    shard: tuple[int, str], *, plan: str, spill: str, output: str, seed: int, window_bytes: int = WINDOW_BYTES
) -> None:
    """Label one input shard's records, send them to their buckets, and account for its source images.

    A source image goes to one side with all that was made of it: on the training side its augmented copies go along,
    on the validation side they are left out, because validation measures faces as they come, and no copy of an image
    may be learnt from while the image is validated on.

    Args:
        shard: The shard's number, and its path.
        plan: Path of the plan.
        spill: Directory for the spill files.
        output: The packed dataset's directory, for the ledgers.
        seed: The stage's seed.
        window_bytes: Records are held in memory until they are so many bytes.
    """
    index, path = shard
    decided = plans.read(plan)
    with (
        _Spill(Path(spill), index, window_bytes) as out,
        ShardWriter(Path(output) / TRAIN, decided.train_shards + index, stage=STAGE) as train,
        ShardWriter(Path(output) / VALIDATION, decided.validation_shards + index, stage=STAGE) as validation,
    ):
        pending: tuple[ShardWriter, str, str, list[str]] | None = None
        validates = False
        for payload, key, identity, variant, source in walk(Path(path)):
            place = decided.places[identity]
            if not variant:
                _account(pending)
                validates = place.validates(split_hash(seed, source))
                pending = (validation if validates else train, source, identity, [])
            if validates and variant:
                out.left_out += 1
                continue
            assert pending is not None  # walk() yields a source image before its copies
            pending[3].append(variant)
            position = shuffle_hash(seed, key)
            shards = decided.validation_shards if validates else decided.train_shards
            bucket = (position * shards >> 64) + (decided.train_shards if validates else 0)
            out.add(bucket, position, replace(Record.decode(payload), label=place.label).encode())
        _account(pending)


def _account(pending: tuple[ShardWriter, str, str, list[str]] | None) -> None:
    if pending is not None:
        writer, key, identity, variants = pending
        writer.kept(key, identity, variants)


class _Spill:
    """One input shard's records, grouped by bucket within each window.

    The files appear under their names when the block ends well, so a shard scattered twice leaves one copy.
    """

    def __init__(self, directory: Path, index: int, window_bytes: int) -> None:
        self.left_out = 0
        self._index = index
        self._stem = directory / f"spill-{index:05d}"
        self._aside = Path(f"{self._stem}.{uuid.uuid4().hex}")
        self._file = open(self._aside, "wb")  # noqa: SIM115 - closed when the block ends
        self._window = window_bytes
        self._held: dict[int, list[bytes]] = {}
        self._held_bytes = 0
        self._offset = 0
        self._runs: list[tuple[int, int, int, int]] = []

    def add(self, bucket: int, position: int, payload: bytes) -> None:
        self._held.setdefault(bucket, []).append(_FRAME.pack(position, len(payload)) + payload)
        self._held_bytes += _FRAME.size + len(payload)
        if self._held_bytes >= self._window:
            self._flush()

    def _flush(self) -> None:
        for bucket, frames in sorted(self._held.items()):
            run = b"".join(frames)
            self._file.write(run)
            self._runs.append((bucket, self._index, self._offset, len(run)))
            self._offset += len(run)
        self._held = {}
        self._held_bytes = 0

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._file.close()
        if kind is not None:
            self._aside.unlink(missing_ok=True)
            return
        runs = Path(f"{self._aside}.npz")
        np.savez(runs, runs=np.array(self._runs, _RUN), left_out=self.left_out)
        os.replace(self._aside, f"{self._stem}.bin")
        os.replace(runs, f"{self._stem}.npz")


def index_spills(spill: str, shards: int) -> int:
    """Join the spill files' tables of contents into one, sorted by bucket.

    Args:
        spill: The directory of the spill files.
        shards: How many there are.

    Returns:
        How many augmented copies were left out, over all shards.
    """
    tables, left_out = [], 0
    for index in range(shards):
        with np.load(Path(spill) / f"spill-{index:05d}.npz") as contents:
            tables.append(contents["runs"])
            left_out += int(contents["left_out"])
    np.save(Path(spill) / "runs.npy", np.sort(np.concatenate(tables), order=["bucket", "spill", "offset"]))
    return left_out


def gather_shard(bucket: int, *, plan: str, spill: str, output: str) -> None:
    """Read one bucket out of every spill file, sort it, and write it as one part of its side.

    Args:
        bucket: Its number: the training shards first, then the validation shards.
        plan: Path of the plan.
        spill: The directory of the spill files.
        output: The packed dataset's directory.
    """
    train_shards = plans.read(plan).train_shards
    runs = np.load(Path(spill) / "runs.npy", mmap_mode="r")
    begin, end = np.searchsorted(runs["bucket"], [bucket, bucket + 1])
    side, part = (TRAIN, bucket) if bucket < train_shards else (VALIDATION, bucket - train_shards)
    with ShardWriter(Path(output) / side, part, stage=STAGE) as out:
        for _, payload in sorted(_frames(Path(spill), runs[begin:end])):
            out.write_payload(payload)


def _frames(spill: Path, runs: NDArray[np.void]) -> Iterator[tuple[int, bytes]]:
    file: IO[bytes] | None = None
    opened = -1
    try:
        for _, index, offset, size in runs.tolist():
            if index != opened or file is None:
                if file is not None:
                    file.close()
                file, opened = open(spill / f"spill-{index:05d}.bin", "rb"), index  # noqa: SIM115 - closed below
            file.seek(offset)
            run = file.read(size)
            place = 0
            while place < size:
                position, length = _FRAME.unpack_from(run, place)
                place += _FRAME.size
                yield position, run[place : place + length]
                place += length
    finally:
        if file is not None:
            file.close()


def numbered(paths: Sequence[Path]) -> list[tuple[int, str]]:
    """Shards as the engine's elements: number and path."""
    return [(index, str(path)) for index, path in enumerate(paths)]
