"""MXNet RecordIO, read without mxnet.

A record is the magic number, a word with 3 bits of part flag and 29 bits of length, the data, and padding to 4 bytes;
data that holds the magic number at a multiple of 4 is split there, and put together again with it (dmlc-core,
``recordio.h``). The index has a line ``<number> <byte offset>`` for each record.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faceflow.components.common.errors import ArchiveError, SourceError

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_HEAD = struct.Struct("<II")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29
_MOST_RECORD = 256 << 20
_MOST_LINE = 256
_MOST_OFFSET = 1 << 62


def read_index(path: Path, what: str) -> tuple[int, Iterator[tuple[int, int]]]:
    """Read an index.

    An index that is in the order of the file, as all known ones are, is never held in memory.

    Returns:
        How many records it lists, and their numbers and byte offsets, by rising offset.

    Raises:
        SourceError: A line is malformed.
    """
    count, last, ordered = 0, -1, True
    for _, offset in _index_lines(path, what):
        count += 1
        ordered &= offset > last
        last = offset
    if ordered:
        return count, _index_lines(path, what)
    values = array("q")
    for pair in _index_lines(path, what):
        values.extend(pair)
    table = np.frombuffer(values, np.int64).reshape(-1, 2)
    order = np.argsort(table[:, 1], kind="stable")
    return count, ((int(table[place, 0]), int(table[place, 1])) for place in order)


def _index_lines(path: Path, what: str) -> Iterator[tuple[int, int]]:
    row = 0
    try:
        with open(path, encoding="ascii") as file:
            while line := file.readline(_MOST_LINE):
                row += 1
                number, offset = line.split()
                if not 0 <= int(number) < _MOST_OFFSET or not 0 <= int(offset) < _MOST_OFFSET:
                    raise ValueError(f"{line.strip()!r} is out of range")
                yield int(number), int(offset)
    except (OSError, ValueError) as error:
        raise SourceError(
            f"{what}, line {max(row, 1)}: {error}. Each line must read '<number> <byte offset>'."
        ) from error


def read_records(file: Any, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield each record's byte offset and data.

    Args:
        file: Anything with ``read(size)``, at the beginning of a record.
        what: What to call it in an error.

    Raises:
        ArchiveError: The file is damaged or cut short; names the byte.
    """
    offset = begin = 0
    parts: list[bytes] = []
    while True:
        head = file.read(_HEAD.size)
        if not head and not parts:
            return
        if len(head) < _HEAD.size:
            raise _broken(what, offset, "the file ends inside a record")
        magic, word = _HEAD.unpack(head)
        flag, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        if magic != MAGIC or flag > _LAST or (flag in (_WHOLE, _FIRST)) == bool(parts):
            raise _broken(what, offset, "no record begins here")
        if length > _MOST_RECORD or sum(map(len, parts)) + length > _MOST_RECORD:
            raise _broken(what, offset, f"a record has more than {_MOST_RECORD:,} bytes, which no image has")
        padded = -(-length // 4) * 4
        data = file.read(padded)
        if len(data) < padded:
            raise _broken(what, offset, "the file ends inside a record")
        if not parts:
            begin = offset
        parts.append(data[:length])
        offset += _HEAD.size + padded
        if flag in (_WHOLE, _LAST):
            yield begin, _MAGIC_BYTES.join(parts)
            parts = []


def _broken(what: str, offset: int, why: str) -> ArchiveError:
    return ArchiveError(f"{what} is cut short or damaged at byte {offset:,}: {why}. Fetch it again.")
