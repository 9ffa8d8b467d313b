"""Fetching a file over http(s) so that it survives dropped connections and killed processes.

The bytes go to ``<name>.part`` in the scratch folder, with what the server said of the file beside them. A later
attempt asks for the rest, on the condition that the file is still the same (RFC 9110, If-Range), and begins anew only
when it is not, or when the server does not serve ranges.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import requests

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import fingerprint
from faceflow.components.common.locations import IDENTITY, Interrupted, Patience, RemoteFile, ask, check_status
from faceflow.components.common.logs import progress
from faceflow.components.common.storage import readable_bytes, require_free_space, write_atomically

_log = logging.getLogger("faceflow.download")
_CHUNK = 1 << 16  # what a dropped connection can cost
_MIB = 1 << 20
_CHANGES = 3
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_SAFE = re.compile(r"[^A-Za-z0-9_.-]+")


class _Changed(Exception):
    """The file on the server is not the one that the transfer began with."""


def fetch(url: str, scratch: Path, what: str, patience: Patience) -> Path:
    """Fetch a file, going on from what an earlier attempt left.

    Args:
        url: Its address.
        scratch: Where it and its parts are kept, in a folder of their own.
        what: What to call it in an error.
        patience: How to deal with failures.

    Returns:
        The complete file.

    Raises:
        SourceError: It is not there, or cannot be had in spite of all patience, or keeps changing.
        DiskSpaceError: It does not fit.
    """
    place = scratch / fingerprint(url)[:16]
    place.mkdir(parents=True, exist_ok=True)
    target = place / (_SAFE.sub("_", unquote(urlsplit(url).path.rsplit("/", 1)[-1])) or "file")
    with _alone(place):
        for _ in range(_CHANGES):
            remote = ask(url, what, patience)
            _forget_another(target, url, remote)
            if target.exists():
                return target
            part = _part(target)
            if remote.size is not None:
                require_free_space(place, remote.size - _size(part), f"{what}: fetching it")
            try:
                patience.call(partial(_attempt, url, part, remote, what, patience), what, partial(_size, part))
            except _Changed as change:
                _log.warning("%s: %s; beginning anew", what, change)
                part.unlink(missing_ok=True)
                continue
            os.replace(part, target)
            _log.info("%s: %s fetched", what, readable_bytes(_size(target)))
            return target
    raise SourceError(f"{what} changed on the server {_CHANGES} times while it was fetched: try again later.")


def _attempt(url: str, part: Path, remote: RemoteFile, what: str, patience: Patience) -> None:
    """Ask for what is missing and append it."""
    have = _size(part)
    if remote.size is not None and have == remote.size:
        return
    headers = dict(IDENTITY)
    if have:
        headers["Range"] = f"bytes={have}-"
        if remote.validator:
            headers["If-Range"] = remote.validator
    with requests.get(url, headers=headers, stream=True, timeout=patience.timeouts) as response:
        if response.status_code == 416:
            part.unlink(missing_ok=True)
            raise Interrupted("the server refuses to go on where the transfer broke off")
        check_status(response, what)
        have = _check_answer(response, have, remote)
        left = None if remote.size is None else (remote.size - have) // _MIB
        with open(part, "ab" if have else "wb") as file:
            for _ in progress(_write(response, file), total=left, what="MiB", label=f"fetching {part.stem}"):
                pass
    size = _size(part)
    if remote.size is not None and size < remote.size:
        raise Interrupted(f"the connection ended after {size:,} of {remote.size:,} bytes")
    if remote.size is not None and size > remote.size:
        raise _Changed(f"it has more than the {remote.size:,} bytes that were announced")


def _write(response: requests.Response, file: IO[bytes]) -> Iterator[None]:
    """Write what arrives, and yield at each MiB."""
    pending = 0
    for chunk in response.iter_content(_CHUNK):
        file.write(chunk)
        pending += len(chunk)
        while pending >= _MIB:
            pending -= _MIB
            yield


def _check_answer(response: requests.Response, have: int, remote: RemoteFile) -> int:
    """How many of the bytes at hand the answer goes on from: all or none.

    Raises:
        _Changed: The answer is about another file.
    """
    etag = response.headers.get("ETag", "")
    if remote.etag and etag and etag.removeprefix("W/") != remote.etag.removeprefix("W/"):
        raise _Changed("its ETag changed")
    if not etag and response.headers.get("Last-Modified", "") != remote.last_modified:
        raise _Changed("its date changed")
    if response.status_code == 206:
        match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match or int(match.group(1)) != have:
            raise _Changed("the server sent another range than asked for")
        total = match.group(2)
    else:
        have = 0
        total = response.headers.get("Content-Length", "*")
    if remote.size is not None and total.isdecimal() and int(total) != remote.size:
        raise _Changed(f"its size changed from {remote.size:,} to {int(total):,} bytes")
    return have


def _forget_another(target: Path, url: str, remote: RemoteFile) -> None:
    """Remove what belongs to an earlier state of the file, and note the present one."""
    note = target.with_name(target.name + ".json")
    state = {"url": url, **asdict(remote)}
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        known = None
    if known != state or not (remote.etag or remote.last_modified or remote.size is not None):
        target.unlink(missing_ok=True)
        _part(target).unlink(missing_ok=True)
        write_atomically(note, json.dumps(state))


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep two processes from writing one file: the second waits, and finds it complete."""
    with open(folder / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
