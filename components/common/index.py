"""The index of a dataset: in which shard and at which offset each record is, with its label and key.

With it a record is read without reading the shard, the images of one identity are found together, and a dataset is
cleaned by leaving rows out, without writing a shard again. It is an attachment of the dataset, one row a record in
the order of the shards.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import tfrecord
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.record import Record

INDEX_NAME = "index.parquet"
INDEX_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("bytes", pa.int32()),
        ("label", pa.int64()),
        ("key", pa.string()),
    ]
)
_GROUP_ROWS = 65_536
_UNLABELLED = -1


class Index:
    """Random access to a dataset's records.

    Args:
        dataset: A dataset with an index, such as ``packed/train``.

    Attributes:
        shard: (rows,) int32: the place of the record's shard in the manifest.
        offset: (rows,) int64: where in the shard its frame begins, in bytes; in a compressed shard before compression.
        size: (rows,) int32: bytes of the frame.
        label: (rows,) int64; -1 where the record has none.

    Raises:
        DatasetError: The dataset has no index, or one that does not go with its shards.
    """

    def __init__(self, dataset: Dataset) -> None:
        """Read all but the keys."""
        path = dataset.attachment(INDEX_NAME)
        if path is None:
            raise DatasetError(f"{dataset.path} has no {INDEX_NAME}: give {dataset.path}/train of a packed dataset.")
        table = pq.read_table(path, columns=INDEX_SCHEMA.names[:4])
        if table.num_rows != dataset.manifest.records:
            raise DatasetError(
                f"{path} lists {table.num_rows:,} records and the manifest {dataset.manifest.records:,}: "
                "run the stage that wrote them again."
            )
        self._path = path
        self._shards = dataset.shards
        self._rows = np.arange(table.num_rows)
        self.shard: NDArray[np.int32] = table["shard"].to_numpy()
        self.offset: NDArray[np.int64] = table["offset"].to_numpy()
        self.size: NDArray[np.int32] = table["bytes"].to_numpy()
        self.label: NDArray[np.int64] = pc.fill_null(table["label"], _UNLABELLED).to_numpy()

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Index:
        """The index of some of the rows, in the given order: the same shards, of which fewer records are used."""
        chosen = object.__new__(Index)
        chosen._path, chosen._shards = self._path, self._shards
        chosen._rows = self._rows[rows]
        chosen.shard, chosen.offset = self.shard[rows], self.offset[rows]
        chosen.size, chosen.label = self.size[rows], self.label[rows]
        return chosen

    def without(self, keys: Collection[str]) -> Index:
        """The index with the records of these keys left out; a record's augmented copies are left out with it.

        Raises:
            DatasetError: A key is not in the index.
        """
        missing = set(keys)
        wanted = pa.array(sorted(missing), pa.string())
        left = np.ones(len(self), bool)
        for begin, names in self._keys():
            sources = pc.replace_substring_regex(names, r"#[^#/]*$", "")
            hit = pc.or_(pc.is_in(names, wanted), pc.is_in(sources, wanted))
            left[begin : begin + len(names)] = ~hit.to_numpy(zero_copy_only=False)
            missing.difference_update(names.filter(hit).to_pylist())
        if missing:
            raise DatasetError(
                f"{self._path} has no record '{min(missing)}', nor {len(missing) - 1:,} others asked for."
            )
        return self.take(left)

    def rows_of(self, label: int) -> NDArray[np.int64]:
        """The rows of one label; where identities stand together they are consecutive."""
        return np.flatnonzero(self.label == label)

    def groups(self) -> dict[int, NDArray[np.int64]]:
        """The rows of every label: what a sampler of P identities with K images each draws from."""
        order = np.argsort(self.label, kind="stable")
        labels, begins = np.unique(self.label[order], return_index=True)
        return {int(label): rows for label, rows in zip(labels, np.split(order, begins[1:]), strict=True)}

    def row_of(self, key: str) -> int:
        """The row of a key.

        Raises:
            DatasetError: It is not in the index.
        """
        for begin, names in self._keys():
            found = pc.index(names, key).as_py()
            if found >= 0:
                return int(begin + found)
        raise DatasetError(f"{self._path} has no record '{key}'.")

    def payloads(self, rows: Iterable[int]) -> Iterator[bytes]:
        """Yield the serialised records of some rows, in the given order.

        Raises:
            DatasetError: A record is damaged, or not where the index says.
        """
        opened, file = -1, None
        try:
            for row in rows:
                shard = int(self.shard[row])
                if shard != opened or file is None:
                    if file is not None:
                        file.close()
                    opened, file = shard, tfrecord.open_records(self._shards[shard])
                file.seek(int(self.offset[row]))
                payload = tfrecord.read_at(file, self._shards[shard].name)
                if payload is None or len(payload) + tfrecord.FRAMING_BYTES != self.size[row]:
                    raise DatasetError(
                        f"{self._shards[shard]} has another record at byte {int(self.offset[row]):,} than {self._path} "
                        "says: run the stage that wrote them again."
                    )
                yield payload
        finally:
            if file is not None:
                file.close()

    def record(self, row: int) -> Record:
        """The record of one row."""
        return Record.decode(next(self.payloads([row])))

    def _keys(self) -> Iterator[tuple[int, pa.Array]]:
        """The keys of the rows, in pieces, each with the number of its first row."""
        if len(self._rows) and not np.array_equal(self._rows, np.arange(self._rows[0], self._rows[0] + len(self))):
            names = pq.read_table(self._path, columns=["key"])["key"].take(self._rows).combine_chunks()
            yield 0, names
            return
        done = 0
        first = int(self._rows[0]) if len(self) else 0
        for batch in pq.ParquetFile(self._path).iter_batches(batch_size=_GROUP_ROWS, columns=["key"]):
            begin, end = max(first, done), min(first + len(self), done + batch.num_rows)
            if begin < end:
                yield begin - first, batch.column(0).slice(begin - done, end - begin)
            done += batch.num_rows


def merge(parts: Iterable[Path], path: Path) -> None:
    """Join the indexes of parts into one, in which the parts that have records are numbered from 0."""
    shard = 0
    with pq.ParquetWriter(path, INDEX_SCHEMA, compression="zstd", use_dictionary=False) as writer:
        for part in parts:
            table = pq.read_table(part)
            if table.num_rows:
                numbers = pa.array(np.full(table.num_rows, shard, np.int32))
                writer.write_table(table.set_column(0, "shard", numbers).combine_chunks(), _GROUP_ROWS)
                shard += 1
