"""Trillion Pairs (DeepGlint): ``<set>/<identity>/<file>`` in one archive, landmarks in a file beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.ledger import Reason
from faceflow.components.download.items import Item, Reader
from faceflow.components.download.landmarks import Landmarks
from faceflow.components.download.members import Members


class TrillionPairsReader(Reader):
    """Streams the archive and joins the landmarks by path.

    Args:
        archive: The archive or folder.
        landmarks: The landmark file.
        name: The source's name, for errors.
    """

    def __init__(self, archive: Path, landmarks: Path, name: str) -> None:
        """Read the landmarks."""
        self._members = Members(archive, f"source '{name}': archive {archive.name}")
        self._what = f"source '{name}': landmarks {landmarks.name}"
        self._landmarks = Landmarks(landmarks, self._what)
        self._landmarks_file = landmarks
        self._without = 0

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
            item = Item(identity, file, member.name, member.size, member.read)
            if member.hidden:
                yield replace(item, unusable=(Reason.NOT_AN_IMAGE, "a hidden file"))
            elif not identity:
                reason = Reason.NO_IDENTITY if member.named_like_image else Reason.NOT_AN_IMAGE
                yield replace(item, unusable=(reason, "lies in no identity's folder"))
            else:
                points = self._landmarks.find(identity, file)
                joined += points is not None
                self._without += points is None
                example = example or member.name
                yield replace(item, landmarks=points)
        if example and not joined:
            raise SourceError(
                f"{self._what} does not belong to this archive: its first row is for {self._landmarks.example}, the "
                f"archive's first image is {example}, and no image has a row. Give the file that was published with it."
            )

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of both files."""
        archive = self._members.sha256
        return ({"archive": archive} if archive else {}) | {"landmarks": file_sha256(self._landmarks_file)}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """What the join left over."""
        return {
            "images without landmarks": self._without,
            "landmark rows without an image": self._landmarks.unused,
            "landmark rows repeated": self._landmarks.repeated,
            "lines that are no landmark row": self._landmarks.malformed,
        }
