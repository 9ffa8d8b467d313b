"""Labelled Faces in the Wild and sets of its shape: ``<name>/<name>_0001.jpg`` and a pairs file.

The pairs file (Huang et al., technical report 07-49, 2007) begins with the number of folds and of pairs of each kind in
a fold; then each fold lists its pairs of one person, ``name i j``, and of two, ``name1 i name2 j``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.download.folder import IdentityFolders
from faceflow.components.download.items import Item, Pair, Reader, clean
from faceflow.components.download.members import Members


class LfwReader(Reader):
    """Reads the images and resolves the pairs.

    Args:
        members: The archive or folder of the images.
        pairs: The pairs file.
        what: What to call the pairs file in an error.

    Raises:
        SourceError: The pairs file is malformed; names the line.
    """

    has_pairs = True

    def __init__(self, members: Members, pairs: Path, what: str) -> None:
        """Read the pairs."""
        self._folders = IdentityFolders(members, field="archive")
        self._pairs_file = pairs
        self._pairs = read_pairs(pairs, what)
        self._wanted = {stem for pair in self._pairs for stem in (pair.first, pair.second)}
        self._paths: dict[str, str] = {}

    @property
    def total(self) -> int | None:
        """How many files there are, where that is known beforehand."""
        return self._folders.total

    def items(self) -> Iterator[Item]:
        """Yield every file."""
        for item in self._folders.items():
            stem = str(PurePosixPath(item.path).with_suffix(""))
            if stem in self._wanted and item.unusable is None:
                self._paths.setdefault(stem, item.path)
            yield item

    def pairs(self) -> Iterator[Pair]:
        """The pairs, in file order.

        Raises:
            SourceError: An image of a pair is not in the archive.
        """
        for pair in self._pairs:
            for stem in (pair.first, pair.second):
                if stem not in self._paths:
                    missing = sum(each not in self._paths for each in self._wanted)
                    raise SourceError(
                        f"{pair.where}: {stem}.jpg is not among the images ({missing:,} of the {len(self._wanted):,} "
                        "that the pairs name are missing). Give the archive that belongs to this pairs file."
                    )
            yield Pair(self._paths[pair.first], self._paths[pair.second], pair.same, pair.fold, pair.where)

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of both files."""
        return {**self._folders.digests, "pairs": file_sha256(self._pairs_file)}


def read_pairs(path: Path, what: str) -> list[Pair]:
    """Read a pairs file; the pairs hold ``<name>/<name>_0001`` without an ending.

    Raises:
        SourceError: A line is malformed, or their number is not what the header says.
    """
    try:
        lines = [line.strip("\r\n") for line in path.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{what} cannot be read ({error}).") from error
    while lines and not lines[-1].strip():
        lines.pop()
    header = lines[0].split() if lines else []
    if len(header) not in (1, 2) or not all(each.isdecimal() and int(each) > 0 for each in header):
        begin = lines[0] if lines else ""
        raise SourceError(
            f"{what} begins with {begin!r}: the first line must have the number of folds and of pairs of each kind in "
            "a fold, such as '10 300'."
        )
    folds, count = (int(header[0]), int(header[1])) if len(header) == 2 else (1, int(header[0]))
    if len(lines) - 1 != folds * 2 * count:
        raise SourceError(
            f"{what} has {len(lines) - 1:,} pairs, but its header says {folds} folds of 2 x {count}: "
            f"{folds * 2 * count:,}. Fetch it again."
        )
    return [_pair(line, index, count, f"{what}, line {index + 2}") for index, line in enumerate(lines[1:])]


def _pair(line: str, index: int, count: int, where: str) -> Pair:
    tokens = [token.strip() for token in line.split("\t")] if "\t" in line else line.split()
    same = index % (2 * count) < count
    names = [tokens[0], tokens[0]] if same else tokens[::2]
    numbers = tokens[1:] if same else tokens[1::2]
    if len(tokens) != (3 if same else 4) or not all(number.isdecimal() for number in numbers):
        wanted = "'name i j'" if same else "'name1 i name2 j'"
        raise SourceError(f"{where}: {line!r} must read {wanted}: a pair of {'one' if same else 'two'} stands here.")
    first, second = (_stem(clean(name), int(number)) for name, number in zip(names, numbers, strict=True))
    return Pair(first, second, same, index // (2 * count), where)


def _stem(name: str, number: int) -> str:
    return f"{name}/{name}_{number:04d}"
