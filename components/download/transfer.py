"""Fetching a file from a server so that it survives dropped connections, killed processes and moody servers.

The bytes go to ``<name>.part`` in the scratch folder, with what the server said of the file beside them. A later
attempt asks for the rest, on the condition that the file is still the same (RFC 9110, If-Range), and begins anew only
when it is not. A server that does not serve ranges sends everything again, and what is at hand is compared, not
overwritten.

What is at hand is kept when the file is now said to be another, or comes from another mirror, if that is safe: the size
must be the same, and so must samples of what is at hand, among them its last bytes, on which everything before them
tells in a compressed archive. Besides, the mirror must be one that the source names, or the date the same (servers that
share an address have different ETags for one file), or a checksum must be given, which tells in the end.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import requests
import urllib3

from faceflow.components.common.errors import ChecksumError, DiskSpaceError, SourceError
from faceflow.components.common.locations import (
    IDENTITY,
    Interrupted,
    Patience,
    RemoteFile,
    ask,
    check_status,
    told_total,
)
from faceflow.components.common.logs import progress
from faceflow.components.common.objects import address
from faceflow.components.common.storage import readable_bytes, require_free_space, write_atomically
from faceflow.components.download.checksums import RunningDigest
from faceflow.components.download.throttle import Throttle

_log = logging.getLogger("faceflow.download")
CHUNK = 1 << 16  # what a dropped connection can cost
_MIB = 1 << 20
_CHANGES = 3
_SAMPLES = 8
_SAMPLE = 1 << 15


@dataclass(frozen=True)
class Manner:
    """How files are fetched.

    Attributes:
        patience: How to deal with failures.
        connections: Ranges of a file to fetch at once.
        throttle: The limit on bytes a second.
        shown: Whether progress is shown.
    """

    patience: Patience = field(default_factory=Patience)
    connections: int = 1
    throttle: Throttle = field(default_factory=Throttle)
    shown: bool = True

    def showing(self, arriving: Iterator[None], missing: int | None, name: str) -> Iterator[None]:
        """Pass on what is yielded at each MiB, with a bar or log lines.

        Args:
            arriving: Yields at each MiB.
            missing: Bytes to come, if known.
            name: The file's name.
        """
        total = None if missing is None else missing // _MIB
        return progress(arriving, total, "MiB", f"fetching {name}") if self.shown else arriving


class Changed(Exception):
    """The file on the server is not the one that the transfer began with."""


class NoRanges(Exception):
    """The server does not serve ranges."""


def fetch(places: Sequence[str], target: Path, what: str, manner: Manner, checksum: str = "") -> None:
    """Fetch a file, going on from what an earlier attempt left.

    Args:
        places: Its address, then those of its mirrors, in the order in which they are tried.
        target: Where it goes; it stands there only when it is complete and has the checksum. What is needed to go on
            is kept beside it.
        what: What to call it in an error; the address is added.
        manner: How to deal with failures.
        checksum: What it must have: ``md5:...``, ``sha256:...`` or nothing.

    Raises:
        SourceError: It is nowhere, or cannot be had in spite of all patience, or keeps changing.
        ChecksumError: No place has it with that checksum.
        DiskSpaceError: It does not fit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    refusals: list[SourceError] = []
    for index, location in enumerate(places):
        try:
            _Transfer(location, target, f"{what} {location}", manner, checksum).run()
            return
        except SourceError as error:
            refusals.append(error)
            if index + 1 < len(places):
                _log.warning("%s Trying the next mirror.", error)
    if len(refusals) == 1:
        raise refusals[0]
    kind = ChecksumError if any(isinstance(error, ChecksumError) for error in refusals) else SourceError
    raise kind(f"{what}: none of its {len(places)} places gave it. " + " ".join(map(str, refusals)))


class _Transfer:
    """A file on its way from one server."""

    def __init__(self, location: str, target: Path, what: str, manner: Manner, checksum: str) -> None:
        self._location = location
        self._target = target
        self._what = what
        self._manner = manner
        self._digest = RunningDigest(checksum) if checksum else None
        self._hand = AtHand(target)
        self._remote = RemoteFile(None, "", "")
        self._ranges = manner.connections > 1
        self._doubtful = False  # what HEAD said was contradicted

    def run(self) -> None:
        """Fetch it."""
        for _ in range(_CHANGES):
            again = self._hand.size > 0
            self._remote = self._asked()
            self._doubtful = False
            self._settle()
            if self._target.exists():
                return
            again = again and self._hand.size > 0
            self._require_room()
            try:
                self._all_of_it()
                self._finish()
            except Changed as change:
                _log.warning("%s: %s", self._what, change)
                self._doubtful = True
                continue
            except ChecksumError as error:
                self._hand.forget()
                if not again:
                    raise
                # What an earlier attempt or another mirror left may have been of another file.
                _log.warning("%s Beginning anew.", error)
                continue
            return
        raise SourceError(f"{self._what} changed on the server {_CHANGES} times while it was fetched: try again later.")

    def _asked(self) -> RemoteFile:
        """What the server says of the file; asked twice where that would cost what is at hand."""
        patience = self._manner.patience
        told = ask(self._location, self._what, patience, first_byte=self._doubtful)
        known, url = self._hand.noted()
        if known and self._hand.size and url == self._location and known.size != told.size:
            return ask(self._location, self._what, patience, first_byte=True)
        return told

    def _settle(self) -> None:
        """Decide whether what is at hand is of the file as it is now, and note what that is."""
        known, url = self._hand.noted()
        if known != self._remote or url != self._location or not _dated(self._remote):
            if self._hand.size and known and self._carries_on(known, same_address=url == self._location):
                _log.info("%s: going on with the %s at hand", self._what, readable_bytes(self._hand.size))
            else:
                if self._hand.size:
                    _log.warning("%s: what is at hand is of another file; beginning anew", self._what)
                self._hand.forget()
            self._hand.note(self._location, self._remote)

    def _carries_on(self, known: RemoteFile, *, same_address: bool) -> bool:
        size = self._remote.size
        if size is None or size != known.size or self._hand.size > size:
            return False
        if same_address and known.etag and known.etag == self._remote.etag and not known.etag.startswith("W/"):
            return True
        same_date = bool(known.last_modified) and known.last_modified == self._remote.last_modified
        undated = not _dated(known) and not _dated(self._remote)
        if same_address and not same_date and not undated and not self._digest:
            return False
        return self._samples_agree(size)

    def _samples_agree(self, size: int) -> bool:
        """Whether pieces of what is at hand, its last bytes among them, are the same on the server."""
        for begin, end in _samples(self._hand.read_spans()):
            own = self._hand.read(begin, end)

            def sample(begin: int = begin, end: int = end) -> bytes | None:
                with get(self._location, (begin, end), None, self._manner.patience) as response:
                    check_status(response, self._what)
                    if response.status_code != 206 or told_total(response) != size:
                        return None
                    return b"".join(received(response))

            if self._manner.patience.call(sample, self._what) != own:
                return False
        return True

    def _require_room(self) -> None:
        if self._remote.size is not None:
            missing = self._remote.size - self._hand.size
            require_free_space(self._target.parent, missing, f"{self._what}: fetching it")

    def _all_of_it(self) -> None:
        from faceflow.components.download.ranges import fetch_ranges, worthwhile

        size = self._remote.size
        if self._hand.in_ranges or (self._ranges and size is not None and worthwhile(size)):
            try:
                fetch_ranges(self._location, self._hand, self._remote, self._what, self._manner)
                return
            except NoRanges:
                _log.warning("%s: the server does not serve ranges; fetching it in one go", self._what)
                self._ranges = False
                self._hand.keep_prefix()
        self._manner.patience.call(self._attempt, self._what, lambda: self._hand.size)

    def _attempt(self) -> None:
        """Ask for what is missing and append it."""
        if self._doubtful:
            told = ask(self._location, self._what, self._manner.patience, first_byte=True)
            if not _may_be_same(told, self._remote):
                raise Changed("it changed on the server")
            if told.size != self._remote.size and not _dated(told):
                raise Changed("its size changed")
            self._remote, self._doubtful = told, False
            self._hand.note(self._location, told)
        have = self._hand.size
        if self._remote.size is not None and have == self._remote.size:
            return
        wanted = (have, None) if have else None
        with get(self._location, wanted, self._remote, self._manner.patience) as response:
            if response.status_code == 416 and self._is_all(response, have):
                return
            check_status(response, self._what)
            self._check_answer(response, have)
            missing = None if self._remote.size is None else self._remote.size - have
            skip = 0 if response.status_code == 206 else have
            for _ in self._manner.showing(self._append(response, skip), missing, self._target.name):
                pass
        have = self._hand.size
        if self._remote.size is not None and have < self._remote.size:
            raise Interrupted(f"the connection ended after {have:,} of {self._remote.size:,} bytes")
        if self._remote.size is not None and have > self._remote.size:
            self._hand.forget()
            raise Changed(f"it has more than the {self._remote.size:,} bytes that were announced")

    def _is_all(self, response: requests.Response, have: int) -> bool:
        """Whether a server that has nothing more to send says that what is at hand is all of the file."""
        total = told_total(response)
        if total != have:
            self._hand.forget()
            self._hand.note(self._location, self._remote)
            raise Interrupted("the server refuses to go on where the transfer broke off")
        _log.warning(
            "%s: the server announced %s bytes, but has no more than %s",
            self._what,
            f"{self._remote.size:,}" if self._remote.size is not None else "no number of",
            f"{have:,}",
        )
        self._remote = replace(self._remote, size=have)
        return True

    def _append(self, response: requests.Response, skip: int) -> Iterator[None]:
        """Write what follows what is at hand, which must be the same where it is sent again; yield at each MiB."""
        if self._digest:
            self._digest.catch_up(self._hand.part, self._hand.size)
        pending = compared = 0
        with open(self._hand.part, "ab") as file:
            for chunk in received(response):
                self._manner.throttle.take(len(chunk))
                if compared < skip:
                    again = chunk[: skip - compared]
                    if self._hand.read(compared, compared + len(again)) != again:
                        self._hand.forget()
                        raise Changed("it does not begin any more with what is at hand")
                    compared += len(again)
                    chunk = chunk[len(again) :]
                write(file, chunk, self._what)
                if self._digest:
                    self._digest.update(chunk)
                pending += len(chunk)
                while pending >= _MIB:
                    pending -= _MIB
                    yield

    def _check_answer(self, response: requests.Response, have: int) -> None:
        """Refuse an answer about another file, and doubt what was announced if this answer has another size.

        Raises:
            Changed: The answer is about another file.
            Interrupted: It contradicts itself.
        """
        check_same(response, self._remote)
        if response.status_code == 206:
            begin = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if begin != str(have):
                raise Interrupted("the server sent another range than it was asked for")
            total = told_total(response)
        else:
            length = response.headers.get("Content-Length", "")
            total = int(length) if length.isdecimal() else None
        if total is not None and self._remote.size is None:
            self._remote = replace(self._remote, size=total)
        if total is not None and total != self._remote.size:
            self._doubtful = True
            raise Interrupted(f"the server speaks of {total:,} bytes now and spoke of {self._remote.size:,} before")

    def _finish(self) -> None:
        """Check the checksum and give the file its name."""
        if self._digest:
            self._digest.catch_up(self._hand.complete, self._hand.size)
            self._digest.check(self._what)
        self._hand.publish()


class AtHand:
    """What is at hand of a file: a beginning in ``<name>.part``, or pieces of it in ``<name>.pieces``.

    Args:
        target: Where the file goes when it is complete.

    Attributes:
        part: Holds a beginning of the file.
        pieces: As large as the file; holds the spans that ``spans`` notes.
        spans: A JSON list of [begin, end].
    """

    def __init__(self, target: Path) -> None:
        """Remember the names."""
        self._target = target
        self.part = target.with_name(target.name + ".part")
        self.pieces = target.with_name(target.name + ".pieces")
        self.spans = target.with_name(target.name + ".spans")
        self._note = target.with_name(target.name + ".json")

    @property
    def in_ranges(self) -> bool:
        """Whether pieces are at hand."""
        return self.pieces.exists() and self.spans.exists()

    @property
    def complete(self) -> Path:
        """The file that holds everything, once it does."""
        return self.pieces if self.in_ranges else self.part

    @property
    def size(self) -> int:
        """Bytes at hand."""
        if self._target.exists():
            return self._target.stat().st_size
        if self.in_ranges:
            return sum(end - begin for begin, end in self.read_spans())
        return self.part.stat().st_size if self.part.exists() else 0

    def read_spans(self) -> list[list[int]]:
        """The spans at hand, in order, none touching another."""
        if self.in_ranges:
            return [[int(begin), int(end)] for begin, end in json.loads(self.spans.read_text())]
        return [[0, self.size]] if self.size else []

    def read(self, begin: int, end: int) -> bytes:
        """Bytes of the file; they must lie in what is at hand."""
        with open(self._target if self._target.exists() else self.complete, "rb") as file:
            file.seek(begin)
            return file.read(end - begin)

    def noted(self) -> tuple[RemoteFile | None, str]:
        """The state of the file that the bytes at hand are of, and its address."""
        try:
            told: dict[str, Any] = json.loads(self._note.read_text())
            return RemoteFile(told["size"], told["etag"], told["last_modified"]), told["url"]
        except (OSError, ValueError, KeyError):
            return None, ""

    def note(self, url: str, remote: RemoteFile) -> None:
        """Note the state of the file."""
        write_atomically(self._note, json.dumps({"url": url, **asdict(remote)}))

    def keep_prefix(self) -> None:
        """Keep of the pieces what the file begins with, and forget the others."""
        spans = self.read_spans()
        prefix = spans[0][1] if spans and spans[0][0] == 0 else 0
        self.spans.unlink(missing_ok=True)  # first: without it the pieces count for nothing
        if self.pieces.exists():
            os.truncate(self.pieces, prefix)
            os.replace(self.pieces, self.part)

    def forget(self) -> None:
        """Remove everything."""
        for path in (self._target, self.spans, self.pieces, self.part, self._note):
            path.unlink(missing_ok=True)

    def publish(self) -> None:
        """Give the complete file its name."""
        os.replace(self.complete, self._target)
        self.spans.unlink(missing_ok=True)


def get(
    location: str, wanted: tuple[int, int | None] | None, same_as: RemoteFile | None, patience: Patience
) -> requests.Response:
    """Ask for a file, or a range of it.

    Args:
        location: Its address.
        wanted: The first byte and the one after the last, or None for all that follow.
        same_as: The file that the range must be of.
        patience: How long to wait.
    """
    url, credentials = address(location)
    headers = IDENTITY | credentials
    if wanted:
        begin, end = wanted
        headers["Range"] = f"bytes={begin}-{'' if end is None else end - 1}"
        if same_as and same_as.validator:
            headers["If-Range"] = same_as.validator
    return requests.get(url, headers=headers, stream=True, timeout=patience.timeouts)


def received(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer as they arrive, and as they are: servers call a .tgz an encoded tar.

    Raises:
        Interrupted: The connection broke.
    """
    try:
        yield from response.raw.stream(CHUNK, decode_content=False)
    except urllib3.exceptions.HTTPError as error:
        raise Interrupted(f"the connection broke ({error})") from error


def check_same(response: requests.Response, remote: RemoteFile) -> None:
    """Refuse an answer about another file.

    Raises:
        Changed: Its ETag, or where there is none its date, is another.
    """
    told = RemoteFile(None, response.headers.get("ETag", ""), response.headers.get("Last-Modified", ""))
    if not _may_be_same(told, remote):
        raise Changed(f"its {'ETag' if told.etag and remote.etag else 'date'} changed")


def write(file: IO[bytes], data: bytes, what: str) -> None:
    """Write, and say it in the usual words when the volume is full.

    Raises:
        DiskSpaceError: It is.
    """
    try:
        file.write(data)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskSpaceError(f"{what}: no room is left for it. Free some, or choose another scratch folder.") from error


def _samples(spans: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Yield where to compare: places spread evenly over the bytes of spans, the last ones among them."""
    total = sum(end - begin for begin, end in spans)
    for index in range(_SAMPLES):
        left = total * (index + 1) // _SAMPLES
        for begin, end in spans:
            if 0 < left <= end - begin:
                yield max(begin, begin + left - _SAMPLE), begin + left
            left -= end - begin


def _dated(remote: RemoteFile) -> bool:
    """Whether a server says of a file more than its size."""
    return bool(remote.etag or remote.last_modified)


def _may_be_same(now: RemoteFile, before: RemoteFile) -> bool:
    """Whether nothing that was said of a file both times is different; its size apart."""
    if now.etag and before.etag:
        return now.etag.removeprefix("W/") == before.etag.removeprefix("W/")
    return not now.last_modified or not before.last_modified or now.last_modified == before.last_modified
