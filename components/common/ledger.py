"""The ledger: what became of every image that a stage was given.

One row an input image, in input order: kept, with the variants that were made of it, or dropped for one reason out of
a closed enumeration. A row of a landmark file or attribute table that found no image is no input image, and stands
after them as ``unmatched``. Rows stream to Parquet in groups, so a ledger of any length is written in constant memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, NamedTuple

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


class Fate(NamedTuple):
    """What became of an image.

    Attributes:
        outcome: ``kept``, ``dropped`` or ``unmatched``.
        reason: Of a drop, one of :class:`Reason`.
        detail: What else is to say.
        variants: Of an image that is kept, what goes on; '' stands for itself.
    """

    outcome: str
    reason: str = ""
    detail: str = ""
    variants: tuple[str, ...] = ()


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
        self._known: dict[Fate, int] = {}

    def kept(self, key: Name, identity: Name, variants: Iterable[str] = (), detail: str = "") -> None:
        """Record an image that goes on, and the variants made of it; names may be given as UTF-8."""
        self._append(key, identity, Fate("kept", "", detail, tuple(variants)))

    def dropped(self, key: Name, identity: Name, reason: Reason, detail: str = "") -> None:
        """Record an image that ends here."""
        self._append(key, identity, Fate("dropped", Reason(reason).value, detail))

    def unmatched(self, key: Name, identity: Name, detail: str) -> None:
        """Record a row of another file, such as landmarks, that names an image which is not there."""
        self._append(key, identity, Fate("unmatched", "", detail))

    def rows(self, keys: pa.Array, identities: pa.Array, fates: Sequence[Fate], codes: NDArray[np.int64]) -> None:
        """Record many images at once.

        Args:
            keys: (images,) strings.
            identities: (images,) strings.
            fates: What can become of one, each once.
            codes: (images,) the place of each image's fate in ``fates``.
        """
        self._flush()
        self._write(keys, identities, fates, codes)

    def _append(self, key: Name, identity: Name, fate: Fate) -> None:
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
            keys, identities = (
                pa.array(each, pa.binary()).cast(pa.string()) for each in (self._keys, self._identities)
            )
            self._write(keys, identities, list(self._known), np.array(self._fates, np.int64))
            self._keys, self._identities, self._fates, self._known = [], [], [], {}

    def _write(self, keys: pa.Array, identities: pa.Array, fates: Sequence[Fate], codes: NDArray[np.int64]) -> None:
        if not len(codes):
            return
        stage = pa.repeat(self._stage, len(codes))
        told = [
            pa.array(column, LEDGER_SCHEMA.field(name).type).take(pa.array(codes))
            for name, column in zip(Fate._fields, zip(*fates, strict=True), strict=True)
        ]
        table = pa.table([keys, identities, stage, *told], schema=LEDGER_SCHEMA)
        self._writer.write_table(table, row_group_size=_GROUP_ROWS)

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
        keys: (images,) strings: their keys.
        identities: Names of identities, UTF-8, each once.
        codes: (images,) int64: for every image, the place of its identity in ``identities``.
        variants: (images,) lists of strings: what of each goes on; '' stands for itself.
    """

    keys: pa.StringArray
    identities: list[bytes]
    codes: NDArray[np.int64]
    variants: pa.ListArray

    @property
    def owners(self) -> pa.StringArray:
        """(images,) strings: the name of each image's identity."""
        return pa.array(self.identities, pa.binary()).cast(pa.string()).take(pa.array(self.codes))

    @property
    def images(self) -> NDArray[np.int64]:
        """(images,) int64: how many images each stands for: itself, and what was made of it."""
        return np.asarray(pc.list_value_length(self.variants).to_numpy(zero_copy_only=False), np.int64)


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
            yield Kept(batch["key"], *coded(batch["identity"]), batch["variants"])


def coded(names: pa.DictionaryArray) -> tuple[list[bytes], NDArray[np.int64]]:
    """Names, UTF-8, each once, and the place of every row's among them."""
    return (
        names.dictionary.cast(pa.binary()).to_pylist(),
        names.indices.to_numpy(zero_copy_only=False).astype(np.int64),
    )
