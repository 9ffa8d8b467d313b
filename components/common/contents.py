"""What each shard holds, as its dataset's ledger names it: keys, identities and variants, without the pictures.

Records stand in their shards in the order in which the ledger has their images. So whatever hangs on names alone can
be decided for a shard at once, in arrays, and its frames are then moved without looking into them, but for their
checksums and keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faceflow.components.common import files, tfrecord
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.ledger import Kept, coded, rows_kept
from faceflow.components.common.manifest import ShardInfo
from faceflow.components.common.record import Record
from faceflow.components.common.tfrecord import Window
from faceflow.components.common.wire import key_entry

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("identity", pa.dictionary(pa.int32(), pa.string())),
        ("variants", pa.list_(pa.string())),
        ("records", pa.int32()),
    ]
)
_FIELDS = ("name", "records", "bytes", "sha256")


@dataclass(frozen=True)
class Contents(Kept):
    """The source images of one shard, in the order of its records.

    Attributes:
        records: (images,) int64: how many records each has: its own, and after it those of copies that were drawn.
        shard: The shard, as the manifest has it.
    """

    records: NDArray[np.int64]
    shard: ShardInfo


def cut(datasets: Sequence[Dataset], folder: files.Location) -> None:
    """Write the contents of every shard, numbered over all datasets, where the workers can read them.

    Args:
        datasets: The datasets.
        folder: Where :func:`read` will find them.

    Raises:
        DatasetError: A ledger does not go with its shards.
    """
    number = 0
    for dataset in datasets:
        rows = _Rows(dataset)
        for shard in dataset.manifest.shards:
            told = {name: str(getattr(shard, name)) for name in _FIELDS}
            table = rows.of_records(shard.records).replace_schema_metadata(told)
            written = pa.BufferOutputStream()
            with pa.ipc.new_file(written, table.schema) as file:
                file.write_table(table)
            files.write_bytes(_location(folder, number), written.getvalue())
            number += 1
        rows.check_end()


def read(folder: files.Location, shard: int) -> Contents:
    """The contents of one shard, by its number."""
    with pa.ipc.open_file(pa.BufferReader(files.read_bytes(_location(folder, shard)))) as file:
        table = file.read_all().combine_chunks()
    told = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
    key, identity, variants, records = (column.chunk(0) for column in table.columns)
    return Contents(
        key,
        *coded(identity),
        variants,
        records.to_numpy().astype(np.int64),
        ShardInfo(told["name"], int(told["records"]), int(told["bytes"]), told["sha256"]),
    )


def named(location: files.Location, keys: Iterable[bytes | None]) -> Iterator[tuple[Window, list[int]]]:
    """Read a shard's frames, and see that they are those of the records that the ledger names.

    Args:
        location: The shard.
        keys: The keys, UTF-8, of its records, in order; None for one that is not looked at.

    Yields:
        Some consecutive records, and for each where in its payload the entry of its key ends, which is where a label
        belongs; 0 for a record that is not in the shape that this package writes. The payloads' checksums are left to
        be checked.

    Raises:
        DatasetError: The records are others, or damaged.
    """
    coming = iter(keys)
    for window in tfrecord.windows(location):
        places: list[int] = []
        data, begins = window.data, window.begins
        for begin, end, key in zip(begins, begins[1:], coming, strict=False):
            if key is None:
                places.append(0)
                continue
            entry = key_entry(key)
            found = data.rfind(entry, begin, end)
            if found < 0:
                _check_key(window, len(places), key)
            places.append(found + len(entry) - begin - tfrecord.HEADER_BYTES if found >= 0 else 0)
        if len(places) < len(window):
            raise _unlike(window.name, "more records than its ledger names")
        yield window, places
    if missing := sum(1 for _ in coming):
        raise _unlike(files.name_of(location), f"{missing:,} records less than its ledger names")


def _check_key(window: Window, number: int, key: bytes) -> None:
    found = Record.decode(next(window.payloads([number]))).key
    if found != key.decode():
        raise _unlike(window.name, f"'{found}' where its ledger names '{key.decode()}'")


def _unlike(name: str, what: str) -> DatasetError:
    return DatasetError(f"{name} holds {what}: run the stage that wrote the dataset again.")


def _location(folder: files.Location, shard: int) -> str:
    return files.join(folder, f"contents-{shard:05d}.arrow")


class _Rows:
    """A dataset's ledger, read as its shards need it."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        # A variant is a record of its own, or a name that its source image's record carries.
        self._drawn = dataset.manifest.records == dataset.manifest.images
        self._coming: Iterator[Kept] = rows_kept(dataset.path)
        self._waiting = pa.table([pa.array([], field.type) for field in _PLAIN], schema=_PLAIN)

    def of_records(self, records: int) -> pa.Table:
        """The next rows, which have so many records together."""
        while True:
            passed = np.cumsum(self._waiting["records"].to_numpy())
            if len(passed) and passed[-1] >= records:
                break
            kept = next(self._coming, None)
            if kept is None:
                break
            counts = kept.images if self._drawn else np.ones(len(kept.codes), np.int64)
            more = pa.table([kept.keys, kept.owners, kept.variants, counts.astype(np.int32)], schema=_PLAIN)
            self._waiting = pa.concat_tables([self._waiting, more]).combine_chunks()
        rows = int(np.searchsorted(passed, records)) + 1
        if rows > len(passed) or passed[rows - 1] != records:
            raise self._wrong()
        found, self._waiting = self._waiting.slice(0, rows), self._waiting.slice(rows)
        place = found.schema.get_field_index("identity")
        return found.set_column(place, _SCHEMA.field("identity"), found["identity"].dictionary_encode()).cast(_SCHEMA)

    def check_end(self) -> None:
        """See that no row is left."""
        if self._waiting.num_rows or next(self._coming, None) is not None:
            raise self._wrong()

    def _wrong(self) -> DatasetError:
        manifest = self._dataset.manifest
        return DatasetError(
            f"{self._dataset.path} has {manifest.records:,} records by its manifest, and others by its ledger: "
            f"run the stage that wrote it ({manifest.stage}) again."
        )


_PLAIN = _SCHEMA.set(1, pa.field("identity", pa.string()))
