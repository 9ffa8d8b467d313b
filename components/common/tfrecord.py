"""TFRecord framing without TensorFlow.

A record is an 8-byte little-endian length, the masked CRC-32C of those 8 bytes, the payload, and the masked CRC-32C of
the payload (the format of ``tensorflow/core/lib/io/record_writer.h``).
"""

from __future__ import annotations

import gzip
import hashlib
import struct
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import google_crc32c

from faceflow.components.common import files
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.manifest import ShardInfo

COMPRESSIONS = ("none", "gzip")
_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
HEADER_BYTES = _HEADER.size
FRAMING_BYTES = _HEADER.size + _FOOTER.size
_LENGTH = struct.Struct("<Q")
_WINDOW = 512 << 10  # fits a core's cache, so that the checksum and the copy of a record find it there
_BLOCK = 1 << 20
_LET_GO = 4 << 20
_UNDERWAY = 4  # blocks that wait to be written: a thread that has to wait for the interpreter holds nobody up
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


def unframed(frame: bytes, location: str, place: int) -> bytes:
    """The payload of a framed record.

    Args:
        frame: The record.
        location: The file that it comes from, for an error.
        place: Where it was in that file.

    Raises:
        DatasetError: A checksum is wrong.
    """
    payload = frame[12:-4]
    header, _, footer = framing(payload)
    if not (frame.endswith(footer) and frame.startswith(header)):
        raise _damaged_at(files.name_of(location), place, "a checksum is wrong")
    return payload


class Writer:
    """Writes payloads to one TFRecord file, which appears when it is closed, and keeps its digest as it goes.

    Args:
        location: The file to write; a name that ends in ``.gz`` makes it a gzip file.
        behind: An executor of one thread that hashes and writes blocks while the next one is put together; without
            it that happens at once.
        read_soon: Whether somebody reads the file soon, so that memory should cache it.

    Attributes:
        records: Payloads written.
        bytes_written: Bytes of records written, framing included, before compression.
    """

    def __init__(self, location: files.Location, behind: Executor | None = None, *, read_soon: bool = True) -> None:
        """Open the file."""
        self._creation = files.create(location)
        self._file = self._creation.file
        self._digest = hashlib.sha256()
        self._behind = behind
        self._read_soon = read_soon
        self._underway: deque[Future[None]] = deque()
        # Unlike gzip's own, zlib's header has neither time nor name in it.
        self._deflate = zlib.compressobj(_GZIP_LEVEL, wbits=31) if is_gzip(location) else None
        self._held: list[bytes | memoryview] = []
        self._held_bytes = 0
        self.records = 0
        self.bytes_written = 0
        self._stored = 0
        self._let_go = 0
        self._adopted = ""

    def write(self, payload: bytes) -> None:
        """Append a payload."""
        self._held += framing(payload)
        self._appended(len(payload) + FRAMING_BYTES, 1)

    def write_all(self, payloads: Sequence[bytes]) -> None:
        """Append payloads."""
        hold = self._held.extend
        for payload in payloads:
            hold(framing(payload))
        self._appended(sum(map(len, payloads)) + FRAMING_BYTES * len(payloads), len(payloads))

    def write_frame(self, frame: bytes | memoryview) -> None:
        """Append a payload that is framed already."""
        self._held.append(frame)
        self._appended(len(frame), 1)

    def adopt(self, path: Path, shard: ShardInfo) -> None:
        """Take another TFRecord file for this one, in place of whatever was written; they may share their bytes."""
        self._held, self._held_bytes = [], 0
        self._creation.adopt(path)
        self._adopted = shard.sha256
        self.records, self.bytes_written, self._stored = shard.records, shard.bytes, shard.bytes

    def _appended(self, size: int, records: int) -> None:
        self.records += records
        self.bytes_written += size
        self._held_bytes += size
        if self._held_bytes >= _BLOCK:
            self._flush()

    def _flush(self) -> None:
        block = b"".join(self._held)
        self._held = []
        self._held_bytes = 0
        if self._behind is None:
            self._store(block)
        else:
            self._wait(_UNDERWAY - 1)
            self._underway.append(self._behind.submit(self._store, block))

    def _wait(self, most: int = 0) -> None:
        """Until no more than so many blocks wait to be written."""
        while len(self._underway) > most:
            self._underway.popleft().result()

    def _store(self, block: bytes) -> None:
        self._put(block if self._deflate is None else self._deflate.compress(block))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self._stored += len(data)
        if not self._read_soon and self._stored - self._let_go >= _LET_GO:
            self._creation.let_go()
            self._let_go = self._stored

    def close(self) -> None:
        """Put the file in place."""
        if not self._adopted:
            self._flush()
            self._wait()
            if self._deflate is not None:
                self._put(self._deflate.flush())
        self._creation.commit()

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of the file, once it is closed."""
        return self._adopted or self._digest.hexdigest()

    @property
    def file_bytes(self) -> int:
        """Bytes of the file, once it is closed."""
        return self._stored

    def discard(self) -> None:
        """Forget what was written."""
        wait(self._underway)
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
    for window in windows(location):
        yield from window.payloads()


@dataclass(frozen=True, slots=True)
class Window:
    """Some consecutive records of a file, whole.

    Attributes:
        name: What to call the file in an error.
        place: Offset of the first of them in the file, in bytes before compression.
        data: Their frames, one behind the other.
        begins: Where in the data each frame begins, and where the last one ends.
    """

    name: str
    place: int
    data: bytes
    begins: list[int]

    def __len__(self) -> int:
        """Number of records."""
        return len(self.begins) - 1

    def payloads(self, numbers: Iterable[int] | None = None) -> Iterator[bytes]:
        """Yield the payloads in order, all or those of the given numbers, checking the checksum of each.

        Raises:
            DatasetError: One is damaged.
        """
        # Looked up once, and the masking written out: this loop sees every byte of every stage.
        data, checksum, pack, begins = self.data, google_crc32c.value, _FOOTER.pack, self.begins
        for number in range(len(self)) if numbers is None else numbers:
            begin, end = begins[number], begins[number + 1]
            payload = data[begin + 12 : end - 4]
            crc = checksum(payload)
            if not data.startswith(pack(((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF), end - 4):
                raise _damaged_at(self.name, self.place + begin, "the payload has a wrong checksum")
            yield payload


def windows(location: files.Location, size: int = _WINDOW) -> Iterator[Window]:
    """Yield a file's records, about so many bytes at a time. The checksums of their lengths are checked.

    Raises:
        DatasetError: A record is cut short, or its length is damaged; names the file and the offset.
    """
    name = files.name_of(location)
    unpack, headers = _LENGTH.unpack_from, _headers
    with open_records(location) as file:
        place, data = 0, b""
        wanted = size
        while more := _read(file, wanted, name, place + len(data)):
            data += more
            wanted = size
            begins = [0]
            begin = 0
            last = len(data) - FRAMING_BYTES
            while begin <= last:
                (length,) = unpack(data, begin)
                if not data.startswith(headers.get(length) or _header(length), begin):
                    raise _damaged_at(name, place + begin, "the length has a wrong checksum")
                end = begin + FRAMING_BYTES + length
                if end > len(data):
                    wanted = max(size, end - len(data))
                    break
                begins.append(end)
                begin = end
            if begin:
                yield Window(name, place, data, begins)
                place += begin
                data = data[begin:]
        if data:
            raise _damaged_at(name, place, "the file ends inside a record")


def _read(file: IO[bytes], size: int, name: str, place: int) -> bytes:
    try:
        return file.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _damaged_at(name, place, f"it cannot be inflated ({error})") from error
