"""The global shuffle: every record goes to the place that a hash of the seed and its key gives it.

Scatter reads each input shard once and writes a table of its records, bucket by bucket; a bucket becomes one output
shard: a range of hashes or, where identities stand together, some of them. Where the input is too large for this
machine's memory, or lies in an object store, scatter also copies the frames to a spill file in the order of the table,
so that a bucket's are together; otherwise they are read from where they are. Gather reads its bucket's rows out of all
tables, and the frames, and writes them in order, with their labels. So no record travels through the engine, scatter
holds at most one window of records, gather at most one shard, and any number of workers gives the same bytes.
"""

from __future__ import annotations

import io
from collections import deque
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import contents, files, tfrecord
from faceflow.components.common.beside import beside
from faceflow.components.common.contents import Contents
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.hashing import stable_hashes
from faceflow.components.common.index import INDEX_SCHEMA
from faceflow.components.common.ledger import Fate
from faceflow.components.common.record import glanced, variant_key
from faceflow.components.common.tfrecord import Window
from faceflow.components.common.wire import labelled
from faceflow.components.pack import plan as plans
from faceflow.components.pack import statistics, tables
from faceflow.components.pack.bucket import Bucketful
from faceflow.components.pack.plan import Plan
from faceflow.components.pack.survey import split_hashes

STAGE = "pack"
WINDOW_BYTES = 32 << 20

_BATCH = 128
_AHEAD = 8
_RANK_SHIFT = 40  # leaves 24 bits for the rank of an identity and 40 for the hash


def scatter_shard(
    shard: tuple[int, str],
    *,
    plan: str,
    spill: str,
    train: str,
    validation: str,
    seed: int,
    copying: bool,
    window_bytes: int = WINDOW_BYTES,
) -> None:
    """Say of one input shard's records where they go, and account for its source images.

    A source image goes to one side with all that was made of it: on the training side its augmented copies go along,
    on the validation side they, or the names of those that training would make, are left out, because validation
    measures faces as they come, and no copy of an image may be learnt from while the image is validated on.

    Args:
        shard: The shard's number, and its location.
        plan: Location of the plan.
        spill: Folder of what :func:`contents.cut` wrote, for the tables, and for the spill files.
        train: Folder of the training side, for its ledger.
        validation: Folder of the validation side, likewise.
        seed: The stage's seed.
        copying: Whether to copy the frames to a spill file.
        window_bytes: Frames are held in memory until they are so many bytes.

    Raises:
        DatasetError: The shard is damaged, or does not hold what its dataset's ledger names.
    """
    index, path = shard
    decided = plans.read(plan)
    held = contents.read(spill, index)
    rows = _rows(held, decided, seed)
    with (
        ShardWriter(train, decided.train_shards + index, stage=STAGE) as train_side,
        ShardWriter(validation, decided.validation_shards + index, stage=STAGE) as validation_side,
    ):
        _account(held, rows.validates, train_side, validation_side)
        table = np.zeros(len(rows.keys), tables.ROW)
        table["position"], table["label"] = rows.positions, rows.labels
        spilling = _Spill(tables.spill_file(spill, index), rows.buckets, window_bytes) if copying else None
        with spilling or nullcontext():
            begun = 0
            for window, places in contents.named(path, rows.keys):
                ended = begun + len(window)
                part = table[begun:ended]
                begins = np.array(window.begins, np.uint64)
                part["size"] = np.diff(begins)
                part["offset"] = begins[:-1] + window.place
                part["place"] = places
                if spilling:
                    spilling.add(window)
                begun = ended
        if spilling:
            table["offset"] = spilling.offsets
    # This comes last: a shard that has a table is scattered.
    tables.write(spill, index, table, rows.buckets, decided.buckets, rows.left_out)


@dataclass(frozen=True)
class _Rows:
    """Where a shard's records go.

    Attributes:
        keys: Their keys, UTF-8.
        buckets: (records,) -1 for those that are left out.
        positions: (records,) uint64: where they stand in their bucket.
        labels: (records,) int64.
        validates: (source images,) whether they are validated on.
        left_out: Images that are left out: records, and online variants.
    """

    keys: list[bytes]
    buckets: NDArray[np.int64]
    positions: NDArray[np.uint64]
    labels: NDArray[np.int64]
    validates: NDArray[np.bool_]
    left_out: int


def _rows(held: Contents, plan: Plan, seed: int) -> _Rows:
    owners = np.array([plan.places[name] for name in held.identities], np.int64)[held.codes]
    validates = np.zeros(len(owners), bool)
    competing = np.flatnonzero(plan.validation[owners] > 0)
    hashes = split_hashes(seed, held.keys.take(pa.array(competing)))
    validates[competing] = hashes <= plan.threshold[owners[competing]]
    sources = np.repeat(np.arange(len(owners)), held.records)
    keys: list[bytes] = held.keys.cast(pa.binary()).to_pylist()
    if len(sources) > len(keys):
        keys = _keys_of_records(held)
    copies = np.diff(sources, prepend=-1) == 0
    owners, validating = owners[sources], validates[sources]
    positions = stable_hashes((seed, "shuffle"), keys)
    if plan.grouped:
        buckets = np.where(validating, plan.train_shards + plan.validation_shard[owners], plan.train_shard[owners])
        ranks = plan.rank[owners].astype(np.uint64)
        positions = ranks << np.uint64(_RANK_SHIFT) | positions >> np.uint64(64 - _RANK_SHIFT)
    else:
        buckets = np.where(
            validating,
            plan.train_shards + _scaled(positions, plan.validation_shards),
            _scaled(positions, plan.train_shards),
        )
    buckets[validating & copies] = -1
    left_out = int((held.images - 1)[validates].sum())
    return _Rows(keys, buckets, positions, plan.label[owners], validates, left_out)


def _keys_of_records(held: Contents) -> list[bytes]:
    """The keys of source images and of the copies that were drawn of them."""
    names = zip(held.keys.to_pylist(), held.variants.to_pylist(), strict=True)
    return [(variant_key(key, name) if name else key).encode() for key, made in names for name in made]


def _scaled(positions: NDArray[np.uint64], shards: int) -> NDArray[np.int64]:
    """``position * shards / 2**64``, rounded down, in 64 bits."""
    high, low = positions >> np.uint64(32), positions & np.uint64(0xFFFFFFFF)
    count = np.uint64(shards)
    return (high * count + (low * count >> np.uint64(32)) >> np.uint64(32)).astype(np.int64)


def _account(held: Contents, validates: NDArray[np.bool_], train: ShardWriter, validation: ShardWriter) -> None:
    owners = held.owners
    # Images share few lists of variants.
    made = pc.binary_join(held.variants, "\n").dictionary_encode()
    fates = [Fate("kept", variants=tuple(names.split("\n"))) for names in made.dictionary.to_pylist()]
    codes = made.indices.to_numpy().astype(np.int64)
    for side, rows in ((train, np.flatnonzero(~validates)), (validation, np.flatnonzero(validates))):
        chosen = pa.array(rows)
        told = (fates, codes[rows]) if side is train else (_ITSELF, np.zeros(len(rows), np.int64))
        side.tell(held.keys.take(chosen), owners.take(chosen), *told)


_ITSELF = [Fate("kept", variants=("",))]


class _Spill:
    """Copies the frames of one input shard so that a bucket's are together within each window.

    The file appears under its name when the block ends well, so a shard scattered twice leaves one copy.

    Args:
        location: The spill file.
        buckets: (records,) the bucket of each record; -1 for those that are left out.
        window_bytes: How many bytes make a window.

    Attributes:
        offsets: (records,) uint64: where each frame is in the file.
    """

    def __init__(self, location: str, buckets: NDArray[np.int64], window_bytes: int) -> None:
        self._buckets = buckets
        self._window = window_bytes
        self._creation = files.create(location)
        self._frames: list[memoryview] = []
        self._bytes = 0
        self._begun = 0
        self._written = 0
        self.offsets = np.zeros(len(buckets), np.uint64)

    def add(self, window: Window) -> None:
        for _ in window.payloads():
            pass  # what is damaged is to be told of the input, not of the copy
        data = memoryview(window.data)
        self._frames += [data[begin:end] for begin, end in zip(window.begins, window.begins[1:], strict=False)]
        self._bytes += len(data)
        if self._bytes >= self._window:
            self._flush()

    def _flush(self) -> None:
        frames, self._frames, self._bytes = self._frames, [], 0
        ended = self._begun + len(frames)
        buckets = self._buckets[self._begun : ended]
        order = np.argsort(buckets, kind="stable")
        order = order[buckets[order] >= 0]
        sorted_frames = [frames[number] for number in order.tolist()]
        self._creation.file.write(b"".join(sorted_frames))
        sizes = np.array([len(frame) for frame in sorted_frames], np.uint64)
        ends = self._written + np.cumsum(sizes)
        self.offsets[self._begun + order] = ends - sizes
        self._written += int(sizes.sum())
        self._begun = ended

    def __enter__(self) -> _Spill:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._creation.discard()
            return
        self._flush()
        self._creation.commit()


def gather_shard(
    bucket: int, *, plan: str, spill: str, train: str, validation: str, compression: str, core_free: bool
) -> None:
    """Read one bucket's frames, sort them, and write them as one part of its side, with labels, index and counts.

    Args:
        bucket: Its number: the training shards first, then the validation shards.
        plan: Location of the plan.
        spill: The folder of the tables.
        train: Folder of the training side.
        validation: Folder of the validation side.
        compression: Of the shard, one of :data:`tfrecord.COMPRESSIONS`.
        core_free: Whether to decode, hash and write beside the work.

    Raises:
        DatasetError: A record is damaged, or two have the same key.
    """
    decided = plans.read(plan)
    training = bucket < decided.train_shards
    folder, part = (train, bucket) if training else (validation, bucket - decided.train_shards)
    counter = statistics.Counting(len(decided.classes), indexing=True)
    decoder = statistics.decoder()

    def count(payloads: list[bytes]) -> None:
        counter.add(decoder.DecodeBatch(payloads))

    sizes: list[int] = []
    with (
        Bucketful(spill, bucket) as bucketful,
        beside(core_free) as writing,
        beside(core_free) as counting,
        ShardWriter(
            folder, part, stage=STAGE, behind=writing, read_soon=False, compression=compression
        ) as out,
    ):
        underway: deque[Future[None]] = deque()
        for batch in bucketful.batches(_BATCH, _relabel_for_training if training else _relabel_for_validation):
            out.write_payloads(batch)
            sizes += [len(payload) + tfrecord.FRAMING_BYTES for payload in batch]
            underway.append(counting.submit(count, batch))
            if len(underway) > _AHEAD:
                underway.popleft().result()
        while underway:
            underway.popleft().result()
        found = counter.result()
        out.account(counter.identities, counter.variants)
    taken = np.array(sizes, np.int64)
    keys, labels = counter.keys_and_labels()
    shard = np.full(len(taken), part, np.int32)
    rows = pa.table([shard, np.cumsum(taken) - taken, taken.astype(np.int32), labels, keys], schema=INDEX_SCHEMA)
    index = io.BytesIO()
    pq.write_table(rows, index, compression="zstd")
    stem = files.join(folder, f"part-{part:05d}")
    files.write_bytes(f"{stem}.index.parquet", index.getvalue())
    files.write_bytes(f"{stem}.statistics", found.dump())


def _relabel_for_training(payload: bytes, place: int, label: int) -> bytes:
    return (labelled(payload, place, label) if place else None) or glanced(payload).with_label(label)


def _relabel_for_validation(payload: bytes, place: int, label: int) -> bytes:
    seen = glanced(payload)
    if seen.online:
        seen = glanced(seen.with_online_variants(()))
    return seen.with_label(label) if label != plans.NO_LABEL else seen.payload
