"""TFRecord framing without TensorFlow.

A record is an 8-byte little-endian length, the masked CRC-32C of those 8 bytes, the payload, and the masked CRC-32C of
the payload (the format of ``tensorflow/core/lib/io/record_writer.h``).
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor, Future, wait
from typing import IO, Any

import google_crc32c

from faceflow.components.common import files
from faceflow.components.common.errors import DatasetError

COMPRESSIONS = ("none", "gzip")
FRAMING_BYTES = 16
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")
_WINDOW = 512 << 10  # fits a core's cache, so that the checksum and the copy of a record find it there
_BLOCK = 1 << 20
_GZIP_SUFFIX = ".gz"
_GZIP_LEVEL = 1  # JPEGs hardly shrink: what is left to gain is the names
_headers: dict[int, bytes] = {}


def suffix(compression: str) -> str:
    """The end of a shard's name: ``.tfrecord`` or, with gzip, ``.tfrecord.gz``; readers go by it."""
    return ".tfrecord" + (_GZIP_SUFFIX if compression == "gzip" else "")


def is_gzip(location: files.Location) -> bool:
    """Whether a shard is compressed, by its name."""
    return str(location).endswith(_GZIP_SUFFIX)


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _header(length: int) -> bytes:
    """The header of a payload of this length; records have few different lengths."""
    found = _headers.get(length)
    if found is None:
        packed = struct.pack("<Q", length)
        found = packed + _FOOTER.pack(_masked_crc(packed))
        if len(_headers) < 1 << 16:
            _headers[length] = found
    return found


def framing(payload: bytes) -> tuple[bytes, bytes, bytes]:
    """A payload as a record, in three pieces: its length with a checksum, itself, and its own checksum."""
    length = len(payload)
    return _headers.get(length) or _header(length), payload, _FOOTER.pack(_masked_crc(payload))


def payload_of(frame: bytes | memoryview) -> bytes:
    """The payload of a framed record, unchecked."""
    return bytes(frame[12:-4])


class Writer:
    """Writes payloads to one TFRecord file, which appears when it is closed, and keeps its digest as it goes.

    Args:
        location: The file to write; a name that ends in ``.gz`` makes it a gzip file.
        behind: An executor of one thread that hashes and writes blocks while the next one is put together; without
            it that happens at once.

    Attributes:
        records: Payloads written.
        bytes_written: Bytes of records written, framing included, before compression.
    """

    def __init__(self, location: files.Location, behind: Executor | None = None) -> None:
        """Open the file."""
        self._creation = files.create(location)
        self._file = self._creation.file
        self._digest = hashlib.sha256()
        self._behind = behind
        self._underway: Future[None] | None = None
        # Unlike gzip's own, zlib's header has neither time nor name in it.
        self._deflate = zlib.compressobj(_GZIP_LEVEL, wbits=31) if is_gzip(location) else None
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self.records = 0
        self.bytes_written = 0
        self._stored = 0

    def write(self, payload: bytes) -> int:
        """Append a payload; returns the offset, in bytes before compression, at which its record begins."""
        return self.write_checked(payload, _FOOTER.pack(_masked_crc(payload)))

    def write_checked(self, payload: bytes, footer: bytes) -> int:
        """Append a payload whose checksum is known, as :func:`read_checked` gives both; returns its offset."""
        size = len(payload)
        self._held += (_headers.get(size) or _header(size), payload, footer)
        return self._appended(size + FRAMING_BYTES)

    def write_frame(self, frame: bytes | memoryview) -> int:
        """Append a payload that is framed already; returns its offset as :meth:`write` does."""
        self._held.append(frame)
        return self._appended(len(frame))

    def _appended(self, size: int) -> int:
        offset = self.bytes_written
        self.records += 1
        self.bytes_written = offset + size
        self._held_bytes += size
        if self._held_bytes >= _BLOCK:
            self._flush()
        return offset

    def _flush(self) -> None:
        block = b"".join(self._held)
        self._held = []
        self._held_bytes = 0
        self._wait()
        if self._behind is None:
            self._store(block)
        else:
            self._underway = self._behind.submit(self._store, block)

    def _wait(self) -> None:
        """Until the block that is being written is written: no more than one is."""
        if self._underway is not None:
            underway, self._underway = self._underway, None
            underway.result()

    def _store(self, block: bytes) -> None:
        self._put(block if self._deflate is None else self._deflate.compress(block))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._stored += len(data)

    def close(self) -> None:
        """Put the file in place."""
        self._flush()
        self._wait()
        if self._deflate is not None:
            self._put(self._deflate.flush())
        self._creation.commit()

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of the file, once it is closed."""
        return self._digest.hexdigest()

    @property
    def file_bytes(self) -> int:
        """Bytes of the file, once it is closed."""
        return self._stored

    def discard(self) -> None:
        """Forget what was written."""
        if self._underway is not None:
            wait([self._underway])
        self._creation.discard()

    def __enter__(self) -> Writer:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in place, or forget it if the block failed."""
        if kind is None:
            self.close()
        else:
            self.discard()


def open_records(location: files.Location) -> IO[bytes]:
    """Open a TFRecord file, inflated if it is a gzip file, for :func:`read_at`.

    In a gzip file going to a place means inflating what is before it.
    """
    file = files.open_read(location)
    if not is_gzip(location):
        return file
    opened: Any = _Inflated(file)
    return opened  # type: ignore[no-any-return]


class _Inflated(gzip.GzipFile):
    """A gzip file that closes what it reads from."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(fileobj=file, mode="rb")
        self._under = file

    def close(self) -> None:
        super().close()
        self._under.close()


def read_at(file: IO[bytes], name: str) -> bytes | None:
    """Read the record at a file's current position.

    Args:
        file: A binary file, positioned at the beginning of a record.
        name: What to call the file in an error.

    Returns:
        The payload, or None at the end of the file.

    Raises:
        DatasetError: The record is cut short or one of its checksums is wrong.
    """
    header = file.read(_HEADER.size)
    if not header:
        return None
    payload, footer = b"", b""
    if len(header) == _HEADER.size:
        length, length_crc = _HEADER.unpack(header)
        if _masked_crc(header[:8]) != length_crc:
            raise _damaged(file, name, "the length has a wrong checksum")
        payload = file.read(length)
        footer = file.read(_FOOTER.size)
    if len(footer) < _FOOTER.size:
        raise _damaged(file, name, "the file ends inside a record")
    if _masked_crc(payload) != _FOOTER.unpack(footer)[0]:
        raise _damaged(file, name, "the payload has a wrong checksum")
    return payload


def _damaged(file: IO[bytes], name: str, what: str) -> DatasetError:
    return _damaged_at(name, file.tell(), what)


def _damaged_at(name: str, place: int, what: str) -> DatasetError:
    return DatasetError(f"{name}: damaged TFRecord near byte {place:,}: {what}. Run the stage that wrote it again.")


def read(location: files.Location) -> Iterator[bytes]:
    """Yield a file's payloads in order, checking both checksums of each.

    Raises:
        DatasetError: A record is cut short or damaged; names the file and the offset.
    """
    for payload, _ in read_checked(location):
        yield payload


def read_checked(location: files.Location) -> Iterator[tuple[bytes, bytes]]:
    """Yield a file's payloads in order, checking both checksums of each, and with it the bytes of its own.

    Raises:
        DatasetError: A record is cut short or damaged; names the file and the offset.
    """
    name = files.name_of(location)
    # Looked up once, and the masking written out: this loop sees every byte of every stage.
    unpack, checksum, pack, headers = _LENGTH.unpack_from, google_crc32c.value, _FOOTER.pack, _headers
    with open_records(location) as file:
        window = bytearray(_WINDOW)
        view = memoryview(window)
        begin = held = 0  # where the window is in the file, and how much of it is filled
        while more := _fill(file, view[held:], name, begin + held):
            held += more
            place = needed = 0
            while held - place >= FRAMING_BYTES:
                (length,) = unpack(window, place)
                if not window.startswith(headers.get(length) or _header(length), place):
                    raise _damaged_at(name, begin + place, "the length has a wrong checksum")
                end = place + FRAMING_BYTES + length
                if end > held:
                    needed = end - place
                    break
                payload = bytes(view[place + 12 : end - 4])
                crc = checksum(payload)
                footer = pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
                if not window.startswith(footer, end - 4):
                    raise _damaged_at(name, begin + place, "the payload has a wrong checksum")
                yield payload, footer
                place = end
            begin += place
            held -= place
            rest = bytes(view[place : place + held])
            if needed > len(window):
                window = bytearray(needed + _WINDOW)
                view = memoryview(window)
            view[:held] = rest
        if held:
            raise _damaged_at(name, begin, "the file ends inside a record")


def _fill(file: IO[bytes], view: memoryview, name: str, place: int) -> int:
    try:
        return file.readinto(view)  # type: ignore[attr-defined,no-any-return]
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged_at(name, place, f"it cannot be inflated ({error})") from error
