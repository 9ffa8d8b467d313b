"""Statistics of the packed shards, as tfx-bsl reads them through the checked-in schema.

The reader is not the writer's code: TFXIO parses the shards with TensorFlow's and tfx-bsl's own decoders, so the counts
here also show that others can read what was written. Everything is computed with pyarrow and numpy over record batches.
"""

from __future__ import annotations

import glob
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from faceflow.components.common.logs import holding_back_native_chatter
from faceflow.components.common.record import SCHEMA_PATH
from faceflow.components.common.tfrecord import read

_BATCH = 256


@dataclass
class Statistics:
    """Statistics of one side of the split.

    Attributes:
        records: Records, readable or not.
        unreadable: Records that the schema's decoder refuses: no Example, or a field of another type.
        missing: Readable records without the field, for every field of the schema.
        misfits: Readable records that have the field with too few or too many values, or a label without an identity.
        records_per_label: For every label, its records.
        variants: Records by variant; '' counts the source images.
        image_sizes: Records by ``<width>x<height>``.
        image_kilobytes: Records by size of the encoded image, in whole kilobytes of 1,000 bytes.
        image_bytes_total: Bytes of all encoded images.
    """

    records: int = 0
    unreadable: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    misfits: dict[str, int] = field(default_factory=dict)
    records_per_label: list[int] = field(default_factory=list)
    variants: dict[str, int] = field(default_factory=dict)
    image_sizes: dict[str, int] = field(default_factory=dict)
    image_kilobytes: dict[str, int] = field(default_factory=dict)
    image_bytes_total: int = 0

    def to_json(self) -> dict[str, Any]:
        """The statistics as plain values."""
        return asdict(self)

    @property
    def faults(self) -> dict[str, int]:
        """What may not occur in packed shards, by description, where it occurs."""
        required = {f"records without {name}": self.missing.get(name, 0) for name in (*_required(), "label")}
        wrong = {f"records with a wrong {name}": count for name, count in self.misfits.items()}
        found = {"unreadable records": self.unreadable} | required | wrong
        return {what: count for what, count in found.items() if count}


def measure(shards: Sequence[Path], labels: int) -> Statistics:
    """Read shards and count.

    Args:
        shards: TFRecord files.
        labels: Number of classes; a label outside 0 to ``labels - 1`` does not fit.
    """
    counter = _Counter(labels)
    for shard in shards:
        for batch, unreadable in _batches(shard):
            counter.add(batch, unreadable)
    return counter.result()


def _schema() -> Any:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    return text_format.Parse(SCHEMA_PATH.read_text(encoding="utf-8"), schema_pb2.Schema())


def _required() -> list[str]:
    return [feature.name for feature in _schema().feature if feature.presence.min_fraction == 1.0]


def _batches(shard: Path) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    """Yield a shard's record batches, and with each the records that could not be read into it."""
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
            yield batch, 0
    except RuntimeError:
        # The decoder refuses a whole batch for one bad record; from there on the records are decoded one by one.
        yield from _one_by_one(shard, done)


def _one_by_one(shard: Path, begin: int) -> Iterator[tuple[pa.RecordBatch | None, int]]:
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    schema = _schema().SerializeToString()
    decoder = ExamplesToRecordBatchDecoder(schema)
    for number, payload in enumerate(read(shard)):
        if number < begin:
            continue
        try:
            yield decoder.DecodeBatch([payload]), 0
        except RuntimeError:
            yield None, 1
            decoder = ExamplesToRecordBatchDecoder(schema)  # one that has failed refuses whatever comes after


class _Counter:
    """Adds up record batches."""

    def __init__(self, labels: int) -> None:
        self._bounds = {feature.name: _value_count(feature) for feature in _schema().feature}
        self._statistics = Statistics(missing=dict.fromkeys(self._bounds, 0), misfits=dict.fromkeys(self._bounds, 0))
        self._per_label = np.zeros(labels, np.int64)
        self._variants: Counter[str] = Counter()
        self._sizes: Counter[str] = Counter()
        self._kilobytes: Counter[int] = Counter()

    def add(self, batch: pa.RecordBatch | None, unreadable: int) -> None:
        found = self._statistics
        found.unreadable += unreadable
        found.records += unreadable
        if batch is None:
            return
        found.records += batch.num_rows
        for name, (fewest, most) in self._bounds.items():
            column = batch.column(name)
            lengths = pc.list_value_length(column).drop_null().to_numpy()
            found.missing[name] += column.null_count
            found.misfits[name] += int(((lengths < fewest) | (lengths > most)).sum())
        labels = _values(batch, "label")
        fitting = labels[(labels >= 0) & (labels < len(self._per_label))]
        found.misfits["label"] += len(labels) - len(fitting)
        self._per_label += np.bincount(fitting, minlength=len(self._per_label))
        self._variants.update(value.decode() for value in batch.column("variant").flatten().to_pylist())
        widths, heights = _values(batch, "image/width"), _values(batch, "image/height")
        if len(widths) == len(heights):
            self._sizes.update(f"{width}x{height}" for width, height in zip(widths, heights, strict=True))
        sizes = pc.binary_length(batch.column("image/encoded").flatten()).to_numpy(zero_copy_only=False)
        found.image_bytes_total += int(sizes.sum())
        self._kilobytes.update(int(size) // 1000 for size in sizes)

    def result(self) -> Statistics:
        found = self._statistics
        found.records_per_label = self._per_label.tolist()
        found.variants = dict(sorted(self._variants.items()))
        found.image_sizes = dict(sorted(self._sizes.items(), key=lambda item: (-item[1], item[0])))
        found.image_kilobytes = {str(size): count for size, count in sorted(self._kilobytes.items())}
        return found


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
