"""The files of a folder, a tar or a zip, one after the other, in constant memory and without unpacking.

An archive that names files outside itself, or holds links or devices, is refused whole: no real set needs them. One
that ends early or is damaged is reported with the member and the byte at which it broke.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.common.locations import is_hidden, listing
from faceflow.components.common.storage import readable_bytes
from faceflow.components.download import tar, zips
from faceflow.components.download.items import clean
from faceflow.components.download.streams import STEP, PartedFile, Stream, is_compressed

MAX_EXPANSION = 100
"""How many times its size an archive may unpack to: images give hardly more than 1, lists of text some 10."""

_MAX_NAME_BYTES = 4096
_IMAGE_ENDINGS = frozenset(
    [".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
_log = logging.getLogger("faceflow.download")


@dataclass(frozen=True, slots=True)
class Member:
    """A file.

    Attributes:
        name: Its path below the root, with ``/``.
        size: Bytes.
        read: Gives the bytes; to be called, if at all, before the next member is asked for.
        pieces: Gives the bytes in pieces, under the same condition, for a file that may be too large for the memory.
    """

    name: str
    size: int
    read: Callable[[], bytes]
    pieces: Callable[[], Iterator[bytes]] = field(default=lambda: iter(()))

    @property
    def parts(self) -> list[str]:
        """The folders and the file name."""
        return self.name.split("/")

    @property
    def hidden(self) -> bool:
        """Whether it is an operating system's own file."""
        return is_hidden(self.name)

    @property
    def named_like_image(self) -> bool:
        """Whether its name ends like an image's."""
        _, dot, ending = self.name.rpartition(".")
        return f"{dot}{ending.lower()}" in _IMAGE_ENDINGS and not self.hidden


class Members:
    """Iterates over the files of a folder or archive.

    Folders come in the order of their names, archives in their own order.

    Args:
        path: A folder, or a tar (plain, gzip, bzip2, xz) or zip, or the parts that one was cut into, in order.
        what: What to call it in an error.
        max_expansion: How many times its size an archive may unpack to, once that is more than 64 MiB.
        md5: The MD5 that a tar of this name has as it was published; another one is told in the log.

    Raises:
        ArchiveError: The file is neither, or a zip is damaged or hostile.
        SourceError: It cannot be opened.
    """

    def __init__(
        self, path: Path | Sequence[Path], what: str, max_expansion: int = MAX_EXPANSION, md5: str = ""
    ) -> None:
        """Find out what it is."""
        self._paths = [path] if isinstance(path, Path) else list(path)
        self.what = what
        self._max_expansion = max_expansion
        self._md5 = md5
        self._digest: str | None = None
        self._kind = _kind(self._paths, what)

    @property
    def streamed(self) -> bool:
        """Whether the names are known only once everything before them was read: a tar."""
        return self._kind == "tar"

    @property
    def sha256(self) -> str | None:
        """Digest of the archive file after the last member; None for a folder."""
        return self._digest

    def names(self) -> Iterator[str]:
        """The members' names, where they are known without reading everything: not for a tar.

        Raises:
            ArchiveError: A zip is damaged or hostile.
        """
        if self._kind == "folder":
            yield from (clean(entry.path) for entry in listing(self._paths[0]))
        elif self._kind == "zip":
            with self._opened() as file:
                for entry in self._zip(file).entries():
                    if not entry.folder:
                        yield self._zip_name(entry)

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            ArchiveError: The archive is damaged, cut short or hostile; names the member.
            SourceError: A file in a folder cannot be read.
        """
        return {"folder": self._folder_members, "tar": self._tar_members, "zip": self._zip_members}[self._kind]()

    def _folder_members(self) -> Iterator[Member]:
        for entry in listing(self._paths[0]):
            file = self._paths[0] / entry.path
            yield Member(clean(entry.path), entry.size, lambda file=file: _read_file(file))  # type: ignore[misc]

    def _opened(self) -> PartedFile:
        return PartedFile(self._paths)

    def _zip(self, file: PartedFile) -> zips.ZipReader:
        try:
            return zips.ZipReader(file, self._max_expansion)
        except (tar.Broken, tar.Refused) as error:
            self._raise(error)

    def _zip_name(self, entry: zips.ZipEntry) -> str:
        """A member's name; some programs write backslashes, which the format forbids."""
        return clean(self._checked(entry.name)).replace("\\", "/")

    def _zip_members(self) -> Iterator[Member]:
        with self._opened() as file:
            archive = self._zip(file)

            def read(entry: zips.ZipEntry) -> bytes:
                try:
                    return archive.read(entry)
                except (tar.Broken, tar.Refused) as error:
                    self._raise(error)

            for entry in archive.entries():
                name = self._zip_name(entry)
                if not entry.folder:
                    yield Member(
                        name,
                        entry.size,
                        lambda entry=entry: read(entry),  # type: ignore[misc]
                        lambda entry=entry: iter((read(entry),)),  # type: ignore[misc]
                    )
            digest = hashlib.sha256()
            file.seek(0)
            while piece := file.read(STEP):
                digest.update(piece)
            self._digest = digest.hexdigest()

    def _tar_members(self) -> Iterator[Member]:
        def another(offset: int) -> None:
            _log.warning("%s: another archive begins at byte %s of it; reading on", self.what, f"{offset:,}")

        with Stream(self._paths, self.what, self._max_expansion, md5=bool(self._md5)) as stream:
            try:
                for entry in tar.entries(stream, another):
                    name = clean(self._checked(entry.name))
                    if not entry.folder:
                        yield Member(name, entry.size, *_readers(entry, self._raise))
            except (tar.Broken, tar.Refused) as error:
                self._raise(error)
            self._digest = stream.sha256
            if self._md5 and stream.md5 != self._md5:
                _log.warning(
                    "%s has the MD5 %s, but what was published under this name has %s: it is another edition, or not "
                    "what its name says", self.what, stream.md5, self._md5
                )  # fmt: skip

    def _checked(self, name: str) -> str:
        """A member's name without a leading ``./``, once it is known to stay inside."""
        parts = name.split("/") if "\\" not in name else name.replace("\\", "/").split("/")
        if not name or name[0] in "/\\" or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":") or "\0" in name:
            self._raise(tar.Refused("leads outside the archive", name))
        if len(name) > _MAX_NAME_BYTES // 4 and len(name.encode(errors="surrogateescape")) > _MAX_NAME_BYTES:
            self._raise(tar.Refused(f"has a name of {len(name):,} letters", name[:80] + "..."))
        return "/".join([part for part in name.split("/") if part not in ("", ".")])

    def _raise(self, error: tar.Broken | tar.Refused) -> NoReturn:
        if isinstance(error, tar.Refused):
            raise ArchiveError(
                f"{self.what}: member {clean(error.member)!r} {error}. No face set needs that: the archive is refused. "
                "Unpack it yourself if you trust it, and give the folder."
            ) from error
        size = readable_bytes(sum(path.stat().st_size for path in self._paths))
        member = clean(error.member)
        where = f"{'in' if error.inside else 'after'} member {member}" if member else "at its beginning"
        unpacked = " of what it unpacks to" if _compressed(self._paths[0]) else ""
        raise ArchiveError(
            f"{self.what} ({size}) is cut short or damaged {where}, at byte {error.offset:,}{unpacked}: {error}. "
            "Fetch it again and compare its size and checksum with the publisher's."
        ) from error


def _readers(
    entry: tar.Entry, on_error: Callable[[tar.Broken], NoReturn]
) -> tuple[Callable[[], bytes], Callable[[], Iterator[bytes]]]:
    """How a tar's member is read whole, and in pieces."""

    def read() -> bytes:
        try:
            return entry.read()
        except tar.Broken as error:
            on_error(error)

    def pieces() -> Iterator[bytes]:
        try:
            while piece := entry.read(STEP):
                yield piece
        except tar.Broken as error:
            on_error(error)

    return read, pieces


def _kind(paths: Sequence[Path], what: str) -> str:
    if len(paths) == 1 and paths[0].is_dir():
        return "folder"
    try:
        with PartedFile(paths) as file:
            start = file.read_at(0, tar.BLOCK)
    except OSError as error:
        raise SourceError(f"{what} cannot be opened ({error.strerror}): check the path.") from error
    if start.startswith(zips.STARTS):
        return "zip"
    if is_compressed(start) or tar.is_header(start):
        return "tar"
    raise ArchiveError(f"{what} is neither a folder nor a tar nor a zip: it begins with {start[:8].hex(' ')!r}.")


def _compressed(path: Path) -> bool:
    with open(path, "rb") as file:
        return is_compressed(file.read(8))


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file} cannot be read ({error.strerror}): give read access, or remove it.") from error
