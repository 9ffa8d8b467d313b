"""MegaFace distractors and FaceScrub probes: images that a list names.

Lists of a protocol are JSON with ``path`` and, for probes, ``id`` (the development kit's ``templatelists``), or text
with a path at the beginning of each line, and maybe the face's box behind it as ``x1,y1,x2,y2`` (what follows, such as
the 106 landmarks in FaceX-Zoo's ``facescrub_face_info.txt``, is not read). Only listed images are read, and each of
them must be there: a protocol without some of its images would give another number.

FaceScrub's own lists (``facescrub_actors.txt``, ``facescrub_actresses.txt``) are tables of addresses, many of which are
dead by now, with the face's box in the column ``bbox``. Of them what is there is read; images are named
``<Name>/<Name>_<image id>``, with any ending.
"""

from __future__ import annotations

import gzip
import json
import logging
import math
import zlib
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.download.items import Item, Reader, clean
from faceflow.components.download.landmarks import FARTHEST
from faceflow.components.download.members import Members
from faceflow.components.download.tables import NameIndex

_MOST_LIST_BYTES = 256 << 20
_TABLE = ("name", "image_id", "face_id", "url", "bbox", "sha256")
_NO_BOX = (math.nan,) * 4
_NO_BOXES = np.empty((0, 4), np.float32)
_log = logging.getLogger("faceflow.download")


@dataclass(frozen=True, eq=False)
class ImageList:
    """A list of images.

    Attributes:
        paths: ``<folder>/<file>`` of each; of a table without the ending.
        ids: Whose each is; empty where the list does not say.
        table: Whether it is a table of addresses, of whose images some may be missing.
        boxes: (N, 4) float32 left, top, right and bottom of each face, pixels; nan where there is no box, and empty
            where the list has none.
        bad_boxes: Entries with a malformed box.
    """

    paths: list[str]
    ids: list[str] = field(default_factory=list)
    table: bool = False
    boxes: NDArray[np.float32] = field(default_factory=lambda: _NO_BOXES)
    bad_boxes: int = 0

    def box(self, place: int) -> NDArray[np.float32] | None:
        """The (4,) box of an entry."""
        if not len(self.boxes) or np.isnan(self.boxes[place, 0]):
            return None
        found: NDArray[np.float32] = self.boxes[place]
        return found


class ListedImages(Reader):
    """Reads the images of a list.

    An image's identity is its ``id``, or the folders that it lies in.

    Args:
        members: The folder or archive; folders around the listed paths do not matter.
        listed: The list.
        what: What to call the list in an error.

    Raises:
        SourceError: The list is malformed.
    """

    def __init__(self, members: Members, listed: Path, what: str) -> None:
        """Read the list."""
        self._members = members
        self._what = what
        self._list_file = listed
        self._list = read_list(listed, what)
        self._index = NameIndex(self._list.paths)
        self._unlisted = 0

    @property
    def total(self) -> int | None:
        """As many as the list names."""
        return len(self._list.paths) - self._index.repeated

    def items(self) -> Iterator[Item]:
        """Yield the listed images, in the order of the folder or archive.

        Raises:
            SourceError: One is missing, and the list is that of a protocol.
        """
        for member in self._members:
            place = self._place(member.parts)
            if place < 0:
                self._unlisted += 1
                continue
            folder = self._list.paths[place].rpartition("/")[0]
            file = member.parts[-1]
            identity = self._list.ids[place] if self._list.ids else folder
            yield Item(identity, file, member.name, member.size, member.read, box=self._list.box(place))
        missing = self._missing
        if len(missing) and not self._list.table:
            raise SourceError(
                f"{self._what} names {self._list.paths[missing[0]]}, which is not among the images "
                f"({len(missing):,} of {len(self._list.paths):,} are missing). Give the images that the list was made "
                "for."
            )

    def _place(self, parts: list[str]) -> int:
        if self._list.table:
            parts = [*parts[:-1], parts[-1].rpartition(".")[0]]
        for begin in range(len(parts)):
            place = self._index.find("/".join(parts[begin:]))
            if place >= 0:
                return place
        return -1

    @property
    def _missing(self) -> list[int]:
        found: list[int] = (~self._index.found).nonzero()[0].tolist()
        return found

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of the archive and the list."""
        archive = self._members.sha256
        return ({"path": archive} if archive else {}) | {"list": file_sha256(self._list_file)}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """What the list leaves out, and what it names in vain."""
        return {
            "files that the list does not name": self._unlisted,
            "list entries repeated": self._index.repeated,
            "list entries without an image": len(self._missing),
            "list entries with a malformed box": self._list.bad_boxes,
        }

    def unmatched_rows(self) -> Iterator[tuple[str, str, str]]:
        """The entries of a table without an image."""
        for place in self._missing:
            folder, _, file = self._list.paths[place].rpartition("/")
            yield self._list.ids[place] if self._list.ids else folder, file, "a list entry without an image"


def read_list(path: Path, what: str) -> ImageList:
    """Read a list, plain or gzipped.

    Raises:
        SourceError: It is malformed.
    """
    text = _text(path, what)
    if text.lstrip()[:1] in ("{", "["):
        return _read_json(text, what)
    lines = text.split("\n")
    if tuple(lines[0].strip().lower().split("\t")) == _TABLE:
        return _read_table(lines, what)
    return _read_lines(lines, what)


def _read_json(text: str, what: str) -> ImageList:
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} cannot be read as JSON ({error}).") from error
    paths = found.get("path") if isinstance(found, dict) else None
    if not isinstance(paths, list) or not paths or not all(isinstance(each, str) and "/" in each for each in paths):
        raise SourceError(f'{what} must hold {{"path": ["<folder>/<file>", ...]}}, and for probes "id" beside it.')
    ids = found.get("id", [])
    if not isinstance(ids, list) or len(ids) not in (0, len(paths)):
        raise SourceError(f"{what} has {len(paths):,} paths but {len(ids) if isinstance(ids, list) else 'odd'} ids.")
    return ImageList([clean(each.lstrip("/")) for each in paths], [clean(str(each)) for each in ids])


def _read_table(lines: list[str], what: str) -> ImageList:
    paths, ids, boxes = [], [], _Boxes(what)
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        columns = line.strip("\r\n").split("\t")
        if len(columns) != len(_TABLE) or not columns[0].strip() or not columns[1].strip().isdecimal():
            raise SourceError(f"{what}, line {number}: {line[:80]!r} must have the {len(_TABLE)} columns of the first.")
        name = clean(columns[0].strip())
        folder = name.replace(" ", "_").replace("/", "_")
        paths.append(f"{folder}/{folder}_{columns[1].strip()}")
        ids.append(name)
        boxes.add(number, columns[4])
    if not paths:
        raise SourceError(f"{what} has no rows.")
    return ImageList(paths, ids, table=True, boxes=boxes.whole, bad_boxes=boxes.bad)


def _read_lines(lines: list[str], what: str) -> ImageList:
    paths, boxes = [], _Boxes(what)
    for number, line in enumerate(lines, start=1):
        columns = line.split(None, 2)
        path = clean(columns[0].lstrip("/")) if columns else ""
        if path and "/" not in path:
            raise SourceError(
                f"{what}, line {number}: {line[:80]!r} must begin with <folder>/<file>. A list is JSON "
                '{"path": [...]}, text with a path on each line, or a table of FaceScrub.'
            )
        if path:
            paths.append(path)
            boxes.add(number, columns[1] if len(columns) > 1 and "," in columns[1] else None)
    if not paths:
        raise SourceError(f'{what} is empty: it must hold {{"path": [...]}}, or <folder>/<file> on each line.')
    return ImageList(paths, boxes=boxes.whole, bad_boxes=boxes.bad)


class _Boxes:
    """Gathers the boxes of a list, entry by entry."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._values = array("f")
        self._any = False
        self.bad = 0

    def add(self, number: int, text: str | None) -> None:
        """Take what an entry has in the place of a box: None if there is no such place."""
        box = None if text is None else parse_box(text)
        self._values.extend(box or _NO_BOX)
        self._any |= box is not None
        if text is not None and box is None:
            self.bad += 1
            if self.bad == 1:
                _log.warning(
                    "%s, line %d: %r is no box, so its image goes without one: it must be x1,y1,x2,y2 in pixels, with "
                    "x1 < x2 and y1 < y2",
                    self._what, number, text[:80],
                )  # fmt: skip

    @property
    def whole(self) -> NDArray[np.float32]:
        """(N, 4), nan where there is none; (0, 4) if there is none at all."""
        return np.frombuffer(self._values, np.float32).reshape(-1, 4) if self._any else _NO_BOXES


def parse_box(text: str) -> list[float] | None:
    """Left, top, right and bottom of ``x1,y1,x2,y2``; None if that is no box, has no area or fits no image."""
    try:
        left, top, right, bottom = box = [float(each) for each in text.split(",")]
    except ValueError:
        return None
    if -FARTHEST < left < right < FARTHEST and -FARTHEST < top < bottom < FARTHEST:
        return box
    return None


def _text(path: Path, what: str) -> str:
    """The text of a list.

    Raises:
        SourceError: It cannot be read, or is too long.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path, "rb") if packed else open(path, "rb") as file:
            data = file.read(_MOST_LIST_BYTES + 1)
        if len(data) > _MOST_LIST_BYTES:
            raise SourceError(f"{what} has more than {_MOST_LIST_BYTES:,} bytes, too many for a list of images.")
        return data.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise SourceError(f"{what} cannot be read ({error}).") from error
