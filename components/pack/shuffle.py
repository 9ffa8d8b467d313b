"""The global shuffle: every record goes to the place that a hash of the seed and its key gives it.

Scatter reads each input shard once and appends its records, bucket by bucket, to one spill file; a bucket becomes one
output shard: a range of hashes or, where identities stand together, some of them. Gather reads its bucket out of every
spill file and sorts it. So no record travels through the engine, scatter holds at most one window of records, gather
at most one shard, and any number of workers gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import files
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash, stable_hasher
from faceflow.components.common.index import INDEX_SCHEMA
from faceflow.components.common.record import glanced
from faceflow.components.common.tfrecord import FRAMING_BYTES, framing, payload_of, read
from faceflow.components.common.wire import Glance
from faceflow.components.pack import plan as plans
from faceflow.components.pack import statistics

STAGE = "pack"
WINDOW_BYTES = 32 << 20

_BATCH = 256
_RANK_SHIFT = 40  # leaves 24 bits for the rank of an identity and 40 for the hash
_RUN = np.dtype([("bucket", "<i8"), ("spill", "<i8"), ("offset", "<i8"), ("count", "<i8"), ("bytes", "<i8")])


_Held = dict[int, tuple[list[int], list[int], list[bytes]]]  # by bucket: positions, sizes, and pieces of frames


def shuffle_hash(seed: int, key: str | bytes) -> int:
    """Where a record stands in the shuffle, from 0 to 2**64 - 1."""
    return stable_hash(seed, "shuffle", key)


def scatter_shard(
    shard: tuple[int, str],
    *,
    plan: str,
    spill: str,
    train: str,
    validation: str,
    seed: int,
    window_bytes: int = WINDOW_BYTES,
) -> None:
    """Label one input shard's records, send them to their buckets, and account for its source images.

    A source image goes to one side with all that was made of it: on the training side its augmented copies go along,
    on the validation side they, or the names of those that training would make, are left out, because validation
    measures faces as they come, and no copy of an image may be learnt from while the image is validated on.

    Args:
        shard: The shard's number, and its location.
        plan: Location of the plan.
        spill: Folder for the spill files.
        train: Folder of the training side, for its ledger.
        validation: Folder of the validation side, likewise.
        seed: The stage's seed.
        window_bytes: Records are held in memory until they are so many bytes.
    """
    index, path = shard
    decided = plans.read(plan)
    places, labels, taken = decided.places, decided.label.tolist(), decided.validation.tolist()
    shuffling, splitting = stable_hasher(seed, "shuffle"), stable_hasher(seed, "split")
    train_shards, validation_shards = decided.train_shards, decided.validation_shards
    with (
        ThreadPoolExecutor(1) as behind,
        _Spill(spill, index, window_bytes, behind) as out,
        ShardWriter(train, train_shards + index, stage=STAGE) as train_side,
        ShardWriter(validation, validation_shards + index, stage=STAGE) as validation_side,
    ):
        source, side, names, validates = b"", train_side, [""], False
        owner = b""
        for payload in read(path):
            seen = glanced(payload)
            key, variant = seen.key, seen.variant
            if not variant:
                if source:
                    side.kept(source, owner, names)
                source, owner = key, seen.identity
                place = places.get(owner)
                if place is None:
                    raise DatasetError(
                        f"{path}: image '{key.decode()}' is of an identity that the dataset's ledger does not name: "
                        "run the stage that wrote it again."
                    )
                label = labels[place]
                validates = taken[place] > 0 and splitting(key) <= decided.threshold[place]
                side, names = validation_side if validates else train_side, [""]
            elif key != source + b"#" + variant or seen.identity != owner:
                raise _lost_copy(path, seen, source)
            elif validates:
                out.left_out += 1
                continue
            else:
                names.append(variant.decode())
            if seen.online:
                if validates:
                    out.left_out += len(seen.online_variants)
                    seen = glanced(seen.with_online_variants(()))
                else:
                    names.extend(seen.online_variants)
            position = shuffling(key)
            if validates:
                bucket = train_shards + (
                    int(decided.validation_shard[place]) if decided.grouped else position * validation_shards >> 64
                )
            else:
                bucket = int(decided.train_shard[place]) if decided.grouped else position * train_shards >> 64
            if decided.grouped:
                position = int(decided.rank[place]) << _RANK_SHIFT | position >> 64 - _RANK_SHIFT
            out.add(bucket, position, seen.with_label(label) if label != plans.NO_LABEL else seen.payload)
        if source:
            side.kept(source, owner, names)


def _lost_copy(path: str, seen: Glance, source: bytes) -> DatasetError:
    return DatasetError(
        f"{path}: '{seen.key.decode()}' is an augmented copy ({seen.variant.decode()}), but the image before it is "
        f"'{source.decode()}': a copy must follow its source image, as augment writes it. Give pack a dataset that "
        "augment wrote."
    )


class _Spill:
    """One input shard's records, grouped by bucket within each window.

    A run is what one window has for one bucket: the positions of its records, their lengths, and the framed records.
    The files appear under their names when the block ends well, so a shard scattered twice leaves one copy.
    """

    def __init__(self, folder: str, index: int, window_bytes: int, behind: Executor) -> None:
        self.left_out = 0
        self._index = index
        self._stem = files.join(folder, f"spill-{index:05d}")
        self._creation = files.create(f"{self._stem}.bin")
        self._window = window_bytes
        self._behind = behind
        self._underway: Future[None] | None = None
        self._held: _Held = {}
        self._held_bytes = 0
        self._offset = 0
        self._runs: list[tuple[int, int, int, int, int]] = []

    def add(self, bucket: int, position: int, payload: bytes) -> None:
        held = self._held.get(bucket)
        if held is None:
            held = self._held[bucket] = ([], [], [])
        positions, sizes, pieces = held
        size = len(payload) + FRAMING_BYTES
        positions.append(position)
        sizes.append(size)
        pieces += framing(payload)
        self._held_bytes += size
        if self._held_bytes >= self._window:
            self._flush()

    def _flush(self) -> None:
        self._wait()
        held, self._held, self._held_bytes = self._held, {}, 0
        self._underway = self._behind.submit(self._write, held)

    def _wait(self) -> None:
        if self._underway is not None:
            underway, self._underway = self._underway, None
            underway.result()

    def _write(self, held: _Held) -> None:
        for bucket, (positions, sizes, pieces) in sorted(held.items()):
            run = b"".join((np.array(positions, "<u8").tobytes(), np.array(sizes, "<u4").tobytes(), *pieces))
            self._creation.file.write(run)
            self._runs.append((bucket, self._index, self._offset, len(sizes), len(run)))
            self._offset += len(run)

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
            self._wait()
        except BaseException:
            self._creation.discard()
            raise
        if kind is not None:
            self._creation.discard()
            return
        self._creation.commit()
        contents = io.BytesIO()
        np.savez(contents, runs=np.array(self._runs, _RUN), left_out=self.left_out)
        # The table of contents comes last: a spill file that has one is complete.
        files.write_bytes(f"{self._stem}.npz", contents.getvalue())


def index_spills(spill: str, shards: int, buckets: int) -> int:
    """Join the spill files' tables of contents into one, sorted by bucket.

    Args:
        spill: The folder of the spill files.
        shards: How many there are.
        buckets: How many buckets there are.

    Returns:
        How many augmented copies were left out, over all shards.
    """
    tables, left_out = [np.empty(0, _RUN)], 0
    for index in range(shards):
        contents = io.BytesIO(files.read_bytes(files.join(spill, f"spill-{index:05d}.npz")))
        with np.load(contents) as found:
            tables.append(found["runs"])
            left_out += int(found["left_out"])
    runs = np.sort(np.concatenate(tables), order=["bucket", "spill", "offset"])
    begins = np.searchsorted(runs["bucket"], np.arange(buckets + 1)).astype("<i8")
    files.write_bytes(files.join(spill, "runs.bin"), begins.tobytes() + runs.tobytes())
    return left_out


def _runs(spill: str, bucket: int, buckets: int) -> NDArray[np.void]:
    with files.open_read(files.join(spill, "runs.bin")) as file:
        file.seek(8 * bucket)
        begin, end = np.frombuffer(file.read(16), "<i8").tolist()
        file.seek(8 * (buckets + 1) + _RUN.itemsize * begin)
        return np.frombuffer(file.read(_RUN.itemsize * (end - begin)), _RUN)


def gather_shard(bucket: int, *, plan: str, spill: str, train: str, validation: str, compression: str) -> None:
    """Read one bucket out of every spill file, sort it, and write it as one part of its side, with index and counts.

    Args:
        bucket: Its number: the training shards first, then the validation shards.
        plan: Location of the plan.
        spill: The folder of the spill files.
        train: Folder of the training side.
        validation: Folder of the validation side.
        compression: Of the shard, one of :data:`tfrecord.COMPRESSIONS`.

    Raises:
        DatasetError: Two records have the same key.
    """
    decided = plans.read(plan)
    folder, part = (train, bucket) if bucket < decided.train_shards else (validation, bucket - decided.train_shards)
    bucketful = _Bucketful.read(spill, bucket, decided.buckets)
    counter = statistics.Counting(len(decided.classes), indexing=True)
    decoder = statistics.decoder()
    with (
        ThreadPoolExecutor(1) as behind,
        ShardWriter(folder, part, stage=STAGE, behind=behind, compression=compression) as out,
    ):
        for frames in bucketful.batches(_BATCH):
            for frame in frames:
                out.write_frame(frame)
            counter.add(decoder.DecodeBatch([payload_of(frame) for frame in frames]))
        found = counter.result()
        out.account(counter.identities, counter.variants)
    sizes = bucketful.end - bucketful.begin
    keys, labels = counter.keys_and_labels()
    shard = np.full(len(sizes), part, np.int32)
    rows = pa.table([shard, np.cumsum(sizes) - sizes, sizes.astype(np.int32), labels, keys], schema=INDEX_SCHEMA)
    index = io.BytesIO()
    pq.write_table(rows, index, compression="zstd")
    stem = files.join(folder, f"part-{part:05d}")
    files.write_bytes(f"{stem}.index.parquet", index.getvalue())
    files.write_bytes(f"{stem}.statistics", found.dump())


@dataclass(frozen=True)
class _Bucketful:
    """All records of a bucket, in memory, and their order.

    Attributes:
        runs: The bytes of the runs.
        run: (records,) which run each record is in, in order of the records' positions.
        begin: (records,) where in it its frame begins.
        end: (records,) where it ends.
    """

    runs: list[memoryview]
    run: NDArray[np.int64]
    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    @classmethod
    def read(cls, spill: str, bucket: int, buckets: int) -> _Bucketful:
        """Read the runs and find the order.

        Raises:
            DatasetError: Two records have the same key.
        """
        table = _runs(spill, bucket, buckets)
        runs = [memoryview(run) for run in _contents(spill, table)]
        positions, lengths, begins = [np.empty(0, np.uint64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for count, contents in zip(table["count"].tolist(), runs, strict=True):
            positions.append(np.frombuffer(contents, "<u8", count))
            lengths.append(np.frombuffer(contents, "<u4", count, 8 * count).astype(np.int64))
            begins.append(12 * count + np.cumsum(lengths[-1]) - lengths[-1])
        place, begin = np.concatenate(positions), np.concatenate(begins)
        end = begin + np.concatenate(lengths)
        run = np.repeat(np.arange(len(runs)), table["count"])
        order = np.argsort(place, kind="stable")
        found = cls(runs, run[order], begin[order], end[order])
        found._break_ties(place[order])
        return found

    def frame(self, record: int) -> memoryview:
        """One record with its framing."""
        run, begin, end = (int(column[record]) for column in (self.run, self.begin, self.end))
        return self.runs[run][begin:end]

    def batches(self, size: int) -> Iterator[list[memoryview]]:
        """The framed records in order, so many at a time."""
        runs = self.runs
        for start in range(0, len(self.run), size):
            chosen = slice(start, start + size)
            where = zip(self.run[chosen].tolist(), self.begin[chosen].tolist(), self.end[chosen].tolist(), strict=True)
            yield [runs[run][begin:end] for run, begin, end in where]

    def _break_ties(self, positions: NDArray[np.uint64]) -> None:
        """Put records of equal positions in the order of their keys: hashes can meet, keys cannot."""
        same = np.flatnonzero(positions[1:] == positions[:-1])
        for group in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else []:
            tied = np.arange(group[0], group[-1] + 2)
            keys = [glanced(payload_of(self.frame(record))).key for record in tied.tolist()]
            order = sorted(range(len(keys)), key=keys.__getitem__)
            for one, other in zip(order, order[1:], strict=False):
                if keys[one] == keys[other]:
                    raise DatasetError(
                        f"two images have the key '{keys[one].decode()}'. Keys must be unique: give each source a "
                        "'name' of its own and run augment again."
                    )
            for column in (self.run, self.begin, self.end):
                column[tied] = column[tied[order]]


def _contents(spill: str, runs: NDArray[np.void]) -> Iterator[bytes]:
    begin = 0
    while begin < len(runs):
        number = int(runs["spill"][begin])
        end = int(np.searchsorted(runs["spill"], number, side="right"))
        with files.open_read(files.join(spill, f"spill-{number:05d}.bin"), 0) as file:
            for offset, size in zip(runs["offset"][begin:end].tolist(), runs["bytes"][begin:end].tolist(), strict=True):
                file.seek(offset)
                yield file.read(size)
        begin = end
