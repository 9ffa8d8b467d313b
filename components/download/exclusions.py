"""Lists of identities and images to leave out, such as those that an evaluation set has too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.download.items import Item, clean
from faceflow.components.download.landmarks import split_lines
from faceflow.components.download.streams import STEP
from faceflow.components.download.tables import NameIndex

_log = logging.getLogger("faceflow.download")
_SHOWN = 5


class Exclusions:
    """What an exclusion list names: 13 bytes a line in memory.

    Args:
        path: The list: an identity or an ``<identity>/<file>`` on each line, the namespace or the source's name before
            it or not; ``#`` begins a comment.
        name: The source's name, the first part of keys.
        namespace: Its namespace, the first part of identities.
        what: What to call the list in an error.

    Raises:
        SourceError: It cannot be read, or names nothing.
    """

    def __init__(self, path: Path, name: str, namespace: str, what: str) -> None:
        """Read the list."""
        self._path = path
        self._what = what
        self._index = NameIndex(self._lines())
        if not len(self._index.found):
            raise SourceError(f"{what} names nothing: put an identity or <identity>/<file> on each line.")
        self._prefixes = tuple(dict.fromkeys(("", f"{name}/", f"{namespace}/")))
        self._identity = ""
        self._whole = False

    def _lines(self) -> Iterator[str]:
        try:
            with open(self._path, "rb") as file:
                for line in split_lines(iter(lambda: file.read(STEP), b""), self._what):
                    text = clean(line.removeprefix("\ufeff").partition("#")[0].strip().strip("/"))
                    if text:
                        yield text
        except OSError as error:
            raise SourceError(f"{self._what} cannot be read ({error.strerror}): check the path.") from error

    def __contains__(self, item: Item) -> bool:
        """Whether an image is named, or the person on it."""
        if item.identity != self._identity:
            self._identity = item.identity
            self._whole = bool(item.identity) and self._named(item.identity)
        # A line that names an image of somebody who is named too has done its duty.
        return self._named(item.path) or self._whole

    def _named(self, text: str) -> bool:
        return any([self._index.find(prefix + text) >= 0 for prefix in self._prefixes])

    @property
    def unused(self) -> int:
        """Lines that no image fits."""
        return int((~self._index.found).sum())

    @property
    def sha256(self) -> str:
        """Digest of the list."""
        return file_sha256(self._path)

    def tell(self) -> None:
        """Say in the log which lines did nothing."""
        if not self.unused:
            return
        unused = [line for line, found in zip(self._lines(), self._index.found, strict=True) if not found]
        some = ", ".join(unused[:_SHOWN]) + (", ..." if len(unused) > _SHOWN else "")
        if len(unused) == len(self._index.found):
            _log.warning(
                "%s fits no image at all: nothing was left out. Its lines (%s) must be identities or <identity>/<file> "
                "of this source.", self._what, some
            )  # fmt: skip
        else:
            _log.warning("%s: %s of its lines fit no image: %s", self._what, f"{len(unused):,}", some)
