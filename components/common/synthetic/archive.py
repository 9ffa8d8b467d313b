"""Tar archives whose bytes depend on their members alone: no time, owner, file name or zlib build in them."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from types import TracebackType


class ArchiveWriter:
    """Streams members into a ``.tar.gz``, one after the other.

    The gzip layer stores and does not deflate: JPEG hardly shrinks, and deflated bytes differ between zlib builds.
    As a context it removes the file when the block fails: half an archive must not be taken for a whole one.
    Folders get an entry of their own before their first member, as ``tar czf`` writes them.
    """

    def __init__(self, path: Path) -> None:
        """Create the file."""
        self._path = path
        self._file = open(path, "wb")  # noqa: SIM115
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=0, fileobj=self._file, mtime=0)
        self._tar = tarfile.TarFile.open(fileobj=self._gzip, mode="w|", format=tarfile.USTAR_FORMAT)  # noqa: SIM115
        self._folder: list[str] = []

    def add(self, name: str, data: bytes) -> None:
        """Append a member; members of one folder come in a row."""
        folder = name.split("/")[:-1]
        for depth in range(1, len(folder) + 1):
            if folder[:depth] != self._folder[:depth]:
                self._tar.addfile(self._entry("/".join(folder[:depth]), 0, tarfile.DIRTYPE, 0o755))
        self._folder = folder
        self._tar.addfile(self._entry(name, len(data), tarfile.REGTYPE, 0o644), io.BytesIO(data))

    @staticmethod
    def _entry(name: str, size: int, kind: bytes, mode: int) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(name)
        entry.size, entry.type, entry.mode, entry.mtime = size, kind, mode, 0
        return entry

    def close(self) -> None:
        """Write the end of the archive and close the file."""
        try:
            self._tar.close()
            self._gzip.close()
        finally:
            self._file.close()

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if kind is not None:
            self._path.unlink()
