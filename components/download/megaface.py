"""MegaFace distractors and FaceScrub probes: images that a JSON list names.

Lists hold ``path`` and, for probes, ``id`` (the development kit's ``templatelists``). Only listed images are read, and
each of them must be there: a protocol without some of its images would give another number.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.download.items import Item, Reader, clean
from faceflow.components.download.members import Members
from faceflow.components.download.tables import NameIndex


class ListedImages(Reader):
    """Reads the images of a list.

    An image's identity is its ``id``, or the folders that it lies in.

    Args:
        path: The folder or archive; folders around the listed paths do not matter.
        listed: The JSON list.
        name: The source's name, for errors.

    Raises:
        SourceError: The list is malformed.
    """

    def __init__(self, path: Path, listed: Path, name: str) -> None:
        """Read the list."""
        self._members = Members(path, f"source '{name}': path {path.name}")
        self._what = f"source '{name}': list {listed.name}"
        self._list_file = listed
        self._paths, self._ids = read_list(listed, self._what)
        self._index = NameIndex(self._paths)
        self._unlisted = 0

    @property
    def total(self) -> int | None:
        """As many as the list names."""
        return len(self._paths)

    def items(self) -> Iterator[Item]:
        """Yield the listed images, in the order of the folder or archive.

        Raises:
            SourceError: One is missing.
        """
        for member in self._members:
            place = self._place(member.parts)
            if place < 0:
                self._unlisted += 1
                continue
            folder, _, file = self._paths[place].rpartition("/")
            yield Item(self._ids[place] if self._ids else folder, file, member.name, member.size, member.read)
        missing = (~self._index.found).nonzero()[0]
        if len(missing):
            raise SourceError(
                f"{self._what} names {self._paths[missing[0]]}, which is not among the images "
                f"({len(missing):,} of {len(self._paths):,} are missing). Give the images that the list was made for."
            )

    def _place(self, parts: list[str]) -> int:
        for begin in range(len(parts)):
            place = self._index.find("/".join(parts[begin:]))
            if place >= 0:
                return place
        return -1

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of the archive and the list."""
        archive = self._members.sha256
        return ({"path": archive} if archive else {}) | {"list": file_sha256(self._list_file)}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """What the list leaves out."""
        return {"files that the list does not name": self._unlisted, "list entries repeated": self._index.repeated}


def read_list(path: Path, what: str) -> tuple[list[str], list[str]]:
    """Read a list; returns the paths and the ids, which are empty where the list has none.

    Raises:
        SourceError: It is malformed.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{what} cannot be read as JSON ({error}).") from error
    paths = found.get("path") if isinstance(found, dict) else None
    if not isinstance(paths, list) or not paths or not all(isinstance(each, str) and "/" in each for each in paths):
        raise SourceError(f'{what} must hold {{"path": ["<folder>/<file>", ...]}}, and for probes "id" beside it.')
    ids = found.get("id", [])
    if not isinstance(ids, list) or len(ids) not in (0, len(paths)):
        raise SourceError(f"{what} has {len(paths):,} paths but {len(ids) if isinstance(ids, list) else 'odd'} ids.")
    return [clean(each.lstrip("/")) for each in paths], [clean(str(each)) for each in ids]
