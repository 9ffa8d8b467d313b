"""The ledger: what became of every image that a stage was given.

One row an input image, in input order: kept, with the variants that were made of it, or dropped for one reason out of
a closed enumeration. Rows stream to Parquet in groups, so a ledger of any length is written in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


class Reason(StrEnum):
    """Why an image was dropped."""

    NOT_AN_IMAGE = "not_an_image"
    NO_IDENTITY = "no_identity"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    NO_FACE = "no_face"
    SEVERAL_FACES = "several_faces"
    LOW_SCORE = "low_score"
    TOO_SMALL = "too_small"
    POLICY_TOO_FEW = "policy_too_few"
    POLICY_SAMPLED_OUT = "policy_sampled_out"
    DUPLICATE = "duplicate"
    OVERLAPS_EVALUATION = "overlaps_evaluation"
    HELD_OUT = "held_out"


LEDGER_NAME = "ledger.parquet"
LEDGER_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("identity", pa.string()),
        ("stage", pa.string()),
        ("outcome", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("variants", pa.list_(pa.string())),
    ]
)
_GROUP_ROWS = 65_536


class LedgerWriter:
    """Appends rows to a Parquet file.

    Args:
        path: The file to write.
        stage: The stage's name, a column of every row.
    """

    def __init__(self, path: Path, stage: str) -> None:
        """Open the file."""
        self._stage = stage
        self._writer = pq.ParquetWriter(path, LEDGER_SCHEMA, compression="zstd")
        self._rows: list[tuple[str, str, str, str, str, str, list[str]]] = []

    def kept(self, key: str, identity: str, variants: Iterable[str] = ()) -> None:
        """Record an image that goes on, and the variants made of it."""
        self._append((key, identity, self._stage, "kept", "", "", list(variants)))

    def dropped(self, key: str, identity: str, reason: Reason, detail: str = "") -> None:
        """Record an image that ends here."""
        self._append((key, identity, self._stage, "dropped", Reason(reason).value, detail, []))

    def _append(self, row: tuple[str, str, str, str, str, str, list[str]]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._writer.write_table(pa.table(columns, schema=LEDGER_SCHEMA))
            self._rows = []

    def close(self) -> None:
        """Write what is buffered and the footer."""
        self._flush()
        self._writer.close()

    def __enter__(self) -> LedgerWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file whether or not the block went well."""
        self.close()


def merge(parts: Iterable[Path], path: Path) -> None:
    """Join ledgers into one file, row order kept, row groups re-cut so that the bytes do not tell how it was split."""
    with pq.ParquetWriter(path, LEDGER_SCHEMA, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        rows = 0
        for part in parts:
            for batch in pq.ParquetFile(part).iter_batches(batch_size=_GROUP_ROWS):
                waiting.append(pa.Table.from_batches([batch], schema=LEDGER_SCHEMA))
                rows += batch.num_rows
                while rows >= _GROUP_ROWS:
                    table = pa.concat_tables(waiting)
                    writer.write_table(table.slice(0, _GROUP_ROWS).combine_chunks())
                    waiting = [table.slice(_GROUP_ROWS)]
                    rows -= _GROUP_ROWS
        if rows:
            writer.write_table(pa.concat_tables(waiting).combine_chunks())
