"""The ledger: what became of every image that a stage was given.

One row an input image, in input order: kept, with the variants that were made of it, or dropped for one reason out of
a closed enumeration. A row of a landmark file or attribute table that found no image is no input image, and stands
after them as ``unmatched``. Rows stream to Parquet in groups, so a ledger of any length is written in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import files


class Reason(StrEnum):
    """Why an image was dropped."""

    NOT_AN_IMAGE = "not_an_image"
    NO_IDENTITY = "no_identity"
    UNDECODABLE = "undecodable"
    TOO_LARGE = "too_large"
    NO_FACE = "no_face"
    BAD_LANDMARKS = "bad_landmarks"
    SEVERAL_FACES = "several_faces"
    LOW_SCORE = "low_score"
    TOO_SMALL = "too_small"
    POLICY_TOO_FEW = "policy_too_few"
    POLICY_SAMPLED_OUT = "policy_sampled_out"
    DUPLICATE = "duplicate"
    OVERLAPS_EVALUATION = "overlaps_evaluation"
    OUTLIER = "outlier"
    HELD_OUT = "held_out"
    EXCLUDED = "excluded"


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

Name = str | bytes


class LedgerWriter:
    """Appends rows to a Parquet file, which appears when it is closed.

    Args:
        location: The file to write.
        stage: The stage's name, a column of every row.
    """

    def __init__(self, location: files.Location, stage: str) -> None:
        """Open the file."""
        self._stage = stage
        self._creation = files.create(location)
        self._writer = _parquet(self._creation.file)
        self._keys: list[Name] = []
        self._identities: list[Name] = []
        self._fates: list[int] = []
        # Images share few fates, so a row is two names and a number until it is written.
        self._known: dict[tuple[str, str, str, tuple[str, ...]], int] = {}

    def kept(self, key: Name, identity: Name, variants: Iterable[str] = (), detail: str = "") -> None:
        """Record an image that goes on, and the variants made of it; names may be given as UTF-8."""
        self._append(key, identity, ("kept", "", detail, tuple(variants)))

    def dropped(self, key: Name, identity: Name, reason: Reason, detail: str = "") -> None:
        """Record an image that ends here."""
        self._append(key, identity, ("dropped", Reason(reason).value, detail, ()))

    def unmatched(self, key: Name, identity: Name, detail: str) -> None:
        """Record a row of another file, such as landmarks, that names an image which is not there."""
        self._append(key, identity, ("unmatched", "", detail, ()))

    def _append(self, key: Name, identity: Name, fate: tuple[str, str, str, tuple[str, ...]]) -> None:
        number = self._known.get(fate)
        if number is None:
            number = self._known[fate] = len(self._known)
        self._keys.append(key)
        self._identities.append(identity)
        self._fates.append(number)
        if len(self._fates) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._keys:
            fates = pa.array(self._fates, pa.int32())
            told = [
                pa.array(column, LEDGER_SCHEMA.field(name).type).take(fates)
                for name, column in zip(LEDGER_SCHEMA.names[3:], zip(*self._known, strict=True), strict=True)
            ]
            names = [pa.array(each, pa.binary()).cast(pa.string()) for each in (self._keys, self._identities)]
            stage = pa.repeat(self._stage, len(self._keys))
            self._writer.write_table(pa.table([*names, stage, *told], schema=LEDGER_SCHEMA))
            self._keys, self._identities, self._fates, self._known = [], [], [], {}

    def close(self) -> None:
        """Write what is buffered and the footer, and put the file in place."""
        self._flush()
        self._writer.close()
        self._creation.commit()

    def discard(self) -> None:
        """Forget what was written."""
        self._writer.close()
        self._creation.discard()

    def __enter__(self) -> LedgerWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in place, or forget it if the block failed."""
        if kind is None:
            self.close()
        else:
            self.discard()


def _parquet(where: Path | IO[bytes]) -> pq.ParquetWriter:
    # A dictionary of keys would hold every one of them once.
    names = [name for name in LEDGER_SCHEMA.names if name not in ("key", "variants")]
    return pq.ParquetWriter(where, LEDGER_SCHEMA, compression="zstd", use_dictionary=[*names, "variants.list.element"])


def merge(parts: Iterable[Path], path: Path) -> None:
    """Join ledgers into one file, row order kept, row groups re-cut so that the bytes do not tell how it was split."""
    with _parquet(path) as writer:
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


@dataclass(frozen=True)
class Kept:
    """Some of the images that a dataset holds, as its ledger names them.

    Attributes:
        keys: Their keys, UTF-8.
        identities: Names of identities, UTF-8, each once.
        codes: (images,) int64: for every image, the place of its identity in ``identities``.
        variants: (images,) int64: how many images each stands for: itself, and what was made of it.
    """

    keys: list[bytes]
    identities: list[bytes]
    codes: NDArray[np.int64]
    variants: NDArray[np.int64]


def rows_kept(dataset: Path) -> Iterator[Kept]:
    """Yield a dataset's kept images from its ledger, a row group at a time.

    Args:
        dataset: The dataset's directory.
    """
    file = pq.ParquetFile(dataset / LEDGER_NAME, read_dictionary=["identity", "outcome"])
    columns = ["key", "identity", "outcome", "variants"]
    for batch in file.iter_batches(batch_size=_GROUP_ROWS, columns=columns):
        batch = batch.filter(pc.equal(batch["outcome"].cast(pa.string()), "kept"))
        if batch.num_rows:
            identity = batch["identity"]
            yield Kept(
                batch["key"].cast(pa.binary()).to_pylist(),
                identity.dictionary.cast(pa.binary()).to_pylist(),
                identity.indices.to_numpy(zero_copy_only=False).astype(np.int64),
                pc.list_value_length(batch["variants"]).to_numpy(zero_copy_only=False).astype(np.int64),
            )
