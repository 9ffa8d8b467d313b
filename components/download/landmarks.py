"""Landmark files of the Trillion Pairs sets: ``<path> [<label>] x1 y1 .. x5 y5`` on each line.

The path may hold spaces, so lines are parsed from the right; the test set's file has no label. Labels are left alone:
they run over the sets with gaps (msra 0 to 86,875, celebrity on to 196,319 for fewer identities than that), and an
identity is its folder.
"""

from __future__ import annotations

import gzip
import logging
import math
import tarfile
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.download.items import clean
from faceflow.components.download.members import Members
from faceflow.components.download.tables import NameIndex

_log = logging.getLogger("faceflow.download")
_COORDINATES = 10


class Landmarks:
    """The landmarks of a set, by the last two parts of an image's path.

    Args:
        path: The file: plain text, gzipped, or alone in a tar.
        what: What to call it in an error.

    Attributes:
        rows: Lines that could be read.
        malformed: Lines that could not.

    Raises:
        SourceError: No line can be read.
        ArchiveError: The file is damaged.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Read the whole file."""
        values = array("f")
        self.malformed = 0
        self.example = ""

        def names() -> Iterator[str]:
            for number, line in enumerate(_lines(path, what), start=1):
                parsed = parse_line(line)
                if parsed is None:
                    self.malformed += 1
                    if self.malformed == 1:
                        _log.warning("%s: line %d is no landmark row: %.80r", what, number, line)
                    continue
                values.extend(parsed[1])
                self.example = self.example or parsed[0]
                yield short_path(parsed[0])

        self._index = NameIndex(names())
        self._points: NDArray[np.float32] = np.frombuffer(values, np.float32).reshape(-1, 5, 2)
        self.rows = len(self._points)
        if not self.rows:
            raise SourceError(
                f"{what} has no landmark row ({self.malformed:,} other lines): each must read "
                "'<set>/<identity>/<file> <label> x1 y1 x2 y2 x3 y3 x4 y4 x5 y5'."
            )

    def find(self, identity: str, file: str) -> NDArray[np.float32] | None:
        """The (5, 2) landmarks of an image, in its pixels; None if it has no row."""
        place = self._index.find(f"{identity}/{file}")
        return None if place < 0 else self._points[place].copy()

    @property
    def unused(self) -> int:
        """Rows that no image asked for."""
        return int((~self._index.found).sum())

    @property
    def repeated(self) -> int:
        """Rows whose path an earlier row has too; the earlier one counts."""
        return self._index.repeated


def short_path(path: str) -> str:
    """The last two parts of a path, ``<identity>/<file>``: the archive and its list may differ in what is before."""
    return "/".join(path.split("/")[-2:])


def parse_line(line: str) -> tuple[str, list[float]] | None:
    """The path and the ten coordinates of a landmark row; None if it is none."""
    tokens = line.rstrip("\r\n ").rsplit(" ", _COORDINATES)
    if len(tokens) != _COORDINATES + 1:
        return None
    try:
        values = [float(token) for token in tokens[1:]]
    except ValueError:
        return None
    path, _, label = tokens[0].rpartition(" ")
    if not (path and label.isdecimal() and PurePosixPath(path).suffix):
        path = tokens[0]
    if not path or not all(math.isfinite(value) for value in values):
        return None
    return clean(path), values


def _lines(path: Path, what: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            start = file.read(2)
        if start == b"\x1f\x8b" or tarfile.is_tarfile(path):
            if not tarfile.is_tarfile(path):
                with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="\n") as text:
                    yield from text
                return
            texts = 0
            for member in Members(path, what):
                if member.hidden:
                    continue
                texts += 1
                if texts > 1:
                    raise SourceError(f"{what} holds several files, such as {member.name}: give the one with the rows.")
                yield from member.read().decode(errors="surrogateescape").split("\n")
            return
        with open(path, encoding="utf-8", errors="surrogateescape", newline="\n") as text:
            yield from text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ArchiveError(f"{what} is cut short or damaged ({error}): fetch it again.") from error
    except OSError as error:
        raise SourceError(f"{what} cannot be read ({error.strerror or error}): check the path.") from error
