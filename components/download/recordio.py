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
from numpy.typing import NDArray

from faceflow.components.common.errors import ArchiveError, SourceError

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_HEAD = struct.Struct("<II")
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29


def read_index(path: Path, what: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read an index.

    Returns:
        The records' numbers and byte offsets, both (N,), by rising offset.

    Raises:
        SourceError: A line is malformed.
    """
    values = array("q")
    try:
        with open(path, encoding="ascii") as file:
            for line in file:
                number, offset = line.split()
                values.extend((int(number), int(offset)))
    except (OSError, ValueError, OverflowError) as error:
        raise SourceError(
            f"{what}, line {len(values) // 2 + 1}: {error}. Each line must read '<number> <byte offset>'."
        ) from error
    table = np.frombuffer(values, np.int64).reshape(-1, 2)
    table = table[np.argsort(table[:, 1], kind="stable")]
    return table[:, 0], table[:, 1]


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
