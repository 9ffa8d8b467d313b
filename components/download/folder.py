"""Sets laid out as ``<identity>/<image>``, with or without folders that wrap the identities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from faceflow.components.common import images
from faceflow.components.common.errors import ArchiveError, ImageError
from faceflow.components.common.ledger import Reason
from faceflow.components.download.items import Item, Reader
from faceflow.components.download.members import Member, Members


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
            names = list(members.names())
            self._total = len(names)
            if strip < 0:
                self._strip = _wrappers(names)

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
        for member in self._members:
            if self._strip < 0:
                member = self._decide(member)
            yield _misfit(member) if self._strip < 0 else self._item(member)

    def _decide(self, member: Member) -> Member:
        """Settle the number of wrappers, if a member is the first image; returns the member, readable still."""
        parts = member.parts
        if member.hidden or len(parts) < 2:
            return member
        if not member.named_like_image:
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


def _wrappers(names: list[str]) -> int:
    """How many lone folders wrap the identities."""
    members = [Member(name, 0, bytes) for name in names if "/" in name]
    paths = [member.parts for member in members if member.named_like_image]
    paths = paths or [member.parts for member in members if not member.hidden]
    strip = 0
    while paths and all(len(path) > strip + 2 and path[strip] == paths[0][strip] for path in paths):
        strip += 1
    return strip
