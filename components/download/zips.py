"""Zip archives, read through their central directory without holding it (PKWARE's APPNOTE 6.3, zip64 included).

The directory is read twice, in pieces: once to see that it makes sense, once to read the members. Members that overlap,
as those of a bomb do, a directory that does not fit the file, encryption and exotic compressions are refused.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from faceflow.components.download.streams import SMALL, PartedFile
from faceflow.components.download.tar import Broken, Refused

STARTS = (b"PK\x03\x04", b"PK\x05\x06")
_END = struct.Struct("<4s4H2LH")
_END64_PLACE = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_MOST_COMMENT = 0xFFFF
_UNKNOWN, _UNKNOWN_SHORT = 0xFFFFFFFF, 0xFFFF
_STORED, _DEFLATED = 0, 8
_DEFLATE_OVERHEAD = 1 << 16


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """What the central directory says of a member.

    Attributes:
        name: Its name.
        raw_name: The bytes of its name.
        size: Bytes.
        packed: Bytes in the archive.
        offset: Where its local header begins in the file.
        method: How it is compressed.
        crc: CRC-32 of its bytes.
        folder: Whether it is a folder.
    """

    name: str
    raw_name: bytes
    size: int
    packed: int
    offset: int
    method: int
    crc: int
    folder: bool


class ZipReader:
    """Reads a zip.

    Args:
        file: The archive.
        max_expansion: How many times its packed size a member, or all of them, may have beyond what is small.

    Attributes:
        count: Members, folders included.

    Raises:
        Broken: The archive is damaged or cut short.
        Refused: It is a bomb.
    """

    def __init__(self, file: PartedFile, max_expansion: int) -> None:
        """Find the central directory and check it."""
        self._file = file
        self._max_expansion = max_expansion
        self._begin, self._end, self.count = self._find_directory()
        self._check()

    def _find_directory(self) -> tuple[int, int, int]:
        """Where the central directory begins and ends, and its number of entries."""
        size = self._file.size
        tail_begin = max(0, size - _END.size - _MOST_COMMENT)
        tail = self._file.read_at(tail_begin, size - tail_begin)
        place = tail.rfind(b"PK\x05\x06")
        while place >= 0 and (
            place + _END.size > len(tail) or place + _END.size + _END.unpack_from(tail, place)[7] != len(tail)
        ):
            place = tail.rfind(b"PK\x05\x06", 0, place)
        if place < 0:
            raise Broken("it ends without a central directory", "", False, size)
        _, disk, first_disk, _, count, length, offset, _ = _END.unpack_from(tail, place)
        end = tail_begin + place
        if count == _UNKNOWN_SHORT or length == _UNKNOWN or offset == _UNKNOWN:
            found = self._file.read_at(max(0, end - _END64_PLACE.size), _END64_PLACE.size)
            if end >= _END64_PLACE.size and found.startswith(b"PK\x06\x07"):
                end = _END64_PLACE.unpack(found)[2]
                raw = self._file.read_at(end, _END64.size)
                if len(raw) < _END64.size or not raw.startswith(b"PK\x06\x06"):
                    raise Broken("its zip64 end record is missing", "", False, end)
                record = _END64.unpack(raw)
                disk, first_disk, count, length, offset = record[4], record[5], record[7], record[8], record[9]
        if disk or first_disk:
            raise Refused("belongs to an archive of several volumes: join them with `zip -s 0`, and so", "its end")
        if offset + length != end:
            raise Broken("its central directory is not where it should be", "", False, end)
        return offset, end, count

    def entries(self) -> Iterator[ZipEntry]:
        """Yield what the central directory says, in its order.

        Raises:
            Broken: It is damaged.
            Refused: A member is encrypted or a link or device.
        """
        at, last, met = self._begin, "", 0
        window = io.BufferedReader(_Slice(self._file, self._begin, self._end), 1 << 20)
        while at < self._end:
            fixed = window.read(_CENTRAL.size)
            if len(fixed) < _CENTRAL.size or not fixed.startswith(b"PK\x01\x02"):
                raise Broken("its central directory is damaged", last, False, at)
            fields = _CENTRAL.unpack(fixed)
            flags, method, crc, packed, size = fields[3], fields[4], fields[7], fields[8], fields[9]
            name_length, extra_length, comment_length, mode, offset = *fields[10:13], fields[15] >> 16, fields[16]
            variable = window.read(name_length + extra_length + comment_length)
            raw = variable[:name_length]
            last = _decoded(raw, flags)
            if len(variable) < name_length + extra_length + comment_length:
                raise Broken("its central directory is damaged", last, False, at)
            size, packed, offset = _extended(
                variable[name_length : name_length + extra_length], size, packed, offset, last, at
            )
            if flags & 0x41:
                raise Refused("is encrypted", last)
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise Refused("is a link or device", last)
            met += 1
            at += len(fixed) + len(variable)
            folder = raw.endswith((b"/", b"\\"))
            yield ZipEntry(last, raw, size, packed, offset, method, crc, folder)
        if met != self.count and met & 0xFFFF != self.count:
            raise Broken(f"it has {met:,} members, but should have {self.count:,}", last, False, self._end)

    def _check(self) -> None:
        """See that no two members share bytes, none lies outside, and all together are no bomb."""
        begins, ends = array("q"), array("q")
        total = 0
        for entry in self.entries():
            begin, end = entry.offset, entry.offset + _LOCAL.size + len(entry.raw_name) + entry.packed
            if begin < 0 or end > self._begin:
                raise Broken("it lies outside the archive", entry.name, True, entry.offset)
            if entry.size > max(SMALL, self._max_expansion * entry.packed):
                raise Refused(
                    f"unpacks from {entry.packed:,} to {entry.size:,} bytes, more than {self._max_expansion} times, "
                    "as a bomb does",
                    entry.name,
                )
            begins.append(begin)
            ends.append(end)
            total += entry.size
        starts, stops = np.frombuffer(begins, np.int64), np.frombuffer(ends, np.int64)
        order = np.argsort(starts, kind="stable")
        overlapping = np.flatnonzero(starts[order][1:] < stops[order][:-1])
        if len(overlapping):
            place = int(order[overlapping[0] + 1])
            name = next(entry.name for index, entry in enumerate(self.entries()) if index == place)
            raise Refused("overlaps another, as the members of a bomb do", name)
        if total > max(SMALL, self._max_expansion * self._file.size):
            raise Refused(f"and the others unpack to {total:,} bytes, as a bomb does", "its first")

    def read(self, entry: ZipEntry) -> bytes:
        """A member's bytes.

        Raises:
            Broken: They are damaged.
            Refused: They are compressed in a way that is not read.
        """

        def broken(why: str) -> Broken:
            return Broken(why, entry.name, True, entry.offset)

        header = self._file.read_at(entry.offset, _LOCAL.size)
        if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
            raise broken("no member begins there")
        fields = _LOCAL.unpack(header)
        name_length, extra_length = fields[9], fields[10]
        if self._file.read_at(entry.offset + _LOCAL.size, name_length) != entry.raw_name:
            raise broken("its own header has another name than the central directory")
        if entry.method not in (_STORED, _DEFLATED):
            why = f"is compressed by method {entry.method}, and only stored and deflated ones are read"
            raise Refused(why, entry.name)
        if entry.packed > entry.size + entry.size // 8 + _DEFLATE_OVERHEAD:
            raise broken(f"{entry.packed:,} bytes cannot be what {entry.size:,} were packed to")
        data = self._file.read_at(entry.offset + _LOCAL.size + name_length + extra_length, entry.packed)
        if len(data) < entry.packed:
            raise broken("it ends inside the member")
        if entry.method == _DEFLATED:
            inflate = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = inflate.decompress(data, entry.size + 1)
            except zlib.error as error:
                raise broken(str(error)) from error
        if len(data) != entry.size:
            raise broken(f"it does not unpack to its {entry.size:,} bytes")
        if zlib.crc32(data) != entry.crc:
            raise broken("its CRC is wrong")
        return data


class _Slice(io.RawIOBase):
    """Some bytes of a file; others may seek in it in between."""

    def __init__(self, file: PartedFile, begin: int, end: int) -> None:
        self._file = file
        self._at = begin
        self._end = end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._at)
        count = self._file.readinto(memoryview(buffer)[: self._end - self._at])
        self._at += count
        return count


def _decoded(raw: bytes, flags: int) -> str:
    """A member's name; many programs write UTF-8 without setting the flag that says so."""
    if flags & 0x800:
        return raw.decode("utf-8", "surrogateescape")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp437")


def _extended(extra: bytes, size: int, packed: int, offset: int, name: str, at: int) -> tuple[int, int, int]:
    """The sizes and the offset, those that do not fit 32 bits taken from the zip64 field."""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<HH", extra)
        value, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind != 1:
            continue
        numbers = [size, packed, offset]
        for index, number in enumerate(numbers):
            if number == _UNKNOWN:
                if len(value) < 8:
                    raise Broken("its zip64 field is damaged", name, False, at)
                numbers[index] = int.from_bytes(value[:8], "little")
                value = value[8:]
        return numbers[0], numbers[1], numbers[2]
    return size, packed, offset
