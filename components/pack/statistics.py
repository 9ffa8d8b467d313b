"""Statistics of the packed shards, as tfx-bsl reads them through the checked-in schema.

The reader is not the writer's code: tfx-bsl's decoder, the one inside TFXIO, parses every record with ``schema.pbtxt``
into record batches, and everything is counted over these with pyarrow and numpy. While the shards are written each
worker counts its own, since to import TensorFlow and read everything once more costs more than the packing itself;
:func:`measure` does that, through the whole of TFXIO, where it is asked for.
"""

from __future__ import annotations

import glob
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faceflow.components.common.logs import holding_back_native_chatter
from faceflow.components.common.record import ONLINE_VARIANTS, SCHEMA_PATH
from faceflow.components.common.tfrecord import read

_BATCH = 256
_TOGETHER = 1 << 11  # more, and what is held of the batches splits up the heap that the decoder works in
_IMAGE = "image/encoded"


@dataclass
class Statistics:
    """Statistics of one side of the split.

    Attributes:
        records: Records, readable or not.
        unreadable: Records that the schema's decoder refuses: no Example, or a field of another type.
        missing: Readable records without the field, for every field of the schema.
        misfits: Readable records that have the field with too few or too many values, or a label without an identity.
        images_per_label: For every label, its records and their online variants.
        variants: Images by variant, written or online; '' counts the source images.
        image_sizes: Records by ``<width>x<height>``.
        image_kilobytes: Records by size of the encoded image, in whole kilobytes of 1,000 bytes.
        image_bytes_total: Bytes of all encoded images.
    """

    records: int = 0
    unreadable: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    misfits: dict[str, int] = field(default_factory=dict)
    images_per_label: list[int] = field(default_factory=list)
    variants: dict[str, int] = field(default_factory=dict)
    image_sizes: dict[str, int] = field(default_factory=dict)
    image_kilobytes: dict[str, int] = field(default_factory=dict)
    image_bytes_total: int = 0

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values."""
        return asdict(self)

    def dump(self) -> bytes:
        """One part's statistics for :func:`total`; of the labels only those that occur, which in a part are few."""
        labels = np.array(self.images_per_label, np.int64)
        seen = np.flatnonzero(labels)
        per_label = dict(zip(seen.tolist(), labels[seen].tolist(), strict=True))
        return json.dumps({**vars(self), "images_per_label": per_label}).encode()

    def faults(self, labelled: bool = True) -> dict[str, int]:
        """What may not occur in packed shards, by description, where it occurs.

        Args:
            labelled: Whether the records must have a label; otherwise they may have none.
        """
        required = {f"records without {name}": self.missing.get(name, 0) for name in _required()}
        unlabelled = self.missing.get("label", 0)
        if labelled:
            required["records without label"] = unlabelled
        else:
            required["records with label"] = self.records - self.unreadable - unlabelled
        wrong = {f"records with a wrong {name}": count for name, count in self.misfits.items()}
        found = {"unreadable records": self.unreadable} | required | wrong
        return {what: count for what, count in found.items() if count}


def total(parts: Iterable[bytes], labels: int) -> Statistics:
    """Add up what parts counted.

    Args:
        parts: What :meth:`Statistics.dump` gave.
        labels: Number of classes.
    """
    found = Counting(labels).result()
    per_label = np.zeros(labels, np.int64)
    mappings = ("missing", "misfits", "variants", "image_sizes", "image_kilobytes")
    sums = {name: Counter(getattr(found, name)) for name in mappings}
    for part in parts:
        told = json.loads(part)
        for name in ("records", "unreadable", "image_bytes_total"):
            setattr(found, name, getattr(found, name) + told[name])
        for name in mappings:
            sums[name].update(told[name])
        for label, images in told["images_per_label"].items():
            per_label[int(label)] += images
    for name in mappings:
        setattr(found, name, dict(sums[name]))
    return _ordered(found, per_label)


def _ordered(found: Statistics, per_label: NDArray[np.int64]) -> Statistics:
    found.images_per_label = per_label.tolist()
    found.variants = dict(sorted(found.variants.items()))
    found.image_sizes = dict(sorted(found.image_sizes.items(), key=lambda item: (-item[1], item[0])))
    found.image_kilobytes = dict(sorted(found.image_kilobytes.items(), key=lambda item: int(item[0])))
    return found


def measure(shards: Sequence[Path], labels: int) -> Statistics:
    """Read shards through TFXIO, which imports TensorFlow, and count.

    Args:
        shards: TFRecord files.
        labels: Number of classes; a label outside 0 to ``labels - 1`` does not fit.
    """
    counter = Counting(labels)
    for shard in shards:
        for batch in _batches(shard):
            if batch is None:
                counter.add_unreadable()
            else:
                counter.add(batch)
    return counter.result()


def decoder() -> Any:
    """tfx-bsl's decoder of serialised records to record batches, with the checked-in schema."""
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    return ExamplesToRecordBatchDecoder(_schema().SerializeToString())


@lru_cache(maxsize=1)
def _schema() -> Any:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    return text_format.Parse(SCHEMA_PATH.read_text(encoding="utf-8"), schema_pb2.Schema())


def _required() -> list[str]:
    return [feature.name for feature in _schema().feature if feature.presence.min_fraction == 1.0]


def _batches(shard: Path) -> Iterator[pa.RecordBatch | None]:
    """Yield a shard's record batches, and None for each record that cannot be read."""
    with holding_back_native_chatter():
        from tfx_bsl.public import tfxio

    source = tfxio.TFExampleRecord(
        glob.escape(str(shard)), schema=_schema(), telemetry_descriptors=["faceflow", "pack"]
    )
    options = tfxio.RecordBatchesOptions(batch_size=_BATCH, num_epochs=1, shuffle=False)
    done = 0
    try:
        for batch in source.RecordBatches(options):
            done += batch.num_rows
            yield batch
    except RuntimeError:
        # The decoder refuses a whole batch for one bad record; from there on the records are decoded one by one.
        yield from _one_by_one(shard, done)


def _one_by_one(shard: Path, begin: int) -> Iterator[pa.RecordBatch | None]:
    single = decoder()
    for number, payload in enumerate(read(shard)):
        if number < begin:
            continue
        try:
            yield single.DecodeBatch([payload])
        except RuntimeError:
            yield None
            single = decoder()  # one that has failed refuses whatever comes after


class Counting:
    """Adds up record batches.

    Args:
        labels: Number of classes.
        indexing: Whether to keep keys and labels for :meth:`keys_and_labels`.

    Attributes:
        identities: Names of the identities, UTF-8, when everything is counted.
    """

    def __init__(self, labels: int, *, indexing: bool = False) -> None:
        """Start from nothing."""
        self._bounds = {feature.name: _value_count(feature) for feature in _schema().feature}
        self._statistics = Statistics(missing=dict.fromkeys(self._bounds, 0), misfits=dict.fromkeys(self._bounds, 0))
        self._per_label = np.zeros(labels, np.int64)
        self._variants: Counter[str] = Counter()
        self._sizes: Counter[int] = Counter()
        self._kilobytes: Counter[int] = Counter()
        self.identities: set[bytes] = set()
        self._indexing = indexing
        self._keys: list[pa.Array] = []
        self._labels: list[pa.Array] = []
        self._held: list[pa.RecordBatch] = []
        self._held_rows = 0

    def add_unreadable(self) -> None:
        """Count a record that cannot be read."""
        self._statistics.records += 1
        self._statistics.unreadable += 1

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch."""
        # Of the images only the sizes are needed, and many small batches cost more to count than one large.
        place = batch.schema.get_field_index(_IMAGE)
        images = batch.column(place)
        sizes = pa.ListArray.from_arrays(
            images.offsets,
            pc.binary_length(images.values).cast(pa.int64()),
            mask=images.is_null() if images.null_count else None,
        )
        self._held.append(batch.set_column(place, _IMAGE, sizes))
        self._held_rows += batch.num_rows
        if self._held_rows >= _TOGETHER:
            self._settle()

    def _settle(self) -> None:
        if not self._held:
            return
        batch = pa.Table.from_batches(self._held).combine_chunks().to_batches()[0]
        self._held, self._held_rows = [], 0
        found = self._statistics
        found.records += batch.num_rows
        for name, (fewest, most) in self._bounds.items():
            column = batch.column(name)
            lengths = pc.list_value_length(column).drop_null().to_numpy()
            found.missing[name] += column.null_count
            found.misfits[name] += int(((lengths < fewest) | (lengths > most)).sum())
        labels = _values(batch, "label")
        fitting = labels[(labels >= 0) & (labels < len(self._per_label))]
        found.misfits["label"] += len(labels) - len(fitting)
        online = batch.column(ONLINE_VARIANTS)
        images = 1 + pc.fill_null(pc.list_value_length(online), 0).to_numpy()
        # A record without a label is a fault already; then the rows cannot be told apart and count once each.
        weights = images[(labels >= 0) & (labels < len(self._per_label))] if len(labels) == len(images) else 1
        np.add.at(self._per_label, fitting, weights)
        for column in (batch.column("variant"), online):
            for each in pc.value_counts(column.flatten()).to_pylist():
                self._variants[each["values"].decode()] += each["counts"]
        widths, heights = _values(batch, "image/width"), _values(batch, "image/height")
        if len(widths) == len(heights):
            self._sizes.update(_counted(widths << 32 | heights))
        sizes = _values(batch, _IMAGE)
        found.image_bytes_total += int(sizes.sum())
        self._kilobytes.update(_counted(sizes // 1000))
        self.identities.update(pc.unique(batch.column("identity").flatten()).to_pylist())
        if self._indexing:
            self._keys.append(batch.column("key").flatten().cast(pa.binary()))
            self._labels.append(batch.column("label").flatten())

    @property
    def variants(self) -> Mapping[str, int]:
        """Images by variant, so far."""
        self._settle()
        return self._variants

    def keys_and_labels(self) -> tuple[pa.Array, pa.Array]:
        """Key and label of every record, in the order in which they came; null where there is no label."""
        self._settle()
        keys = pa.concat_arrays([pa.array([], pa.binary()), *self._keys]).cast(pa.string())
        labels = pa.concat_arrays([pa.array([], pa.int64()), *self._labels])
        return keys, labels if len(labels) == len(keys) else pa.nulls(len(keys), pa.int64())

    def result(self) -> Statistics:
        """What was counted so far."""
        self._settle()
        found = self._statistics
        found.variants = dict(self._variants)
        found.image_sizes = {f"{both >> 32}x{both & 0xFFFFFFFF}": count for both, count in self._sizes.items()}
        found.image_kilobytes = {str(size): count for size, count in self._kilobytes.items()}
        return _ordered(found, self._per_label)


def _counted(numbers: NDArray[np.int64]) -> dict[int, int]:
    values, counts = np.unique(numbers, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _values(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    return np.asarray(batch.column(name).flatten().to_numpy(zero_copy_only=False), np.int64)


def _value_count(feature: Any) -> tuple[float, float]:
    """Fewest and most values that the schema allows in a field that is present."""
    if feature.HasField("shape"):
        size = math.prod(dim.size for dim in feature.shape.dim)
        return size, size
    most = feature.value_count.max or math.inf
    return feature.value_count.min, most


def summary(statistics: Mapping[str, Statistics]) -> dict[str, Any]:
    """The contents of ``statistics.json``: each side's statistics, by its name."""
    return {side: found.to_json() for side, found in statistics.items()}
