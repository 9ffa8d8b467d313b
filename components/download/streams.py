"""An archive's bytes, in order: several parts read as one file, hashed and decompressed ahead of whoever uses them.

Reading, hashing and decompressing happen in a thread of their own, a few megabytes ahead: they leave the interpreter to
the caller, who works on what is there already. Memory does not depend on the archive: the thread waits when it is so
far ahead, and no step of a decompression may give more than a block.
"""

from __future__ import annotations

import bz2
import hashlib
import io
import lzma
import queue
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import ArchiveError
from faceflow.components.common.storage import readable_bytes

STEP = 2 << 20
_AHEAD = 4
_WATCH_SECONDS = 0.1
_XZ_MEMORY = 128 << 20
"""Enough for ``xz -9``; a stream may ask for 4 GB."""

SMALL = 64 << 20
"""What something may unpack to, whatever its ratio: a bomb is made to fill a disk or the memory."""


class PartedFile(io.RawIOBase):
    """Files that were cut from one, read as that one.

    Args:
        paths: The parts, in order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        """Open them."""
        self._files = []
        self._ends: list[int] = []
        try:
            for path in paths:
                self._files.append(open(path, "rb", buffering=0))  # noqa: SIM115 - closed by close()
                self._ends.append((self._ends[-1] if self._ends else 0) + path.stat().st_size)
        except BaseException:
            self.close()
            raise
        self.size = self._ends[-1]
        self._at = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought."""
        return True

    def tell(self) -> int:
        """The offset of the next byte, over all parts."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to an offset over all parts."""
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, begin + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the present part goes."""
        begin = 0
        for file, end in zip(self._files, self._ends, strict=True):
            if self._at < end:
                file.seek(self._at - begin)
                count = file.readinto(memoryview(buffer)[: end - self._at]) or 0
                self._at += count
                return count
            begin = end
        return 0

    def read_at(self, offset: int, size: int) -> bytes:
        """So many bytes from an offset, or what there is before the end."""
        self.seek(offset)
        data = bytearray()
        while len(data) < size and (piece := self.read(size - len(data))):
            data += piece
        return bytes(data)

    def close(self) -> None:
        """Close every part."""
        for file in self._files:
            file.close()
        super().close()


class _Gzip:
    """One gzip member, with the interface of the decompressors of bzip2 and xz."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._full = False

    def decompress(self, data: bytes, most: int) -> bytes:
        try:
            out = self._inner.decompress(self._inner.unconsumed_tail + data, most)
        except zlib.error as error:
            raise zlib.error("its CRC is wrong" if "data check" in str(error) else str(error)) from error
        self._full = len(out) >= most
        return out

    @property
    def needs_input(self) -> bool:
        return not (self.eof or self._full or self._inner.unconsumed_tail)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


_COMPRESSIONS: tuple[tuple[bytes, Callable[[], Any]], ...] = (
    (b"\x1f\x8b", _Gzip),
    (b"BZh", bz2.BZ2Decompressor),
    (b"\xfd7zXZ\x00", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)),
)


def is_compressed(start: bytes) -> bool:
    """Whether a file that begins so is compressed by gzip, bzip2 or xz."""
    return any(start.startswith(magic) for magic, _ in _COMPRESSIONS)


class Stream:
    """The bytes that a file holds, decompressed if it is compressed, from beginning to end.

    Used as a context manager, which ends the thread.

    Args:
        paths: The file, or its parts in order.
        what: What to call it in an error.
        max_expansion: How many times its size it may unpack to, once that is more than :data:`SMALL`.
        md5: Whether to compute the MD5 of the file too.

    Attributes:
        offset: Bytes handed out or skipped.
        compressed: Whether the file is compressed.
    """

    def __init__(self, paths: Sequence[Path], what: str, max_expansion: int, *, md5: bool = False) -> None:
        """Begin to read ahead."""
        self._what = what
        self._max_expansion = max_expansion
        self._file = PartedFile(paths)
        self._digests = [hashlib.sha256(), *([hashlib.md5(usedforsecurity=False)] if md5 else [])]
        self._chunks: queue.Queue[bytes | Exception | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._chunk = memoryview(b"")
        self._ended = False
        self._raw = 0
        self.offset = 0
        start = self._file.read_at(0, 8)
        self._file.seek(0)
        self._new = next((new for magic, new in _COMPRESSIONS if start.startswith(magic)), None)
        self._thread = threading.Thread(target=self._produce, name="faceflow-read-ahead", daemon=True)
        self._thread.start()

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of the file as it is; complete once everything was read."""
        return self._digests[0].hexdigest()

    @property
    def md5(self) -> str:
        """MD5, in hexadecimal, of the file as it is, if asked for; complete once everything was read."""
        return self._digests[-1].hexdigest()

    def read(self, size: int) -> bytes:
        """Read so many bytes, or what there is before the end.

        Raises:
            ArchiveError: The file unpacks to more than it may.
            zlib.error, lzma.LZMAError, EOFError, OSError: The file is damaged or cannot be read.
        """
        pieces: list[memoryview] = []
        missing = size
        while missing > 0 and self._fill():
            piece = self._chunk[:missing]
            self._chunk = self._chunk[len(piece) :]
            pieces.append(piece)
            missing -= len(piece)
        self.offset += size - missing
        return bytes(pieces[0]) if len(pieces) == 1 else b"".join(pieces)

    def skip(self, size: int) -> int:
        """Pass over so many bytes, or what there is before the end; returns how many. Raises as :meth:`read`."""
        missing = size
        while missing > 0 and self._fill():
            passed = min(missing, len(self._chunk))
            self._chunk = self._chunk[passed:]
            missing -= passed
        self.offset += size - missing
        return size - missing

    def _fill(self) -> bool:
        """Have a chunk at hand; False at the end."""
        while not self._chunk and not self._ended:
            chunk = self._chunks.get()
            if chunk is None:
                self._ended = True
            elif isinstance(chunk, Exception):
                self._ended = True
                raise chunk
            else:
                self._chunk = memoryview(chunk)
        return bool(self._chunk)

    def _produce(self) -> None:
        try:
            unpacked = 0
            for chunk in self._blocks() if self._new is None else _decompressed(self._blocks(), self._new):
                unpacked += len(chunk)
                if unpacked > max(SMALL, self._max_expansion * self._raw):
                    raise ArchiveError(
                        f"{self._what} unpacks to more than {self._max_expansion} times its size "
                        f"({readable_bytes(unpacked)} by byte {self._raw:,} of the file): no set of images does. If "
                        "you trust it, raise max_expansion in the download options."
                    )
                self._put(chunk)
            self._put(None)
        except _Stopped:
            pass
        except Exception as error:  # whatever it is, the thread that uses the bytes must learn of it
            with suppress(_Stopped):
                self._put(error)

    def _blocks(self) -> Iterator[bytes]:
        while block := self._file.read(STEP):
            self._raw += len(block)
            for digest in self._digests:
                digest.update(block)
            yield block

    def _put(self, chunk: bytes | Exception | None) -> None:
        while not self._stopped.is_set():
            try:
                self._chunks.put(chunk, timeout=_WATCH_SECONDS)
                return
            except queue.Full:
                continue
        raise _Stopped

    def close(self) -> None:
        """End the thread and close the file."""
        self._stopped.set()
        while not self._chunks.empty():
            self._chunks.get_nowait()
        self._thread.join()
        self._file.close()

    def __enter__(self) -> Stream:
        """Return the stream itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread and close the file."""
        self.close()


class _Stopped(Exception):
    """Nobody wants the bytes any more."""


def _decompressed(blocks: Iterable[bytes], new: Callable[[], Any]) -> Iterator[bytes]:
    """Decompress streams that follow each other, zeros between and after them allowed (RFC 1952, 2.2; xz 2.2)."""
    part: Any = None
    complete = 0
    for block in blocks:
        left = block
        while left or (part is not None and not part.needs_input):
            if part is None:
                left = left.lstrip(b"\0") if complete else left
                if not left:
                    break
                part = new()
            out = part.decompress(left, 2 * STEP)
            left = b""
            if part.eof:
                left, part = part.unused_data, None
                complete += 1
            if out:
                yield out
    if part is not None:
        raise EOFError("the compressed stream ends before its end mark")
