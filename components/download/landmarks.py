"""Landmark files of the Trillion Pairs sets: ``<path> [<label>] x1 y1 .. x5 y5`` on each line.

The path may hold spaces, so lines are parsed from the right; the test set's file has no label. Labels number nothing
here, since an identity is its folder, but they are looked at: they run over the sets with gaps (msra 0 to 86,875,
celebrity on to 196,319 for fewer identities than that), and whoever takes them for class indices gets dead classes or
labels out of range.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from lzma import LZMAError
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.download.items import clean
from faceflow.components.download.members import MAX_EXPANSION, Members
from faceflow.components.download.streams import STEP, Stream
from faceflow.components.download.tables import NameIndex
from faceflow.components.download.tar import BLOCK, is_header
from faceflow.components.download.zips import STARTS

_log = logging.getLogger("faceflow.download")
_COORDINATES = 10
_ROW_BYTES = 4 * _COORDINATES
_ROWS_AT_ONCE = 1 << 12
_MOST_LINE_BYTES = 1 << 16
FARTHEST = 1e6
"""Pixels; no image is so large."""

LABEL_RANGES = {"msra": (0, 86_875), "celebrity": (86_876, 196_319)}
"""First and last label of the published sets."""


class Row(NamedTuple):
    """A landmark row: the image's path, its label, or None without one, and x1 y1 .. x5 y5 in pixels."""

    path: str
    label: int | None
    values: list[float]


class Labels:
    """What the labels of a landmark file look like."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[str, int] = {}
        self._several: set[str] = set()
        self._outside: Counter[str] = Counter()
        self.rows = 0

    def add(self, row: Row) -> None:
        """Look at a row."""
        if row.label is None:
            return
        self.rows += 1
        parts = row.path.split("/")
        identity = parts[-2] if len(parts) > 1 else ""
        if self._of.setdefault(identity, row.label) != row.label:
            self._several.add(identity)
        first, last = LABEL_RANGES.get(parts[0], (0, None)) if len(parts) > 2 else (0, None)
        if row.label < first or (last is not None and row.label > last):
            self._outside[f"{first:,} to {last:,}" if last is not None else "0 and above"] += 1

    @property
    def unmatched(self) -> dict[str, int]:
        """What is odd about them, by what it is."""
        used = set(self._of.values())
        gaps = max(used) - min(used) + 1 - len(used) if used else 0
        return {
            "label numbers that no identity has": gaps,
            "rows with a label out of range": self._outside.total(),
            "identities with several labels": len(self._several),
            "identities that share their label with another": len(self._of) - len(used),
        }

    def __str__(self) -> str:
        """Say it in a sentence."""
        used = set(self._of.values())
        if not used:
            return "no labels"
        outside = "".join(f"; {count:,} rows lie outside {allowed}" for allowed, count in self._outside.items())
        return f"labels {min(used):,} to {max(used):,} for {len(self._of):,} identities{outside}"


class Landmarks:
    """The landmarks of a set, by the last two parts of an image's path.

    In memory are 13 bytes a row; the coordinates are in a temporary file.

    Args:
        path: The file, or the parts that it was cut into: plain text, compressed, or alone in a tar or zip.
        what: What to call it in an error.
        scratch: The folder for the temporary file; the system's by default.
        max_expansion: How many times its size the file may unpack to.
        md5: The MD5 that an archive of this name has as it was published; another one is told in the log.

    Attributes:
        rows: Lines that could be read.
        malformed: Lines that could not.
        labels: What their labels look like.
        sha256: Digest of the file.

    Raises:
        SourceError: No line can be read.
        ArchiveError: The file is damaged.
    """

    def __init__(
        self,
        path: Path | list[Path],
        what: str,
        scratch: Path | None = None,
        max_expansion: int = MAX_EXPANSION,
        md5: str = "",
    ) -> None:
        """Read the whole file."""
        self._paths = [path] if isinstance(path, Path) else path
        self._what = what
        self._max_expansion = max_expansion
        self._md5 = md5
        self.malformed = 0
        self.example = ""
        self.labels = Labels()
        self.sha256 = ""
        self._file = cast(BinaryIO, tempfile.TemporaryFile(buffering=0, dir=scratch))  # noqa: SIM115 - closed with it
        self._block = -1
        self._points: NDArray[np.float32] = np.empty((0, 5, 2), np.float32)
        self._index = NameIndex(self._gather())
        self.rows = len(self._index.found)
        if not self.rows:
            raise SourceError(
                f"{what} has no landmark row ({self.malformed:,} other lines): each must read "
                "'<set>/<identity>/<file> <label> x1 y1 x2 y2 x3 y3 x4 y4 x5 y5'."
            )

    def _gather(self) -> Iterator[str]:
        values = array("f")
        for number, row in self._read():
            if row is None:
                self.malformed += 1
                if self.malformed == 1:
                    _log.warning("%s: line %d is no landmark row", self._what, number)
                continue
            values.extend(row.values)
            if len(values) >= _ROWS_AT_ONCE * _COORDINATES:
                self._file.write(values.tobytes())
                del values[:]
            self.labels.add(row)
            self.example = self.example or row.path
            yield short_path(row.path)
        self._file.write(values.tobytes())

    def _read(self) -> Iterator[tuple[int, Row | None]]:
        for number, line in enumerate(self._lines(), start=1):
            yield number, parse_line(line)

    def _lines(self) -> Iterator[str]:
        """The lines of a text that is plain, compressed, or alone in an archive."""
        what = self._what
        try:
            if self._is_archive():
                members = Members(self._paths, what, self._max_expansion, self._md5)
                texts = 0
                for member in members:
                    if member.hidden:
                        continue
                    texts += 1
                    if texts > 1:
                        raise SourceError(
                            f"{what} holds several files, such as {member.name}: give the one with the rows."
                        )
                    yield from split_lines(member.pieces(), what)
                self.sha256, self._md5 = members.sha256 or "", ""
                return
            with Stream(self._paths, what, self._max_expansion) as stream:
                yield from split_lines(iter(lambda: stream.read(STEP), b""), what)
                self.sha256 = stream.sha256
        except (EOFError, zlib.error, LZMAError) as error:
            raise ArchiveError(f"{what} is cut short or damaged ({error}): fetch it again.") from error
        except OSError as error:
            raise SourceError(f"{what} cannot be read ({error.strerror or error}): check the path.") from error

    def _is_archive(self) -> bool:
        with Stream(self._paths, self._what, self._max_expansion) as stream:
            start = stream.read(BLOCK)
        return start.startswith(STARTS) or is_header(start)

    def find(self, identity: str, file: str) -> NDArray[np.float32] | None:
        """The (5, 2) landmarks of an image, in its pixels; None if it has no row."""
        place = self._index.find(f"{identity}/{file}")
        if place < 0:
            return None
        block, row = divmod(place, _ROWS_AT_ONCE)
        if block != self._block:
            data = os.pread(self._file.fileno(), _ROWS_AT_ONCE * _ROW_BYTES, block * _ROWS_AT_ONCE * _ROW_BYTES)
            self._block, self._points = block, np.frombuffer(data, np.float32).reshape(-1, 5, 2)
        points: NDArray[np.float32] = self._points[row]
        return points

    @property
    def unused(self) -> int:
        """Rows that no image asked for."""
        return int((~self._index.found).sum())

    def unused_paths(self) -> Iterator[str]:
        """Their paths, in file order, read from the file once more."""
        if self.unused:
            rows = (row for _, row in self._read() if row is not None)
            for row, found in zip(rows, self._index.found, strict=True):
                if not found:
                    yield row.path

    @property
    def repeated(self) -> int:
        """Rows whose path an earlier row has too; the earlier one counts."""
        return self._index.repeated


def short_path(path: str) -> str:
    """The last two parts of a path, ``<identity>/<file>``: the archive and its list may differ in what is before."""
    return "/".join(path.split("/")[-2:])


def parse_line(line: str) -> Row | None:
    """Parse a landmark row; None if it is none."""
    tokens = line.rstrip("\r\n ").rsplit(" ", _COORDINATES)
    if len(tokens) != _COORDINATES + 1:
        return None
    try:
        values = [float(token) for token in tokens[1:]]
    except ValueError:
        return None
    label = None
    path, _, last = tokens[0].rpartition(" ")
    if path and last.removeprefix("-").isdecimal() and "." in path.rpartition("/")[2]:
        label = int(last)
    else:
        path = tokens[0]
    if not path or not math.isfinite(sum(values)) or max(values) > FARTHEST or min(values) < -FARTHEST:
        return None
    return Row(clean(path), label, values)


def split_lines(pieces: Iterable[bytes], what: str) -> Iterator[str]:
    """Cut a text into lines; bytes that are no UTF-8 become surrogates.

    Raises:
        SourceError: A line is longer than any list's.
    """
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "surrogateescape")
        if len(rest) > _MOST_LINE_BYTES:
            raise SourceError(f"{what} has a line of more than {_MOST_LINE_BYTES:,} bytes: it is no list of rows.")
    if rest:
        yield rest.decode("utf-8", "surrogateescape")
