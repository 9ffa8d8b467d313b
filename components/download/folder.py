"""Sets laid out as ``<identity>/<image>``, with or without folders that wrap the identities."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping

from faceflow.components.common import images
from faceflow.components.common.errors import ArchiveError, ImageError
from faceflow.components.common.ledger import Reason
from faceflow.components.download.items import Item, Reader
from faceflow.components.download.members import Member, Members

_MOST_LOOKED_AT = 64 << 20
_log = logging.getLogger("faceflow.download")


class IdentityFolders(Reader):
    """Reads ``[<wrapper>/...]<identity>/<file>``; what lies deeper in an identity stays with it.

    Args:
        members: The folder or archive.
        strip: Leading folders that wrap the identities; -1 finds out. In a folder or zip a wrapper is a lone folder
            that holds all the identities. A tar is read once, so there the first image decides, as if it lay directly
            in its identity, and an image that then does not fit is an error.
        field: The field of the source spec that names the archive.
    """

    def __init__(self, members: Members, strip: int = -1, field: str = "path") -> None:
        """Look at the names, where they are known beforehand."""
        self._members = members
        self._field = field
        self._wrapper: list[str] | None = None
        self._strip = strip
        self._total: int | None = None
        if not members.streamed:
            self._total, wrappers = _count(members.names())
            if strip < 0:
                self._strip = wrappers

    @property
    def total(self) -> int | None:
        """How many files there are, where that is known beforehand."""
        return self._total

    @property
    def digests(self) -> Mapping[str, str]:
        """The archive's digest."""
        return {} if self._members.sha256 is None else {self._field: self._members.sha256}

    def items(self) -> Iterator[Item]:
        """Yield every file."""
        deeper = direct = 0
        for member in self._members:
            if self._strip < 0:
                member = self._decide(member)
            item = _misfit(member) if self._strip < 0 else self._item(member)
            if item.unusable is None and member.named_like_image:
                deeper += "/" in item.file
                direct += "/" not in item.file
            yield item
        if deeper and not direct:
            _log.warning(
                "%s: all %s images lie in folders below those taken for identities. If the inner folders are the "
                'identities, as in train/<identity>/<image>, say how many leading folders to leave out: "strip": %d',
                self._members.what, f"{deeper:,}", self._strip + 1,
            )  # fmt: skip

    def _decide(self, member: Member) -> Member:
        """Settle the number of wrappers, if a member is the first image; returns the member, readable still."""
        parts = member.parts
        if member.hidden or len(parts) < 2:
            return member
        if not member.named_like_image:
            if member.size > _MOST_LOOKED_AT:
                return member
            data = member.read()
            member = Member(member.name, member.size, lambda: data)
            try:
                images.inspect(data)
            except ImageError:
                return member
        self._strip = len(parts) - 2
        self._wrapper = parts[: self._strip]
        return member

    def _item(self, member: Member) -> Item:
        parts = member.parts
        if member.hidden or len(parts) < self._strip + 2:
            return _misfit(member)
        if self._wrapper and parts[: self._strip] != self._wrapper:
            wrapper = "/".join(self._wrapper)
            raise ArchiveError(
                f"{self._members.what}: {member.name} does not lie in {wrapper}/ as the files before it, "
                "so it cannot be told which folders are the identities. Say how many leading folders to leave out, for "
                'instance "strip": 0 if the outermost folders are.'
            )
        return Item(parts[self._strip], "/".join(parts[self._strip + 1 :]), member.name, member.size, member.read)


def _misfit(member: Member) -> Item:
    if member.hidden:
        why = (Reason.NOT_AN_IMAGE, "a hidden file")
    elif member.named_like_image:
        why = (Reason.NO_IDENTITY, "lies in no identity's folder")
    else:
        why = (Reason.NOT_AN_IMAGE, "lies in no identity's folder")
    return Item("", member.name, member.name, member.size, member.read, unusable=why)


class _Prefix:
    """The folders that all of some paths begin with, and how few folders and file one of them has."""

    def __init__(self) -> None:
        self._common: list[str] | None = None
        self._fewest = 0

    def add(self, path: list[str]) -> None:
        if self._common is None:
            self._common, self._fewest = path[:-1], len(path)
            return
        self._fewest = min(self._fewest, len(path))
        same = 0
        for ours, theirs in zip(self._common, path, strict=False):
            if ours != theirs:
                break
            same += 1
        del self._common[same:]

    @property
    def wrappers(self) -> int | None:
        """How many of the folders wrap the identities; None if there was no path."""
        return None if self._common is None else max(0, min(len(self._common), self._fewest - 2))


def _count(names: Iterable[str]) -> tuple[int, int]:
    """The number of files, and how many lone folders wrap the identities."""
    images, others, count = _Prefix(), _Prefix(), 0
    for name in names:
        count += 1
        if "/" in name:
            member = Member(name, 0, bytes)
            if member.named_like_image:
                images.add(member.parts)
            elif not member.hidden:
                others.add(member.parts)
    found = images.wrappers if images.wrappers is not None else others.wrappers
    return count, found or 0
