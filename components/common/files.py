"""Files wherever a stage's workers find them: on a disk that they share, or in an object store.

A location is a path, or a URI such as ``s3://bucket/folder/name``. A path is read and written with plain Python, a URI
through Beam's filesystems, which are imported when the first URI is met. Whatever workers read or write goes through
this module, so that one function serves a laptop and a cluster.
"""

from __future__ import annotations

import glob
import io
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from faceflow.components.common.errors import StorageError
from faceflow.components.common.logs import import_beam

Location = str | Path

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://")
_BUFFER = 1 << 20
_CHUNK = 8 << 20  # no less than the smallest part of an S3 upload, so that Beam sends each chunk as it comes
_ON_THE_WAY = 16 << 20
_options: tuple[str, ...] = ()


def is_remote(location: Location) -> bool:
    """Whether a location is a URI, and not a path."""
    return _SCHEME.match(str(location)) is not None


def configure(options: Sequence[str]) -> None:
    """Give this process the pipeline options with which object stores are reached, such as ``--s3_endpoint_url``."""
    global _options
    _options = tuple(options)


def join(base: Location, *names: str) -> str:
    """The location of something below a folder."""
    return "/".join([str(base).rstrip("/"), *names])


def name_of(location: Location) -> str:
    """The last part of a location."""
    return str(location).rpartition("/")[2]


def open_read(location: Location, buffering: int | None = None) -> IO[bytes]:
    """Open a file for reading; it can be sought.

    Args:
        location: The file.
        buffering: Bytes that are fetched at a time, at least. By default what suits reading from begin to end:
            1 MiB of a disk, 16 MiB of an object store.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The object store cannot be read.
    """
    if not is_remote(location):
        return open(location, "rb", buffering=_BUFFER if buffering is None else buffering)
    with _reaching(location) as store:
        found = store.open(str(location), compression_type=_uncompressed())
    if buffering is not None and isinstance(found, io.BufferedReader):
        found = io.BufferedReader(found.detach(), max(1, buffering))
    return cast(IO[bytes], found)


def read_into(file: IO[bytes], view: memoryview, offset: int) -> None:
    """Fill memory from an offset of a file that was opened without a buffer; no further than the file goes."""
    if isinstance(file, io.FileIO) and hasattr(os, "preadv"):
        os.preadv(file.fileno(), [view], offset)
    else:
        file.seek(offset)
        file.readinto(view)  # type: ignore[attr-defined]


class Creation:
    """A file that appears under its name, all of it, at :meth:`commit`; until then nothing can be seen there.

    As a context manager it gives the open file, and commits if the block ends well.

    On a disk the bytes are written aside and renamed. For an object store they are kept in a temporary file and sent
    at the end: Beam completes an upload whenever its stream is closed, even by the interpreter after a failure.

    Args:
        location: Where the file will be; on a disk its folder must exist.

    Attributes:
        file: The open file.
    """

    def __init__(self, location: Location) -> None:
        """Open the file."""
        self._location = location
        self._aside: str | None = None
        if is_remote(location):
            self.file = cast(IO[bytes], tempfile.TemporaryFile(buffering=_BUFFER))  # noqa: SIM115 - see commit()
        else:
            self._aside = f"{location}.{uuid.uuid4().hex}.partial"
            self.file = open(self._aside, "wb", buffering=_BUFFER)  # noqa: SIM115 - closed by commit() or discard()

    def commit(self) -> None:
        """Close the file and put it in place.

        Raises:
            StorageError: The object store does not take it.
        """
        if self._aside is not None:
            self.file.close()
            os.replace(self._aside, self._location)
            # To rename one link of a file to another changes nothing.
            Path(self._aside).unlink(missing_ok=True)
        else:
            with self.file as content:
                content.seek(0)
                _send(content, str(self._location))

    def let_go(self) -> None:
        """Let memory go of what was written so far, but for the last few megabytes, as far as the disk has it.

        Called again and again while a file is written that nothing reads soon, it keeps what other files have in
        memory from being pushed out, and the memory that this one takes is little and always the same.
        """
        if self._aside is None or not hasattr(os, "posix_fadvise"):
            return
        self.file.flush()
        end = self.file.tell()
        # Linux starts to write out what has not reached the disk, and is asked again for the same when that is done.
        os.posix_fadvise(self.file.fileno(), max(0, end - _ON_THE_WAY), 0, os.POSIX_FADV_DONTNEED)

    def adopt(self, path: Path) -> None:
        """Take a file on the same disk in place of what was written: by a link where the disk allows, else by a copy.

        Only for a location on a disk.
        """
        assert self._aside is not None
        self.file.close()
        os.unlink(self._aside)
        try:
            os.link(path.resolve(), self._aside)  # of a symbolic link there would be two
        except OSError:
            shutil.copyfile(path, self._aside)

    def discard(self) -> None:
        """Close the file and forget it."""
        self.file.close()
        if self._aside is not None:
            Path(self._aside).unlink(missing_ok=True)

    def __enter__(self) -> IO[bytes]:
        """Return the open file."""
        return self.file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the file in place, or forget it if the block failed."""
        if kind is None:
            self.commit()
        else:
            self.discard()


def create(location: Location) -> Creation:
    """Create or replace a file, for a ``with`` block that writes it; see :class:`Creation`."""
    return Creation(location)


def read_bytes(location: Location) -> bytes:
    """The contents of a file.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The object store cannot be read.
    """
    with open_read(location) as file:
        return file.read()


def write_bytes(location: Location, data: bytes) -> None:
    """Create or replace a file; a reader sees all of it or none.

    Raises:
        StorageError: The object store does not take it.
    """
    with create(location) as file:
        file.write(data)


def exists(location: Location) -> bool:
    """Whether there is a file of this name; of an object store's folders nothing is known.

    Raises:
        StorageError: The object store cannot be asked.
    """
    if not is_remote(location):
        return Path(location).exists()
    with _reaching(location) as store:
        return bool(store.exists(str(location)))


def size(location: Location) -> int:
    """Bytes of a file.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The object store cannot be asked.
    """
    if not is_remote(location):
        return Path(location).stat().st_size
    with _reaching(location) as store:
        if not store.exists(str(location)):
            raise FileNotFoundError(str(location))
        return int(store.size(str(location)))


def listing(folder: Location) -> dict[str, int]:
    """The files directly in a folder, by name and in its order, with their sizes in bytes; empty if there is none.

    Raises:
        StorageError: The object store cannot be asked.
    """
    if not is_remote(folder):
        if not Path(folder).is_dir():
            return {}
        with os.scandir(folder) as entries:
            found = {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
    else:
        with _reaching(folder) as store:
            (matched,) = store.match([join(glob.escape(str(folder)), "*")])
        found = {name_of(each.path): each.size_in_bytes for each in matched.metadata_list}
    return dict(sorted(found.items()))


def delete(location: Location) -> None:
    """Remove a file, or a folder with all that is in it; what is not there is no error.

    Raises:
        StorageError: The object store refuses.
    """
    if not is_remote(location):
        path = Path(location)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return
    with _reaching(location) as store:
        (below,) = store.match([join(glob.escape(str(location)), "**")])
        gone = [each.path for each in below.metadata_list]
        if not gone and store.exists(str(location)):
            gone = [str(location)]
        if gone:
            store.delete(gone)


def make_folder(folder: Location) -> None:
    """Make a folder and those above it; an object store needs none."""
    if not is_remote(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)


def copy_in(location: Location, path: Path) -> None:
    """Copy a file from a location to a path.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The object store cannot be read.
    """
    with open_read(location, _CHUNK) as source, create(path) as file:
        shutil.copyfileobj(source, file, _CHUNK)


def copy_out(path: Path, location: Location) -> None:
    """Copy a file from a path to a location.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: The object store does not take it.
    """
    with open(path, "rb") as source:
        if is_remote(location):
            _send(source, str(location))
        else:
            with create(location) as file:
                shutil.copyfileobj(source, file, _CHUNK)


def _send(source: IO[bytes], uri: str) -> None:
    with _reaching(uri) as store:
        chunk = source.read(_CHUNK)
        if not chunk and uri.startswith("s3://"):
            _create_empty(store, uri)
            return
        sink = store.create(uri, compression_type=_uncompressed())
        try:
            while chunk:
                sink.write(chunk)
                chunk = source.read(_CHUNK)
            sink.close()
        except BaseException:
            # Closing is all that ends a stream, and an upload that ends looks complete.
            with suppress(Exception):
                sink.close()
            with suppress(Exception):
                store.delete([uri])
            raise


def _create_empty(store: Any, uri: str) -> None:
    """Beam's uploader cannot create an S3 object without a byte: it completes an upload of no parts."""
    from apache_beam.io.aws.s3io import S3IO, parse_s3_path

    bucket, key = parse_s3_path(uri)
    S3IO(options=store._options).client.client.put_object(Bucket=bucket, Key=key, Body=b"")


def _uncompressed() -> Any:
    """Keep Beam from inflating what is named ``.gz``."""
    from apache_beam.io.filesystem import CompressionTypes

    return CompressionTypes.UNCOMPRESSED


@contextmanager
def _reaching(location: Location) -> Iterator[Any]:
    """Beam's filesystem for a URI; what it raises becomes a StorageError, except that a file is not there."""
    import_beam()
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    uri = str(location)
    scheme = uri.partition("://")[0]
    try:
        FileSystems.set_options(PipelineOptions(list(_options)))
        yield FileSystems.get_filesystem(uri)
    except (FileNotFoundError, StorageError):
        raise
    except Exception as error:
        needs = {"s3": "the package boto3", "gs": "the package google-cloud-storage"}.get(scheme, "its Beam extra")
        raise StorageError(
            f"{uri} cannot be reached ({type(error).__name__}: {error}). Check the address and the credentials in "
            f"the environment of this process and of the workers; {scheme}:// takes {needs}."
        ) from error
