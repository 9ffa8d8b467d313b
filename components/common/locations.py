"""What stands at a source's location, and whether it changed: files, folders and http(s) URLs.

Imported by the stages that reach for sources, and by no other: it needs requests and tenacity.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import tenacity

from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import Source, is_remote

Result = TypeVar("Result")
_log = logging.getLogger("faceflow.locations")

_CONNECT_SECONDS = 10.0
_NO_HEAD = (400, 403, 405, 501)
_TEMPORARY = (408, 425, 429)
_SYSTEM_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini")
# An encoded transfer would have another length than the file, and could not be resumed.
IDENTITY = {"Accept-Encoding": "identity"}


class Interrupted(Exception):
    """A transfer failed in a way that another try may mend."""


_MENDABLE = (Interrupted, requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, and how often to ask again.

    Attributes:
        timeout_seconds: Longest silence of the server.
        retries: Further tries after a failure, anew whenever something was received in between.
        wait_seconds: Pause before the first of them; it doubles up to a minute.
    """

    timeout_seconds: float = 60.0
    retries: int = 5
    wait_seconds: float = 1.0

    @property
    def timeouts(self) -> tuple[float, float]:
        """Seconds to connect and between two answers."""
        return min(_CONNECT_SECONDS, self.timeout_seconds), self.timeout_seconds

    def call(self, attempt: Callable[[], Result], what: str, received: Callable[[], int] = lambda: 0) -> Result:
        """Call something until it succeeds or patience ends.

        Args:
            attempt: Raises :class:`Interrupted` or a connection error where another try may help.
            what: What is tried, for the log and the error.
            received: Bytes received so far: while they grow, the count of failures begins anew.

        Raises:
            SourceError: Patience ended.
        """
        failures, last = 0, received()

        def count(state: tenacity.RetryCallState) -> bool:
            nonlocal failures, last
            now = received()
            failures = 1 if now > last else failures + 1
            last = max(now, last)
            return failures > self.retries

        def pause(state: tenacity.RetryCallState) -> float:
            return float(min(self.wait_seconds * 2 ** (failures - 1), 60.0))

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            _log.warning("%s: %s; trying again (%d of %d)", what, error, failures, self.retries)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_MENDABLE),
            stop=count,
            wait=pause,
            before_sleep=tell,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _MENDABLE as error:
            raise SourceError(
                f"{what}: {error}. Gave up after {failures} tries without progress: "
                "check the address and the network, then run the stage again."
            ) from error
        except requests.RequestException as error:
            raise SourceError(f"{what}: {error}. Check the address.") from error


@dataclass(frozen=True)
class RemoteFile:
    """What a server says of a file.

    Attributes:
        size: Bytes, or None if the server does not tell.
        etag: The ETag, or empty.
        last_modified: The Last-Modified date, or empty.
    """

    size: int | None
    etag: str
    last_modified: str

    @property
    def validator(self) -> str:
        """What an ``If-Range`` header may carry (RFC 9110, 13.1.5): a strong ETag, else the date, else nothing."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def check_status(response: requests.Response, what: str) -> None:
    """Sort out answers that are errors.

    Raises:
        SourceError: One that stays so: not found, not allowed.
        Interrupted: One that may pass: the server is busy or broken.
    """
    code = response.status_code
    if code >= 500 or code in _TEMPORARY:
        raise Interrupted(f"the server answered {code} {response.reason}")
    if code in (401, 403):
        raise SourceError(f"{what}: the server refuses access ({code} {response.reason}): check the address.")
    if code >= 400:
        raise SourceError(f"{what}: not found (the server answered {code} {response.reason}): check the address.")


def ask(url: str, what: str, patience: Patience) -> RemoteFile:
    """Ask a server about a file, by HEAD or, where it does not answer that, by a GET for the first byte.

    Args:
        url: Its address.
        what: What to call it in an error.
        patience: How to deal with failures.

    Raises:
        SourceError: There is no such file, or no answer.
    """

    def attempt() -> RemoteFile:
        with requests.head(url, headers=IDENTITY, allow_redirects=True, timeout=patience.timeouts) as response:
            if response.status_code not in _NO_HEAD:
                check_status(response, what)
                return _described(response, response.headers.get("Content-Length"))
        begin = IDENTITY | {"Range": "bytes=0-0"}
        with requests.get(url, headers=begin, stream=True, timeout=patience.timeouts) as response:
            check_status(response, what)
            if response.status_code == 206:
                return _described(response, response.headers.get("Content-Range", "").rpartition("/")[2])
            return _described(response, response.headers.get("Content-Length"))

    return patience.call(attempt, what)


def _described(response: requests.Response, size: str | None) -> RemoteFile:
    found = response.headers
    length = int(size) if size and size.isdecimal() else None
    return RemoteFile(length, found.get("ETag", ""), found.get("Last-Modified", ""))


def local_path(location: str) -> Path:
    """The path of a location that is not remote."""
    if location.startswith("file://"):
        location = unquote(urlsplit(location).path)
    return Path(location).expanduser()


@dataclass(frozen=True)
class FileEntry:
    """A file in a folder: its path below it with ``/``, its size in bytes and its time of change in nanoseconds."""

    path: str
    size: int
    mtime_ns: int


def listing(folder: Path) -> Iterator[FileEntry]:
    """Yield the files below a folder in the order of their names, links followed.

    Raises:
        SourceError: Something cannot be read, or a link leads back to a folder above it.
    """
    yield from _listing(folder, "", frozenset())


def _listing(folder: Path, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[FileEntry]:
    try:
        own = os.stat(folder)
        if (own.st_dev, own.st_ino) in above:
            raise SourceError(f"{folder} is a link to a folder that holds it: remove the link.")
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            if entry.is_dir():
                yield from _listing(folder / entry.name, f"{prefix}{entry.name}/", above | {(own.st_dev, own.st_ino)})
            else:
                told = entry.stat()
                yield FileEntry(prefix + entry.name, told.st_size, told.st_mtime_ns)
    except OSError as error:
        raise SourceError(
            f"{error.filename or folder} cannot be read ({error.strerror}): give read access, or remove it."
        ) from error


def is_hidden(path: str) -> bool:
    """Whether a file is an operating system's own: a dot file, a macOS archive's shadow, a thumbnail cache."""
    return any(part.startswith(".") or part in _SYSTEM_NAMES for part in path.split("/"))


def require_several(identities: int, name: str) -> None:
    """Refuse a set of one person.

    Raises:
        SourceError: There are fewer than two identities.
    """
    if identities < 2:
        raise SourceError(
            f"source '{name}' holds a single identity: with one there is nothing to tell apart. It needs a folder for "
            "each person (<identity>/<image>); check that 'path' leads to the folder above them."
        )


def describe(source: Source, patience: Patience) -> dict[str, Any]:
    """Look at every location of a source.

    Args:
        source: The source.
        patience: How to deal with servers.

    Returns:
        For each location field what changes when the data change: of a URL its size, ETag and date, of a file its size
        and time of change, of a folder the number of its files, their bytes, and a digest of its listing.

    Raises:
        SourceError: A location does not exist, cannot be read or is an empty folder.
    """
    return {label: _describe(source, label, location, patience) for label, location in source.locations.items()}


def _describe(source: Source, label: str, location: str, patience: Patience) -> dict[str, Any]:
    what = f"source '{source.name}': {label} {location}"
    if is_remote(location):
        remote = ask(location, what, patience)
        if not remote.etag and not remote.last_modified:
            _log.warning("%s: the server tells neither ETag nor date: a change that keeps the size goes unseen", what)
        return asdict(remote)
    path = local_path(location)
    try:
        told = path.stat()
    except OSError as error:
        raise SourceError(f"{what} cannot be opened ({error.strerror}): check the path.") from error
    if not path.is_dir():
        return {"size": told.st_size, "mtime_ns": told.st_mtime_ns}
    digest, files, size = hashlib.sha256(), 0, 0
    people: set[str] = set()
    for entry in listing(path):
        line = f"{entry.path}\0{entry.size}\0{entry.mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
        files += 1
        size += entry.size
        if not is_hidden(entry.path):
            people.add(entry.path.rpartition("/")[0])
    if not people:
        raise SourceError(f"{what} is an empty folder: put <identity>/<image> into it, or correct the path.")
    if source.kind == "folder":
        if people == {""}:
            raise SourceError(f"{what} holds its files directly: put each person's images into a folder of their own.")
        require_several(len(people), source.name)
    return {"files": files, "bytes": size, "listing": digest.hexdigest()}
