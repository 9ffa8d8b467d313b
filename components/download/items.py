"""What the readers hand to the one ingest loop, whatever the layout they read."""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.ledger import Reason


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a source.

    Attributes:
        identity: Whose face it is, as the source names people; empty where the file belongs to nobody.
        file: Its name within the identity; not empty.
        name: What the source itself calls it: its path in the archive, its number in a record file.
        size: Bytes.
        read: Gives the bytes; to be called, if at all, before the next item is asked for.
        landmarks: (5, 2) float32 in image pixels, or None.
        unusable: Why the file cannot be used, where its name or place already tells; else None.
        note: What the ledger says of it if it is kept.
        box: (4,) float32 left, top, right and bottom of the face that is meant, in image pixels, or None.
    """

    identity: str
    file: str
    name: str
    size: int
    read: Callable[[], bytes]
    landmarks: NDArray[np.float32] | None = None
    unusable: tuple[Reason, str] | None = None
    note: str = ""
    box: NDArray[np.float32] | None = None

    @property
    def path(self) -> str:
        """``<identity>/<file>``, the image's name within its source."""
        return f"{self.identity}/{self.file}" if self.identity else self.file


@dataclass(frozen=True, slots=True)
class Pair:
    """A verification pair.

    Attributes:
        first: ``<identity>/<file>`` of one image.
        second: The same of the other.
        same: Whether they show one person.
        fold: The fold, from 0.
        where: Where the pair is written, for an error.
    """

    first: str
    second: str
    same: bool
    fold: int
    where: str


class Reader(ABC):
    """Reads one layout."""

    has_pairs = False
    """Whether :meth:`pairs` gives any."""

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Yield every file of the source, once, in an order that its files alone decide."""

    @property
    def total(self) -> int | None:
        """How many items there will be, if known."""
        return None

    def pairs(self) -> Iterable[Pair]:
        """The verification pairs; asked for after the last item."""
        return ()

    @property
    def digests(self) -> Mapping[str, str]:
        """SHA-256 of the files that were read whole, by field of the source spec; complete after the last item."""
        return {}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """Rows and files that found no counterpart, by what they are; complete after the last item."""
        return {}

    def unmatched_rows(self) -> Iterable[tuple[str, str, str]]:
        """Rows that name an image which is not there: identity, file, and what row it is; after the last item."""
        return ()


def clean(name: str) -> str:
    r"""A file's name as text that can be written anywhere.

    Composed Unicode (NFC), because macOS decomposes names in folders but not in archives made elsewhere; bytes that
    are no UTF-8 are shown as ``\xNN``.
    """
    if not name.isascii():
        name = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        name = unicodedata.normalize("NFC", name)
    return name
