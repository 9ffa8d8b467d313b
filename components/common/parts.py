"""Archives that were cut into parts: the names of the parts, from that of the first.

``split`` writes ``set.tar.gz.aa``, ``.ab``; with ``-d`` ``.00``, ``.01``; 7-Zip ``.001``, ``.002``; others ``.part1``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from faceflow.components.common.errors import SourceError

_ENDING = r"\.(?:tar|tgz|tbz2?|txz|zip)(?:\.(?:gz|bz2|xz))?"
# One digit or letter alone, as in backup.tar.1, is more often a version than a part.
_FIRST = re.compile(rf"(?P<stem>.*{_ENDING}(?:[._-]part[._-]?(?=a|\d)|[._-](?=aa|\d\d)))(?P<count>a+|0*[01])")


def is_first_part(location: str) -> bool:
    """Whether a location is named like the first part of an archive."""
    return bool(_FIRST.fullmatch(_path(location)))


def parts_of(location: str, exists: Callable[[str], bool]) -> list[str]:
    """The locations of all parts of an archive.

    Args:
        location: That of the archive, or of its first part.
        exists: Tells whether something is at a location.

    Returns:
        The parts in order; the location alone if it is not named like a first part.

    Raises:
        SourceError: A part is missing and the one after it is there, or nothing can be told because everything seems
            to exist.
    """
    match = _FIRST.fullmatch(_path(location))
    if not match:
        return [location]
    query = location[match.end() :]
    counts = [match["count"]]
    if exists(f"{match.group()}.none{query}"):
        raise SourceError(
            f"{location}: the server answers for parts that cannot exist, so that their number is unknown: give the "
            "list of parts."
        )
    while following := next((each for each in _after(counts[-1]) if exists(match["stem"] + each + query)), ""):
        counts.append(following)
    missing = _after(counts[-1])[0]
    if any(exists(match["stem"] + each + query) for each in _after(missing)):
        raise SourceError(
            f"{match['stem']}{missing} is missing, but the part after it is there: fetch it, or give the list of parts."
        )
    return [match["stem"] + each + query for each in counts]


def same_part(first: str, other_first: str, part: str) -> str:
    """Where a part is at a mirror.

    Args:
        first: The location of the first part.
        other_first: The location of the first part at the mirror.
        part: The location of the part that is looked for, beside ``first``.
    """
    own, other = _FIRST.fullmatch(_path(first)), _FIRST.fullmatch(_path(other_first))
    if part == first or not own or not other:
        return other_first
    count = _path(part)[len(own["stem"]) :]
    return other["stem"] + count + other_first[other.end() :]


def _path(location: str) -> str:
    """A location without the query of an http(s) address."""
    return location.partition("?")[0] if location.startswith(("http://", "https://")) else location


def _after(count: str) -> list[str]:
    """What may follow a count: the next, and, where GNU split lengthens its suffixes, the longer one."""
    if count.isdecimal():
        following = [str(int(count) + 1).zfill(len(count))]
        return [*following, "9" + "0" * (len(count) + 1)] if re.fullmatch("9*89", count) else following
    letters, at = list(count), len(count) - 1
    while at >= 0 and letters[at] == "z":
        letters[at] = "a"
        at -= 1
    if at < 0:
        return ["a" * (len(count) + 1)]
    letters[at] = chr(ord(letters[at]) + 1)
    following = ["".join(letters)]
    return [*following, "z" + "a" * (len(count) + 1)] if re.fullmatch("z*yz", count) else following
