"""Tar archives, read member by member from a stream (POSIX.1-2017 pax and ustar, GNU tar's and the old V7 format).

A member's header costs 512 bytes of memory, and what precedes it, such as a long name, a megabyte at most, whatever the
archive claims. Nothing is written anywhere. What no set of images needs (links, devices, sparse files) is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from lzma import LZMAError

from faceflow.components.download.streams import Stream

BLOCK = 512
DAMAGE = (zlib.error, LZMAError, EOFError, OSError, ValueError)
"""What reading a damaged archive raises."""

_RECORD = 20 * BLOCK
_MOST_EXTENSION = 1 << 20
_CHECKSUM = slice(148, 156)
_ZEROS = bytes(BLOCK)
_FOLDER, _REGULAR = b"5", (b"0", b"\0", b"7")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_REFUSED = {
    b"1": "is a link or device",
    b"2": "is a link or device",
    b"3": "is a link or device",
    b"4": "is a link or device",
    b"6": "is a link or device",
    b"S": "is a sparse file",
}


class Broken(Exception):
    """The archive is damaged or cut short.

    Attributes:
        member: The member in or after which it broke, or empty.
        inside: Whether it broke inside that member.
        offset: The byte of the unpacked archive.
    """

    def __init__(self, why: str, member: str, inside: bool, offset: int) -> None:
        """Keep where."""
        super().__init__(why)
        self.member = member
        self.inside = inside
        self.offset = offset


class Refused(Exception):
    """A member is of a kind that no set of images needs.

    Attributes:
        member: Its name.
    """

    def __init__(self, why: str, member: str) -> None:
        """Keep the member."""
        super().__init__(why)
        self.member = member


@dataclass(slots=True)
class Entry:
    """A regular file or folder.

    Attributes:
        name: Its name as the archive has it; bytes that are no UTF-8 are surrogates.
        size: Bytes.
        folder: Whether it is a folder.
        offset: The byte of the unpacked archive at which its data begin.
        read: Gives so many of its next bytes; all of them by default.
    """

    name: str
    size: int
    folder: bool
    offset: int
    read: Callable[..., bytes] = field(repr=False, default=lambda: b"")


def entries(stream: Stream, on_second_archive: Callable[[int], None]) -> Iterator[Entry]:
    """Yield the members of a tar.

    Archives that were put one after the other are read as one.

    Args:
        stream: The unpacked bytes; an entry can be read until the next one is asked for.
        on_second_archive: Told the byte at which another archive begins.

    Raises:
        Broken: The archive is damaged or cut short.
        Refused: A member is a link, a device or a sparse file, or has a name or header of absurd length.
    """
    reader = _TarReader(stream, on_second_archive)
    while (entry := reader.next()) is not None:
        yield entry


def is_header(block: bytes) -> bool:
    """Whether a tar can begin so: with a header, or with its end mark."""
    return block == _ZEROS or (len(block) == BLOCK and _checksum_fits(block))


class _TarReader:
    def __init__(self, stream: Stream, on_second_archive: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_second_archive = on_second_archive
        self._left = 0
        self._padding = 0
        self._name = ""
        self._global: dict[str, bytes] = {}

    def next(self) -> Entry | None:
        """The next file or folder; None at the end."""
        self._pass_over(self._left + self._padding, inside=True)
        self._left = self._padding = 0
        long_name: bytes | None = None
        extended: dict[str, bytes] = {}
        while True:
            offset = self._stream.offset
            block = self._read(BLOCK)
            if block == _ZEROS:
                block = self._after_end_mark()
                if not block:
                    return None
                offset = self._stream.offset - BLOCK
            if len(block) < BLOCK:
                raise self._broken("it ends without its end mark", offset)
            if not _checksum_fits(block):
                raise self._broken("a header is damaged", offset)
            kind, size = block[156:157], self._number(block[124:136], "size", offset)
            if kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL):
                data = self._extension(size, offset)
                if kind == _LONG_NAME:
                    long_name = data.split(b"\0", 1)[0]
                elif kind == _PAX:
                    extended = self._pax(data, offset)
                elif kind == _PAX_GLOBAL:
                    self._global |= self._pax(data, offset)
                continue
            return self._entry(block, kind, size, long_name, self._global | extended, offset)

    def _entry(
        self, block: bytes, kind: bytes, size: int, long_name: bytes | None, extended: dict[str, bytes], offset: int
    ) -> Entry:
        raw = block[:100].split(b"\0", 1)[0]
        if block[257:263] == b"ustar\0" and block[345]:
            raw = block[345:500].split(b"\0", 1)[0] + b"/" + raw
        raw = extended.get("path", raw if long_name is None else long_name)
        self._name = raw.decode("utf-8", "surrogateescape")
        if any(label.startswith("GNU.sparse") for label in extended):
            raise Refused("is a sparse file", self._name)
        if kind != _FOLDER and kind not in _REGULAR:
            raise Refused(_REFUSED.get(kind, f"is of the unknown kind {kind!r}"), self._name)
        if "size" in extended:
            if not extended["size"].isdigit():
                raise self._broken(f"a pax header has the size {extended['size'][:20]!r}", offset)
            size = int(extended["size"])
        # A folder has no data, whatever its size says (POSIX: a limit); V7 tells it by its name alone.
        folder = kind == _FOLDER or (kind == b"\0" and raw.endswith(b"/"))
        size = 0 if folder else size
        self._left, self._padding = size, -size % BLOCK
        return Entry(self._name, size, folder, self._stream.offset, self._data)

    def _data(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        begin = self._stream.offset
        try:
            data = self._stream.read(wanted)
        except DAMAGE as error:
            raise Broken(str(error), self._name, True, begin) from error
        if len(data) < wanted:
            raise Broken(f"it ends {self._left - len(data):,} bytes too early", self._name, True, begin + len(data))
        self._left -= wanted
        return data

    def _read(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except DAMAGE as error:
            raise self._broken(str(error), self._stream.offset) from error

    def _pass_over(self, size: int, inside: bool) -> None:
        try:
            missing = size - self._stream.skip(size)
        except DAMAGE as error:
            raise Broken(str(error), self._name, inside, self._stream.offset) from error
        if missing:
            raise Broken(f"it ends {missing:,} bytes too early", self._name, inside, self._stream.offset)

    def _extension(self, size: int, offset: int) -> bytes:
        if size > _MOST_EXTENSION:
            raise Refused(f"at byte {offset:,} follows a header of {size:,} bytes", self._name or "at the beginning")
        data = self._read(size + -size % BLOCK)
        if len(data) < size:
            raise self._broken("it ends inside a header", offset)
        return data[:size]

    def _pax(self, data: bytes, offset: int) -> dict[str, bytes]:
        """The records of a pax header: length, blank, keyword, equals sign, value, end of line."""
        found: dict[str, bytes] = {}
        while data and data != bytes(len(data)):
            length, space, _ = data[:20].partition(b" ")
            if not space or not length.isdigit() or not len(length) + 3 <= int(length) <= len(data):
                raise self._broken("a pax header is damaged", offset)
            keyword, equals, value = data[len(length) + 1 : int(length)].partition(b"=")
            if not equals or not value.endswith(b"\n"):
                raise self._broken("a pax header is damaged", offset)
            if keyword in (b"path", b"size") or keyword.startswith(b"GNU.sparse"):
                found[keyword.decode("latin-1")] = value[:-1]
            data = data[int(length) :]
        return found

    def _after_end_mark(self) -> bytes:
        """Read what follows an end mark: nothing but zeros, or the first header of another archive."""
        mark = self._stream.offset - BLOCK
        while block := self._read(BLOCK):
            begin = self._stream.offset - len(block)
            if not block.strip(b"\0"):
                continue
            if len(block) == BLOCK and _checksum_fits(block):
                self._on_second_archive(begin)
                return block
            # Old programs leave what was in their buffer up to the end of a record.
            if begin >= mark - mark % _RECORD + _RECORD:
                raise self._broken(f"its end mark at byte {mark:,} is followed by something that is no header", begin)
        return b""

    def _number(self, raw: bytes, what: str, offset: int) -> int:
        if raw[0] & 0x80:
            value = int.from_bytes(raw[1:], "big") + ((raw[0] & 0x7F) << 88)
            if raw[0] & 0x40:
                raise self._broken(f"a header has a negative {what}", offset)
            return value
        text = raw.split(b"\0", 1)[0].strip()
        try:
            value = int(text or b"0", 8)
        except ValueError:
            value = -1
        if value < 0:
            raise self._broken(f"a header has the {what} {raw!r}", offset)
        return value

    def _broken(self, why: str, offset: int) -> Broken:
        return Broken(why, self._name, False, offset)


def _checksum_fits(block: bytes) -> bool:
    text = block[_CHECKSUM].split(b"\0", 1)[0].strip()
    try:
        told = int(text or b"0", 8)
    except ValueError:
        return False
    # The checksum's own field counts as blanks.
    total = sum(block) - sum(block[_CHECKSUM]) + 8 * 0x20
    if told == total:
        return True
    # Some programs of old added signed bytes.
    signed = total - 256 * (sum(byte > 127 for byte in block) - sum(byte > 127 for byte in block[_CHECKSUM]))
    return told == signed
