"""Verification sets with layouts of their own: CFP-FP, and flat folders of images with a list of pairs.

CFP (Sengupta et al., Frontal to Profile Face Verification in the Wild, WACV 2016) has
``Data/Images/<nnn>/{frontal,profile}/<nn>.jpg`` and, beside it, ``Protocol/Pair_list_{F,P}.txt``, which number the
frontal and the profile images, and ``Protocol/Split/FP/<nn>/{same,diff}.txt`` with the pairs of each fold, a frontal
and a profile number on each line.

CALFW and CPLFW (Zheng et al., arXiv:1708.08197; Zheng and Deng, 2018) have all images in one folder, named
``<person>_<nnnn>.jpg``, and a list with a line ``<image> <label>`` for each image of a pair, two lines a pair, all
pairs of one person first: taken in file order, a fold would hold pairs of one kind only. AgeDB-30 (Moschoglou et al.,
CVPRW 2017) names its images ``<n>_<person>_<age>_<gender>.jpg``; its pairs come as ``<image> <image> <same>`` on each
line.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.ledger import Reason
from faceflow.components.download.items import Item, Pair, Reader, clean
from faceflow.components.download.members import Member, Members

_log = logging.getLogger("faceflow.download")
FOLDS = 10
_AGAIN = "Fetch it again."
_MOST_LIST_BYTES = 64 << 20
_AGEDB_NAME = re.compile(r"\d+_(?P<person>.+)_\d+_[A-Za-z]")
_NUMBERED_NAME = re.compile(r"(?P<person>.+)_\d+")
_PAIR_LIST = re.compile(r"Pair_list_(?P<kind>[FP])\.txt")
_SPLIT = re.compile(r"Split/FP/(?P<fold>\d+)/(?P<kind>same|diff)\.txt")
_POSES = ("frontal", "profile")


def person_of(stem: str) -> str:
    """Whose image it is, by its file name without ending: the part before the number, or the whole name."""
    found = _AGEDB_NAME.fullmatch(stem) or _NUMBERED_NAME.fullmatch(stem)
    return found.group("person") if found else stem


class FlatReader(Reader):
    """Reads the images of one folder, whatever is around it, and a list of pairs of their names.

    Args:
        members: The archive or folder of the images.
        pairs: The list.
        what: What to call the list in an error.

    Raises:
        SourceError: The list is malformed; names the line.
    """

    has_pairs = True

    def __init__(self, members: Members, pairs: Path, what: str) -> None:
        """Read the pairs."""
        self._members = members
        self._pairs_file = pairs
        self._what = what
        self._pairs = read_pair_list(pairs, what)
        self._wanted = {stem for pair in self._pairs for stem in (pair.first, pair.second)}
        self._paths: dict[str, str] = {}

    def items(self) -> Iterator[Item]:
        """Yield every file."""
        for member in self._members:
            file = member.parts[-1]
            if member.hidden or not member.named_like_image:
                why = (Reason.NOT_AN_IMAGE, "a hidden file" if member.hidden else "not named like an image")
                yield Item("", member.name, member.name, member.size, member.read, unusable=why)
                continue
            stem = _stem(file)
            item = Item(person_of(stem), file, member.name, member.size, member.read)
            if stem in self._wanted:
                self._paths.setdefault(stem, item.path)
            yield item

    def pairs(self) -> Iterator[Pair]:
        """The pairs, fold by fold.

        Raises:
            SourceError: An image of a pair is not in the archive.
        """
        return _resolved(self._pairs, self._paths)

    @property
    def digests(self) -> Mapping[str, str]:
        """Digests of both files."""
        archive = self._members.sha256
        return ({"archive": archive} if archive else {}) | {"pairs": file_sha256(self._pairs_file)}


class _Listed(NamedTuple):
    first: str
    second: str
    same: bool
    line: int


def read_pair_list(path: Path, what: str) -> list[Pair]:
    """Read a list of pairs into ten folds; the pairs hold file names without ending.

    A list in which every tenth has as many pairs of one person as of two is taken in its order. One that has all pairs
    of one person first is dealt out, so that each fold has its share of both.

    Raises:
        SourceError: A line is malformed, or the pairs do not make ten equal folds.
    """
    listed = _read_lines(path, what)
    same, different = [each for each in listed if each.same], [each for each in listed if not each.same]
    share = len(same) // FOLDS
    if not listed or len(same) != len(different) or len(same) % FOLDS:
        raise SourceError(
            f"{what} has {len(same):,} pairs of one person and {len(different):,} of two: for ten equal folds there "
            "must be as many of each, and a multiple of ten. Fetch it again."
        )
    folds = [listed[begin : begin + 2 * share] for begin in range(0, len(listed), 2 * share)]
    if any(sum(each.same for each in fold) != share for fold in folds):
        if listed != same + different:
            raise SourceError(
                f"{what}: a tenth of its pairs has more of one person than of two. Give the list as it was published, "
                "or one that has all pairs of one person first."
            )
        folds = [same[begin : begin + share] + different[begin : begin + share] for begin in range(0, len(same), share)]
        _log.info("%s: %d folds of %d pairs of one person and %d of two, dealt out", what, FOLDS, share, share)
    return [
        Pair(each.first, each.second, each.same, fold, f"{what}, line {each.line}")
        for fold, members in enumerate(folds)
        for each in members
    ]


def _read_lines(path: Path, what: str) -> list[_Listed]:
    listed: list[_Listed] = []
    waiting: tuple[str, bool] | None = None
    for number, line in enumerate(_text(path, what).split("\n"), start=1):
        tokens = clean(line).split()
        if not tokens:
            continue
        if len(tokens) == 2 and _is_flag(tokens[1]):
            here = (_stem(tokens[0]), int(tokens[1]) > 0)
            if waiting is None:
                waiting = here
                continue
            if waiting[1] != here[1]:
                raise SourceError(f"{what}, line {number}: the two images of a pair have different labels. {_AGAIN}")
            listed.append(_Listed(waiting[0], here[0], here[1], number))
            waiting = None
        elif len(tokens) == 3 and waiting is None and _is_flag(tokens[2]):
            listed.append(_Listed(_stem(tokens[0]), _stem(tokens[1]), int(tokens[2]) > 0, number))
        elif len(tokens) == 3 and waiting is None and _is_flag(tokens[0]):
            listed.append(_Listed(_stem(tokens[1]), _stem(tokens[2]), int(tokens[0]) > 0, number))
        else:
            raise SourceError(
                f"{what}, line {number}: {line.strip()[:80]!r} must read '<image> <label>', two lines a pair, or "
                "'<image> <image> <0 or 1>'."
            )
    if waiting is not None:
        raise SourceError(f"{what} ends in the middle of a pair. {_AGAIN}")
    return listed


def _is_flag(token: str) -> bool:
    return token.removeprefix("-").isdecimal()


class CfpReader(Reader):
    """Reads CFP's images and its frontal-profile protocol, both out of one archive or folder.

    Args:
        members: The archive or folder.
        protocol: The protocol's folder or archive, if it is not in the former.
        what: What to call the set in an error.

    Raises:
        ArchiveError, SourceError: The protocol's archive or folder cannot be read.
    """

    has_pairs = True

    def __init__(self, members: Members, protocol: Members | None, what: str) -> None:
        """Read the protocol, if it is by itself."""
        self._members = members
        self._what = what
        self._lists: dict[str, dict[int, str]] = {}
        self._splits: dict[int, dict[str, list[tuple[int, int]]]] = {}
        self._paths: dict[str, str] = {}
        self._protocol = protocol
        if protocol:
            for member in protocol:
                if self._is_protocol(member):
                    self._take(member.name, _limited(member, what))

    def items(self) -> Iterator[Item]:
        """Yield every file."""
        for member in self._members:
            parts = member.parts
            item = Item("", member.name, member.name, member.size, member.read)
            if not member.hidden and self._protocol is None and self._is_protocol(member):
                self._take(member.name, _limited(member, self._what))
                item = self._unusable(item, "a list of the protocol")
            elif member.hidden:
                item = self._unusable(item, "a hidden file")
            elif len(parts) >= 3 and parts[-2] in _POSES and member.named_like_image:
                item = Item(parts[-3], f"{parts[-2]}/{parts[-1]}", member.name, member.size, member.read)
                self._paths.setdefault(_stem_path(item.path), item.path)
            elif member.named_like_image:
                item = self._unusable(item, "lies in no folder 'frontal' or 'profile'", Reason.NO_IDENTITY)
            else:
                item = self._unusable(item, "no image")
            yield item

    @staticmethod
    def _unusable(item: Item, why: str, reason: Reason = Reason.NOT_AN_IMAGE) -> Item:
        return Item("", item.file, item.name, item.size, item.read, unusable=(reason, why))

    @staticmethod
    def _is_protocol(member: Member) -> bool:
        return bool(_PAIR_LIST.search(member.name) or _SPLIT.search(member.name))

    def _take(self, name: str, text: str) -> None:
        """Read one of the protocol's files."""
        rows = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        if found := _PAIR_LIST.search(name):
            paths: dict[int, str] = {}
            for number, line in rows:
                index, _, path = line.partition(" ")
                parts = path.strip().replace("\\", "/").split("/")
                if not index.isdecimal() or len(parts) < 3:
                    raise self._malformed(name, number, line, "'<number> <folders>/<nnn>/<frontal or profile>/<image>'")
                paths[int(index)] = _stem_path("/".join(parts[-3:]))
            self._lists[found.group("kind")] = paths
        elif found := _SPLIT.search(name):
            pairs: list[tuple[int, int]] = []
            for number, line in rows:
                tokens = line.replace(",", " ").split()
                if len(tokens) != 2 or not all(token.isdecimal() for token in tokens):
                    raise self._malformed(name, number, line, "'<number of a frontal>,<number of a profile image>'")
                pairs.append((int(tokens[0]), int(tokens[1])))
            self._splits.setdefault(int(found.group("fold")), {})[found.group("kind")] = pairs

    def _malformed(self, name: str, number: int, line: str, wanted: str) -> SourceError:
        return SourceError(f"{self._what}: {name}, line {number}: {line[:80]!r} must read {wanted}.")

    def pairs(self) -> Iterator[Pair]:
        """The pairs, fold by fold.

        Raises:
            SourceError: The protocol is incomplete or its folds are not equal, or an image of a pair is missing.
        """
        lacking = [f"Pair_list_{kind}.txt" for kind in "FP" if kind not in self._lists]
        lacking += [] if len(self._splits) > 1 else ["Split/FP/<nn>/same.txt and diff.txt"]
        if lacking:
            raise SourceError(
                f"{self._what}: the protocol lacks {', '.join(lacking)}. Give the archive as it was published, or the "
                "folder Protocol as 'pairs'."
            )
        sizes = {fold: (len(kinds.get("same", ())), len(kinds.get("diff", ()))) for fold, kinds in self._splits.items()}
        if len(set(sizes.values())) != 1 or len(set(next(iter(sizes.values())))) != 1:
            told = ", ".join(f"{fold:02d}: {same}/{diff}" for fold, (same, diff) in sorted(sizes.items()))
            raise SourceError(f"{self._what}: the folds of Split/FP are not equal (same/diff: {told}). {_AGAIN}")
        return _resolved(self._listed(), self._paths)

    def _listed(self) -> list[Pair]:
        listed = []
        for place, fold in enumerate(sorted(self._splits)):
            for kind, same in (("same", True), ("diff", False)):
                for row, numbers in enumerate(self._splits[fold][kind], start=1):
                    where = f"{self._what}: Split/FP/{fold:02d}/{kind}.txt, line {row}"
                    stems = []
                    for number, pose in zip(numbers, "FP", strict=True):
                        if number not in self._lists[pose]:
                            raise SourceError(f"{where}: Pair_list_{pose}.txt has no number {number}. {_AGAIN}")
                        stems.append(self._lists[pose][number])
                    listed.append(Pair(stems[0], stems[1], same, place, where))
        return listed

    @property
    def digests(self) -> Mapping[str, str]:
        """The archives' digests."""
        found = {"archive": self._members.sha256, "pairs": self._protocol.sha256 if self._protocol else None}
        return {label: digest for label, digest in found.items() if digest}


def _resolved(pairs: list[Pair], paths: Mapping[str, str]) -> Iterator[Pair]:
    """Put the paths of the images into pairs of their names.

    Raises:
        SourceError: An image is missing.
    """
    for pair in pairs:
        for stem in (pair.first, pair.second):
            if stem not in paths:
                missing = len({each for pair in pairs for each in (pair.first, pair.second)} - paths.keys())
                raise SourceError(
                    f"{pair.where}: {stem} is not among the images ({missing:,} that the pairs name are missing). "
                    "Give the archive that belongs to these pairs."
                )
        yield Pair(paths[pair.first], paths[pair.second], pair.same, pair.fold, pair.where)


def _stem(name: str) -> str:
    """A file's name without folders and ending."""
    return PurePosixPath(name.replace("\\", "/")).stem


def _stem_path(path: str) -> str:
    return str(PurePosixPath(clean(path)).with_suffix(""))


def _limited(member: Member, what: str) -> str:
    """The text of a small file."""
    if member.size > _MOST_LIST_BYTES:
        raise SourceError(f"{what}: {member.name} has {member.size:,} bytes, too many for a list.")
    return member.read().decode("utf-8", "surrogateescape")


def _text(path: Path, what: str) -> str:
    try:
        if path.stat().st_size > _MOST_LIST_BYTES:
            raise SourceError(f"{what} has {path.stat().st_size:,} bytes, too many for a list of pairs.")
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(f"{what} cannot be read ({error}).") from error
