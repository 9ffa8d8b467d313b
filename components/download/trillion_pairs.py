"""Trillion Pairs (DeepGlint): ``<set>/<identity>/<file>`` in one archive, landmarks in a file beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from faceflow.components.common.errors import SourceError
from faceflow.components.common.ledger import Reason
from faceflow.components.download.items import Item, Reader
from faceflow.components.download.landmarks import Landmarks, short_path
from faceflow.components.download.members import Members

_log = logging.getLogger("faceflow.download")


class TrillionPairsReader(Reader):
    """Streams the archive and joins the landmarks by path.

    Args:
        members: The archive or folder.
        landmarks: The landmarks.
        what: What to call the landmark file in an error.
    """

    def __init__(self, members: Members, landmarks: Landmarks, what: str) -> None:
        """Begin before the first image."""
        self._members = members
        self._landmarks = landmarks
        self._what = what
        self._without = 0
        _log.info("%s: %s rows, %s", what, f"{landmarks.rows:,}", landmarks.labels)

    @property
    def total(self) -> int | None:
        """As many as there are landmarks, nearly."""
        return self._landmarks.rows

    def items(self) -> Iterator[Item]:
        """Yield every file, with its landmarks."""
        joined, example = 0, ""
        for member in self._members:
            *folders, file = member.parts
            identity = folders[-1] if folders else ""
            points, note, unusable = None, "", None
            if member.hidden:
                unusable = (Reason.NOT_AN_IMAGE, "a hidden file")
            elif not identity:
                reason = Reason.NO_IDENTITY if member.named_like_image else Reason.NOT_AN_IMAGE
                unusable = (reason, "lies in no identity's folder")
            else:
                points = self._landmarks.find(identity, file)
                if points is None:
                    self._without += 1
                    note = "no landmark row"
                else:
                    joined += 1
                example = example or member.name
            yield Item(identity, file, member.name, member.size, member.read, points, unusable, note)
        if example and not joined:
            raise SourceError(
                f"{self._what} does not belong to this archive: its first row is for {self._landmarks.example}, the "
                f"archive's first image is {example}, and no image has a row. Give the file that was published with it."
            )

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of both files."""
        archive = self._members.sha256
        return ({"archive": archive} if archive else {}) | {"landmarks": self._landmarks.sha256}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """What the join left over."""
        return {
            "images without landmarks": self._without,
            "landmark rows without an image": self._landmarks.unused,
            "landmark rows repeated": self._landmarks.repeated,
            "lines that are no landmark row": self._landmarks.malformed,
            **self._landmarks.labels.unmatched,
        }

    def unmatched_rows(self) -> Iterator[tuple[str, str, str]]:
        """The landmark rows without an image."""
        for path in self._landmarks.unused_paths():
            identity, _, file = short_path(path).rpartition("/")
            yield identity, file, "a landmark row without an image"
