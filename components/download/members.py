"""The files of a folder, a tar or a zip, one after the other, in constant memory and without unpacking.

An archive that names files outside itself, or holds links or devices, is refused whole: no real set needs them. One
that ends early or is damaged is reported with the member after which it broke.
"""

from __future__ import annotations

import hashlib
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.common.locations import is_hidden, listing
from faceflow.components.common.storage import readable_bytes
from faceflow.components.download.items import clean
from faceflow.components.download.streams import STEP, HashingFile, Window, decompressed, is_compressed

_BLOCK = tarfile.BLOCKSIZE
# ValueError: what tarfile and zipfile raise for numbers and text that make no sense.
_DAMAGE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    NotImplementedError,
)
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_IMAGE_ENDINGS = frozenset(
    [".bmp", ".gif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)


@dataclass(frozen=True, slots=True)
class Member:
    """A file.

    Attributes:
        name: Its path below the root, with ``/``.
        size: Bytes.
        read: Gives the bytes; to be called, if at all, before the next member is asked for.
    """

    name: str
    size: int
    read: Callable[[], bytes]

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
        return not self.hidden and Path(self.name).suffix.lower() in _IMAGE_ENDINGS


class Members:
    """Iterates over the files of a folder or archive.

    Folders come in the order of their names, archives in their own order.

    Args:
        path: A folder, or a tar (plain, gzip, bzip2, xz) or zip.
        what: What to call it in an error.

    Raises:
        ArchiveError: The file is neither.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Find out what it is."""
        self.path = path
        self.what = what
        self._digest: str | None = None
        self._kind = _kind(path, what)

    @property
    def streamed(self) -> bool:
        """Whether the names are known only once everything before them was read: a tar."""
        return self._kind == "tar"

    @property
    def sha256(self) -> str | None:
        """Digest of the archive file after the last member; None for a folder."""
        return self._digest

    def names(self) -> Iterator[str]:
        """The members' names, where they are known without reading everything: not for a tar."""
        if self._kind == "folder":
            yield from (clean(entry.path) for entry in listing(self.path))
        elif self._kind == "zip":
            with self._zip() as archive:
                yield from (clean(_zip_name(info)) for info in archive.infolist() if not info.is_dir())

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.

        Raises:
            ArchiveError: The archive is damaged, cut short or hostile; names the member.
            SourceError: A file in a folder cannot be read.
        """
        return {"folder": self._folder_members, "tar": self._tar_members, "zip": self._zip_members}[self._kind]()

    def _folder_members(self) -> Iterator[Member]:
        for entry in listing(self.path):
            file = self.path / entry.path
            yield Member(clean(entry.path), entry.size, lambda file=file: _read_file(file))  # type: ignore[misc]

    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except _DAMAGE as error:
            raise ArchiveError(
                f"{self.what}: the zip cannot be opened ({error}): it is cut short or damaged. Fetch it again."
            ) from error

    def _zip_members(self) -> Iterator[Member]:
        with self._zip() as archive:
            for info in archive.infolist():
                name = _zip_name(info)
                kind = stat.S_IFMT(info.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise self._refused(name, "is a link or device")
                name = self._checked(name)
                if info.is_dir():
                    continue
                if info.flag_bits & 1:
                    raise self._refused(name, "is encrypted")

                def read(info: zipfile.ZipInfo = info, name: str = name) -> bytes:
                    try:
                        return archive.read(info)
                    except _DAMAGE as error:
                        raise self._broken(f"in member {name}", error) from error

                yield Member(clean(name), info.file_size, read)
        with open(self.path, "rb") as file:
            self._digest = hashlib.file_digest(file, "sha256").hexdigest()

    def _tar_members(self) -> Iterator[Member]:
        with open(self.path, "rb") as raw:
            hashing = HashingFile(raw)
            plain = Window(decompressed(hashing))
            last = ""
            try:
                with tarfile.open(fileobj=cast(IO[bytes], plain), mode="r|", bufsize=STEP) as archive:
                    while (info := archive.next()) is not None:
                        archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every member it met: gigabytes for a large set
                        last = info.name
                        yield from self._tar_member(archive, info)
                    end = plain.block(archive.offset, _BLOCK)
                plain.drain()
            except _DAMAGE as error:
                where = f"after member {last}, at byte {hashing.count:,}" if last else "at its beginning"
                raise self._broken(where, error) from error
            # tarfile takes a damaged header, and the end of the file, for the end of the archive.
            if end.strip(b"\0") or len(end) < _BLOCK:
                raise self._broken(
                    f"after member {last}" if last else "at its beginning",
                    "a header is damaged" if end.strip(b"\0") else "the archive ends without its end mark",
                )
            hashing.drain()
            self._digest = hashing.sha256

    def _tar_member(self, archive: tarfile.TarFile, info: tarfile.TarInfo) -> Iterator[Member]:
        if info.isdir():
            self._checked(info.name)
            return
        if not info.isfile():
            raise self._refused(info.name, "is a link or device")
        name = self._checked(info.name)

        def read() -> bytes:
            try:
                file = archive.extractfile(info)
                data = file.read() if file else b""
            except _DAMAGE as error:
                raise self._broken(f"in member {name}", error) from error
            if len(data) != info.size:
                raise self._broken(f"in member {name}", f"it has {len(data):,} of its {info.size:,} bytes")
            return data

        yield Member(clean(name), info.size, read)

    def _checked(self, name: str) -> str:
        """A member's name without a leading ``./``, once it is known to stay inside."""
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or (len(parts[0]) == 2 and parts[0][1] == ":") or "\0" in name:
            raise self._refused(name, "leads outside the archive")
        return "/".join(part for part in name.split("/") if part not in ("", "."))

    def _refused(self, name: str, why: str) -> ArchiveError:
        return ArchiveError(
            f"{self.what}: member {clean(name)!r} {why}. No face set needs that: the archive is refused. "
            "Unpack it yourself if you trust it, and give the folder."
        )

    def _broken(self, where: str, why: object) -> ArchiveError:
        size = readable_bytes(self.path.stat().st_size)
        return ArchiveError(
            f"{self.what} ({size}) is cut short or damaged {clean(where)}: {why}. "
            "Fetch it again and compare its size and checksum with the publisher's."
        )


def _kind(path: Path, what: str) -> str:
    if path.is_dir():
        return "folder"
    try:
        with open(path, "rb") as file:
            start = file.read(_BLOCK)
    except OSError as error:
        raise SourceError(f"{what} cannot be opened ({error.strerror}): check the path.") from error
    if start.startswith(_ZIP):
        return "zip"
    if is_compressed(start) or _is_tar_header(start):
        return "tar"
    raise ArchiveError(f"{what} is neither a folder nor a tar nor a zip: it begins with {start[:8].hex(' ')!r}.")


def _is_tar_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return True
    except tarfile.HeaderError:
        return False
    return True


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name of a zip's member; many programs write UTF-8 without setting the flag that says so."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.filename


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file} cannot be read ({error.strerror}): give read access, or remove it.") from error
