"""TFRecord framing without TensorFlow.

A record is an 8-byte little-endian length, the masked CRC-32C of those 8 bytes, the payload, and the masked CRC-32C of
the payload (the format of ``tensorflow/core/lib/io/record_writer.h``).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c

from faceflow.components.common.errors import DatasetError

_HEADER = struct.Struct("<QI")
_FOOTER = struct.Struct("<I")
_BUFFER = 1 << 20


def _masked_crc(data: bytes) -> int:
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class Writer:
    """Writes payloads to one TFRecord file and keeps its digest as it goes.

    Args:
        path: The file to write.

    Attributes:
        records: Payloads written.
        bytes_written: Bytes written, framing included.
    """

    def __init__(self, path: Path) -> None:
        """Open the file."""
        self._file = open(path, "wb", buffering=_BUFFER)  # noqa: SIM115 - closed by close()
        self._digest = hashlib.sha256()
        self.records = 0
        self.bytes_written = 0

    def write(self, payload: bytes) -> int:
        """Append a payload; returns the offset, in bytes, at which its record begins."""
        length = struct.pack("<Q", len(payload))
        framed = b"".join(
            (length, _FOOTER.pack(_masked_crc(length)), payload, _FOOTER.pack(_masked_crc(payload)))
        )
        self._file.write(framed)
        self._digest.update(framed)
        offset = self.bytes_written
        self.records += 1
        self.bytes_written += len(framed)
        return offset

    @property
    def sha256(self) -> str:
        """SHA-256, in hexadecimal, of everything written so far."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Flush and close the file."""
        self._file.close()

    def __enter__(self) -> Writer:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file."""
        self.close()


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
    return DatasetError(
        f"{name}: damaged TFRecord near byte {file.tell():,}: {what}. Run the stage that wrote it again."
    )


def read(path: Path) -> Iterator[bytes]:
    """Yield a file's payloads in order, checking both checksums of each.

    Raises:
        DatasetError: A record is cut short or damaged; names the file and the offset.
    """
    with open(path, "rb", buffering=_BUFFER) as file:
        while (payload := read_at(file, path.name)) is not None:
            yield payload
