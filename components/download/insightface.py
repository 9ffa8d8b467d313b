"""InsightFace's containers: a RecordIO training set, and a verification set in one ``.bin``."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.download.items import Item, Pair, Reader
from faceflow.components.download.recordio import read_index, read_records
from faceflow.components.download.streams import Stream
from faceflow.components.download.unpickle import read_verification_set

_HEADER = struct.Struct("<IfQQ")
_FOLDS = 10


class RecordReader(Reader):
    """Reads ``<name>.rec`` with its ``.idx``.

    Each record is a header (flag, label, id, second id), as many further labels as the flag says, and a JPEG. Records
    without a JPEG tell ranges of numbers, of the images and of each identity, and are passed over. An image's identity
    is its label, or the first of its labels.

    Args:
        folder: The folder that holds both.
        name: The source's name, for errors.

    Raises:
        SourceError: There is not exactly one ``.rec``, or its index is missing or malformed.
    """

    def __init__(self, folder: Path, name: str) -> None:
        """Read the index."""
        found = sorted(folder.glob("*.rec"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise SourceError(f"source '{name}': path {folder} must hold one .rec file, but there is: {names}.")
        self._file = found[0]
        self._what = f"source '{name}': {self._file.name}"
        index = self._file.with_suffix(".idx")
        if not index.is_file():
            raise SourceError(f"source '{name}': {index.name} is missing beside {self._file.name}: fetch it too.")
        self._count, self._index = read_index(index, f"source '{name}': {index.name}")
        self._identities = _told_identities(folder / "property", f"source '{name}': property")
        self._labels: set[int] = set()
        self._digest = ""

    @property
    def total(self) -> int | None:
        """At most as many as there are records."""
        return self._count

    def items(self) -> Iterator[Item]:
        """Yield the images, in file order."""
        with Stream([self._file], self._what, 1) as file:
            for offset, record in read_records(file, self._what):
                number, told = next(self._index, (-1, -1))
                if told != offset:
                    raise ArchiveError(
                        f"{self._what}: a record begins at byte {offset:,}, which its .idx does not say: the two files "
                        "do not belong together. Fetch both again."
                    )
                item = self._item(number, record)
                if item is not None:
                    yield item
            left = sum(1 for _ in self._index)
            if left:
                raise ArchiveError(
                    f"{self._what} is cut short: it ends after {self._count - left:,} records, but its .idx lists "
                    f"{self._count:,}. Fetch it again."
                )
            self._digest = file.sha256

    def _item(self, number: int, record: bytes) -> Item | None:
        if len(record) < _HEADER.size:
            raise ArchiveError(f"{self._what}: record {number} has no header. Fetch the file again.")
        flag, label, _, _ = _HEADER.unpack_from(record)
        begin = _HEADER.size + 4 * flag
        if begin > len(record):
            raise ArchiveError(f"{self._what}: record {number} promises {flag:,} labels and ends. Fetch it again.")
        image = record[begin:]
        if not image:
            return None
        if flag:
            label = float(np.frombuffer(record, "<f4", 1, _HEADER.size)[0])
        if not (label >= 0 and label.is_integer()):
            raise ArchiveError(f"{self._what}: record {number} has the label {label}, not a whole number from 0.")
        self._labels.add(int(label))
        return Item(str(int(label)), f"{number:08d}.jpg", str(number), len(image), lambda: image)

    @property
    def digests(self) -> Mapping[str, str]:
        """The record file's digest."""
        return {"path": self._digest}

    @property
    def unmatched(self) -> Mapping[str, int]:
        """What is odd about the labels."""
        gaps = max(self._labels) + 1 - len(self._labels) if self._labels else 0
        told = self._identities
        outside = sum(label >= told for label in self._labels) if told is not None else 0
        return {
            "label numbers that no identity has": gaps,
            "labels out of the range that 'property' tells": outside,
        }


class BinReader(Reader):
    """Reads a verification ``.bin``: 2 N images and N flags, as ten folds in file order.

    The set names nobody, so each pair of one person is an identity of its own, and so is each image of the others.

    Args:
        path: The file.
        name: The source's name, for errors.

    Raises:
        ArchiveError: The file is damaged or hostile.
    """

    has_pairs = True

    def __init__(self, path: Path, name: str) -> None:
        """Read the whole file: the format allows nothing else."""
        self._path = path
        self._what = f"source '{name}': {path.name}"
        self._images, self._same = read_verification_set(path, self._what)

    @property
    def total(self) -> int | None:
        """All images."""
        return len(self._images)

    def items(self) -> Iterator[Item]:
        """Yield the images, in file order."""
        for index, image in enumerate(self._images):
            yield Item(self._identity(index), _file(index), str(index), len(image), lambda image=image: image)  # type: ignore[misc]

    def _identity(self, index: int) -> str:
        pair = index // 2
        return f"pair-{pair:06d}" if self._same[pair] else f"pair-{pair:06d}-{'ab'[index % 2]}"

    def pairs(self) -> Iterator[Pair]:
        """The pairs; folds are as even as can be, the first ones taking what is over (as scikit-learn's KFold)."""
        folds = np.array_split(np.arange(len(self._same)), min(_FOLDS, max(1, len(self._same))))
        for fold, members in enumerate(folds):
            for pair in members.tolist():
                first, second = (f"{self._identity(index)}/{_file(index)}" for index in (2 * pair, 2 * pair + 1))
                yield Pair(first, second, self._same[pair], fold, f"{self._what}, pair {pair}")

    @property
    def digests(self) -> Mapping[str, str]:
        """The file's digest: editions of one set differ."""
        return {"path": file_sha256(self._path)}


def _told_identities(path: Path, what: str) -> int | None:
    """The number of identities in a ``property`` file, ``C,112,112``; None if there is no such file.

    Raises:
        SourceError: It is malformed.
    """
    try:
        text = path.read_bytes()[:256].decode("ascii").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{what} cannot be read ({error}).") from error
    numbers = text.split(",")
    if len(numbers) != 3 or not all(number.strip().isdecimal() for number in numbers):
        raise SourceError(f"{what} holds {text!r}, but must read '<identities>,<height>,<width>'. Fetch it again.")
    return int(numbers[0])


def _file(index: int) -> str:
    return f"{index:08d}.jpg"
