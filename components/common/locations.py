"""What stands at a source's location, and whether it changed: files, folders, http(s) URLs and objects of S3 and GCS.

Imported by the stages that reach for sources, and by no other: it needs requests and tenacity.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import requests
import tenacity

from faceflow.components.common import objects
from faceflow.components.common.errors import SourceError
from faceflow.components.common.parts import is_first_part, parts_of
from faceflow.components.common.sources import Source, is_remote

Result = TypeVar("Result")
_log = logging.getLogger("faceflow.locations")

_CONNECT_SECONDS = 10.0
_NO_HEAD = (400, 403, 405, 501)
_TEMPORARY = (408, 425, 429)
_LONGEST_PAUSE = 60.0
_LONGEST_WISH = 900.0  # of a server, by Retry-After
_QUERY = re.compile(r"\?[^\s'\"]+")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_TOTAL = re.compile(r"bytes (?:\d+-\d+|\*)/(\d+)")
_SYSTEM_NAMES = ("__MACOSX", "Thumbs.db", "desktop.ini")
# An encoded transfer would have another length than the file, and could not be resumed.
IDENTITY = {"Accept-Encoding": "identity"}


class Interrupted(Exception):
    """A transfer failed in a way that another try may mend.

    Attributes:
        wait_seconds: How long the server wishes to be left alone.
    """

    def __init__(self, message: str, wait_seconds: float = 0.0) -> None:
        """Keep the wish beside the message."""
        super().__init__(message)
        self.wait_seconds = wait_seconds


class Missing(SourceError):
    """Nothing stands at a location."""


_MENDABLE = (
    Interrupted,
    ConnectionError,
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)


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
            error = state.outcome.exception() if state.outcome else None
            wished = error.wait_seconds if isinstance(error, Interrupted) else 0.0
            return float(max(min(self.wait_seconds * 2 ** (failures - 1), _LONGEST_PAUSE), wished))

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            waiting = f" in {state.upcoming_sleep:.0f} s" if state.upcoming_sleep >= 1 else ""
            _log.warning("%s: %s; trying again%s (%d of %d)", what, _unsigned(error), waiting, failures, self.retries)

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
                f"{what}: {_unsigned(error)}. Gave up after {failures} tries without progress: "
                "check the address and the network, then run the stage again."
            ) from error
        except requests.RequestException as error:
            raise SourceError(f"{what}: {_unsigned(error)}. Check the address.") from error


def _unsigned(error: object) -> str:
    """An error's text without the queries of addresses: that of a signed one lets its reader in."""
    return _QUERY.sub("?...", str(error))


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
        Missing: There is nothing.
        SourceError: It stays so: not allowed, or not understood.
        Interrupted: It may pass: the server is busy or broken.
    """
    code = response.status_code
    if code < 300:
        return
    said = f"{code} {response.reason}"
    if code >= 500 or code in _TEMPORARY:
        raise Interrupted(f"the server answered {said}", _wished_pause(response.headers.get("Retry-After", "")))
    if code in (404, 410):
        raise Missing(f"{what}: not found (the server answered {said}): check the address.")
    if found := _CODE.search(response.text[:4096] if response.request.method == "GET" else ""):
        said += f", {found.group(1)}"
    wanted = [names for scheme, names in objects.CREDENTIALS.items() if f"{scheme}://" in what]
    where = f" and {wanted[0]}" if wanted else ""
    if code in (401, 403):
        raise SourceError(f"{what}: the server refuses access ({said}): check the address{where}.")
    raise SourceError(f"{what}: the server does not give it ({said}): check the address{where}.")


def _wished_pause(text: str) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), within reason; 0 if it says nothing."""
    try:
        seconds = float(text) if text.strip().isdecimal() else parsedate_to_datetime(text).timestamp() - time.time()
    except ValueError:
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_WISH)


def ask(location: str, what: str, patience: Patience, *, first_byte: bool = False) -> RemoteFile:
    """Ask a server about a file, by HEAD or, where it does not answer that, by a GET for the first byte.

    Args:
        location: Its address.
        what: What to call it in an error; ends with the location.
        patience: How to deal with failures.
        first_byte: Whether to ask by GET at once, since what it says of a file that it sends is more reliable.

    Raises:
        Missing: There is no such file.
        SourceError: There is no answer, or a refusal.
    """

    def attempt() -> RemoteFile:
        if not first_byte:
            url, headers = objects.address(location, "HEAD")
            with requests.head(
                url, headers=IDENTITY | headers, allow_redirects=True, timeout=patience.timeouts
            ) as response:
                if response.status_code not in _NO_HEAD:
                    check_status(response, what)
                    return _described(response, response.headers.get("Content-Length"))
        url, headers = objects.address(location)
        begin = IDENTITY | headers | {"Range": "bytes=0-0"}
        with requests.get(url, headers=begin, stream=True, timeout=patience.timeouts) as response:
            total = told_total(response)
            if response.status_code == 416 and total == 0:
                return _described(response, "0")
            check_status(response, what)
            if response.status_code == 206:
                return _described(response, None if total is None else str(total))
            return _described(response, response.headers.get("Content-Length"))

    return patience.call(attempt, what)


def told_total(response: requests.Response) -> int | None:
    """The size of the whole file, as the Content-Range of an answer to a range tells it."""
    match = _TOTAL.fullmatch(response.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


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


@dataclass(frozen=True)
class Located:
    """Where the file of a location field is, at the first of its places that answers.

    Attributes:
        place: Index of that place: 0, or the mirror's.
        parts: The parts of the file there, mostly one.
        folder: Whether it is a folder, or a prefix of objects.
        facts: What changes when the data change.
    """

    place: int
    parts: list[str]
    folder: bool
    facts: dict[str, Any]


def describe(source: Source, patience: Patience) -> dict[str, Any]:
    """Look at every location of a source.

    Args:
        source: The source.
        patience: How to deal with servers.

    Returns:
        For each location field what changes when the data change: of a file on a server its size, ETag and date, of a
        local file its size and time of change, of a folder the number of its files, their bytes, and a digest of its
        listing, of a file with a checksum that and its size.

    Raises:
        SourceError: A location does not exist, cannot be read or is an empty folder.
    """
    return {label: locate(source, label, patience).facts for label in source.locations}


def locate(source: Source, label: str, patience: Patience) -> Located:
    """Look at a location of a source, and at its mirrors in order until one answers.

    Args:
        source: The source.
        label: The location field.
        patience: How to deal with servers.

    Raises:
        SourceError: None of the places has it.
    """
    refusals: list[SourceError] = []
    places = source.places(label)
    for index, parts in enumerate(places):
        what = f"source '{source.name}': {label}"
        try:
            found = _located(source, label, index, parts, patience)
        except SourceError as error:
            refusals.append(error)
            if index + 1 < len(places):
                _log.warning("%s Trying the next mirror.", error)
            continue
        if found.folder and label in source.checksums:
            raise SourceError(f"{what} {parts[0]} is a folder: a checksum is for a file. Remove checksums.{label}.")
        return found
    if len(refusals) == 1:
        raise refusals[0]
    raise SourceError(f"{what}: none of its {len(refusals)} places has it. " + " ".join(map(str, refusals)))


def _located(source: Source, label: str, index: int, parts: list[str], patience: Patience) -> Located:
    what = f"source '{source.name}': {label}"
    if len(parts) == 1 and is_first_part(parts[0]):
        parts = parts_of(parts[0], lambda location: _is_there(location, f"{what} {location}", patience))
    if len(parts) == 1:
        facts = _describe(source, f"{what} {parts[0]}", parts[0], patience)
    else:
        told = [_describe(source, f"{what} {part}", part, patience) for part in parts]
        for part, each in zip(parts, told, strict=True):
            if "listing" in each:
                raise SourceError(f"{what} {part} is a folder: the parts of an archive are files.")
        known = all(each["size"] is not None for each in told)
        facts = {"size": sum(each["size"] for each in told) if known else None, "parts": told}
    folder = "listing" in facts
    if label in source.checksums and not folder:
        facts = {"size": facts["size"], "checksum": source.checksums[label]}
    return Located(index, parts, folder, facts)


def _is_there(location: str, what: str, patience: Patience) -> bool:
    """Whether there is another part: an object store that may not be listed refuses what does not exist."""
    if not is_remote(location):
        return local_path(location).exists()
    try:
        ask(location, what, patience)
    except Missing:
        return False
    except SourceError:
        if objects.is_object(location):
            return False
        raise
    return True


def _describe(source: Source, what: str, location: str, patience: Patience) -> dict[str, Any]:
    if is_remote(location):
        return _describe_remote(source, what, location, patience)
    path = local_path(location)
    try:
        told = path.stat()
    except OSError as error:
        raise SourceError(f"{what} cannot be opened ({error.strerror}): check the path.") from error
    if not path.is_dir():
        return {"size": told.st_size, "mtime_ns": told.st_mtime_ns}
    return _describe_folder(source, what, ((each.path, each.size, each.mtime_ns) for each in listing(path)))


def _describe_remote(source: Source, what: str, location: str, patience: Patience) -> dict[str, Any]:
    try:
        if location.endswith("/") and objects.is_object(location):
            raise Missing(f"{what} has no objects below it: check the address.")
        remote = ask(location, what, patience)
    except Missing:
        found = below(location, what, patience) if objects.is_object(location) else []
        if not found:
            raise
        return _describe_folder(source, what, ((each.path, each.size, each.etag) for each in found))
    if not remote.etag and not remote.last_modified:
        _log.warning("%s: the server tells neither ETag nor date: a change that keeps the size goes unseen", what)
    return asdict(remote)


def below(location: str, what: str, patience: Patience) -> list[objects.ObjectEntry]:
    """The objects below a prefix.

    Raises:
        SourceError: It cannot be listed.
    """
    return patience.call(lambda: objects.listing(location), what)


def _describe_folder(source: Source, what: str, entries: Iterable[tuple[str, int, int | str]]) -> dict[str, Any]:
    digest, files, size = hashlib.sha256(), 0, 0
    people: set[str] = set()
    for path, each_size, state in entries:
        digest.update(f"{path}\0{each_size}\0{state}\n".encode(errors="surrogateescape"))
        files += 1
        size += each_size
        if not is_hidden(path):
            people.add(path.rpartition("/")[0])
    if not people:
        raise SourceError(f"{what} is an empty folder: put <identity>/<image> into it, or correct the path.")
    if source.kind == "folder":
        if people == {""}:
            raise SourceError(f"{what} holds its files directly: put each person's images into a folder of their own.")
        require_several(len(people), source.name)
    return {"files": files, "bytes": size, "listing": digest.hexdigest()}
