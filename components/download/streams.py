"""Streams that archives are read through: hashed, decompressed, and remembered for a look back."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
from collections.abc import Callable
from typing import IO, Any

STEP = 1 << 18

_COMPRESSIONS: tuple[tuple[bytes, Callable[[Any], Any]], ...] = (
    (b"\x1f\x8b", lambda raw: gzip.GzipFile(fileobj=raw, mode="rb")),
    (b"BZh", bz2.BZ2File),
    (b"\xfd7zXZ\x00", lzma.LZMAFile),
)


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins so is compressed by gzip, bzip2 or xz."""
    return any(start.startswith(magic) for magic, _ in _COMPRESSIONS)


class HashingFile:
    """A file that is hashed as it is read from beginning to end.

    Args:
        file: A binary file at its beginning.

    Attributes:
        count: Bytes read.
    """

    def __init__(self, file: IO[bytes]) -> None:
        """Begin the digest."""
        self._file = file
        self._digest = hashlib.sha256()
        self._ahead = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        """The first bytes, which will be read again."""
        self._ahead = self._file.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all that are left."""
        data, self._ahead = self._ahead, b""
        if size < 0 or len(data) < size:
            data += self._file.read(size if size < 0 else size - len(data))
        else:
            data, self._ahead = data[:size], data[size:]
        self._digest.update(data)
        self.count += len(data)
        return data

    read1 = read

    def drain(self) -> None:
        """Read to the end."""
        while self.read(STEP):
            pass

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of what was read."""
        return self._digest.hexdigest()


class Window:
    """A stream that remembers what was read last, to see the block at which a tar ended.

    Args:
        file: Anything with ``read1(size)``.
    """

    def __init__(self, file: Any) -> None:
        """Begin at offset 0."""
        self._file = file
        self._kept = b""
        self._begin = 0
        self._damage: Exception | None = None

    def read(self, size: int) -> bytes:
        """Read so many bytes, or what there is before the end or before a damage, which the next call raises."""
        if self._damage is not None:
            raise self._damage
        pieces: list[bytes] = []
        missing = size
        try:
            while missing > 0 and (piece := self._file.read1(missing)):
                pieces.append(piece)
                missing -= len(piece)
        except Exception as error:
            if not pieces:
                raise
            self._damage = error
        self._begin += len(self._kept)
        self._kept = b"".join(pieces)
        return self._kept

    def block(self, offset: int, size: int) -> bytes:
        """The bytes at an offset of the stream, which must lie in what was read last."""
        place = offset - self._begin
        return self._kept[place : place + size] if place >= 0 else b""

    def drain(self) -> None:
        """Read to the end, so that the compression's own checksum is checked."""
        while self.read(STEP):
            pass


def decompressed(raw: HashingFile) -> Any:
    """The stream that a file holds, decompressed if it is compressed."""
    start = raw.peek(8)
    for magic, opener in _COMPRESSIONS:
        if start.startswith(magic):
            return opener(raw)
    return raw
