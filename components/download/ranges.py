"""Fetching several ranges of a file at once, so that a slow connection does not decide."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from faceflow.components.common.locations import Interrupted, RemoteFile, check_status, told_total
from faceflow.components.common.storage import write_atomically
from faceflow.components.download.transfer import AtHand, Manner, NoRanges, check_same, get, received, write

_MIB = 1 << 20
_LEAST = 1 << 19
_MOST = 32 << 20
_NOTE_SECONDS = 1.0


def worthwhile(size: int) -> bool:
    """Whether a file is large enough to be fetched in ranges."""
    return size >= 2 * _LEAST


def fetch_ranges(location: str, hand: AtHand, remote: RemoteFile, what: str, manner: Manner) -> None:
    """Fetch what is missing of a file, several ranges at once.

    The bytes go into one file as large as the whole; which spans of it are there is noted each second, after they were
    written to disk.

    Args:
        location: Its address.
        hand: What is at hand.
        remote: What the server says of the file; its size is known.
        what: What to call it in an error.
        manner: How to deal with failures.

    Raises:
        NoRanges: The server does not serve them.
        Changed: The file is not the same any more.
        SourceError: It cannot be had in spite of all patience.
        DiskSpaceError: It does not fit.
    """
    assert remote.size is not None
    if not hand.in_ranges:
        hand.pieces.unlink(missing_ok=True)  # of a killed attempt, and noted nowhere
    spans = hand.read_spans()
    write_atomically(hand.spans, json.dumps(spans))
    if not hand.pieces.exists():
        if hand.part.exists():
            os.replace(hand.part, hand.pieces)
        else:
            hand.pieces.touch()
    os.truncate(hand.pieces, remote.size)
    work = _Ranges(location, hand, remote, remote.size, spans, what, manner)
    missing = remote.size - sum(end - begin for begin, end in spans)
    for _ in manner.showing(work.run(), missing, hand.pieces.stem):
        pass


class _Ranges:
    def __init__(
        self,
        location: str,
        hand: AtHand,
        remote: RemoteFile,
        size: int,
        spans: list[list[int]],
        what: str,
        manner: Manner,
    ) -> None:
        self._location = location
        self._hand = hand
        self._remote = remote
        self._what = what
        self._manner = manner
        self._done = spans
        self._todo = _holes(spans, size, min(max(size // (4 * manner.connections), _LEAST), _MOST))
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._arrived: queue.SimpleQueue[int] = queue.SimpleQueue()

    def run(self) -> Iterator[None]:
        """Fetch all, and yield at each MiB."""
        pending, noted = 0, time.monotonic()
        with ThreadPoolExecutor(self._manner.connections) as pool:
            tasks = {pool.submit(self._work) for _ in range(self._manner.connections)}
            try:
                while tasks:
                    finished, tasks = wait(tasks, timeout=0.1, return_when=FIRST_COMPLETED)
                    if time.monotonic() - noted >= _NOTE_SECONDS:
                        self._note()
                        noted = time.monotonic()
                    _raise_first(finished)
                    while not self._arrived.empty():
                        pending += self._arrived.get()
                    while pending >= _MIB:
                        pending -= _MIB
                        yield
            finally:
                self._stop.set()
                wait(tasks)
                self._note()

    def _work(self) -> None:
        with open(self._hand.pieces, "r+b", buffering=0) as file:
            while not self._stop.is_set():
                with self._lock:
                    if not self._todo:
                        return
                    begin, end = self._todo.pop(0)
                at = begin

                def attempt(end: int = end) -> None:
                    nonlocal at
                    for data in self._arriving(at, end):
                        file.seek(at)
                        write(file, data, self._what)
                        with self._lock:
                            self._done = _joined([*self._done, [at, at + len(data)]])
                        at += len(data)
                        self._arrived.put(len(data))
                    if at < end and not self._stop.is_set():
                        raise Interrupted(f"the connection ended after byte {at:,}")

                self._manner.patience.call(attempt, self._what, lambda: at)  # noqa: B023 - called at once

    def _arriving(self, begin: int, end: int) -> Iterator[bytes]:
        if begin == end:
            return
        with get(self._location, (begin, end), self._remote, self._manner.patience) as response:
            check_status(response, self._what)
            check_same(response, self._remote)
            if response.status_code != 206:
                raise NoRanges
            first = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if first != str(begin) or told_total(response) not in (None, self._remote.size):
                raise Interrupted("the server sent another range than it was asked for")
            left = end - begin
            for chunk in received(response):
                self._manner.throttle.take(len(chunk))
                yield chunk[:left]
                left -= len(chunk)
                if left <= 0 or self._stop.is_set():
                    return

    def _note(self) -> None:
        with self._lock:
            done = list(self._done)
        with open(self._hand.pieces, "rb") as file:
            os.fsync(file.fileno())
        write_atomically(self._hand.spans, json.dumps(done))


def _raise_first(finished: set[Future[None]]) -> None:
    for task in finished:
        task.result()


def _joined(spans: list[list[int]]) -> list[list[int]]:
    """Spans in order, those that touch made one."""
    joined: list[list[int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([begin, end])
    return joined


def _holes(spans: list[list[int]], size: int, most: int) -> list[tuple[int, int]]:
    """What lies between spans, in pieces of at most so many bytes."""
    holes: list[tuple[int, int]] = []
    last = 0
    for begin, end in [*spans, [size, size]]:
        holes += [(first, min(first + most, begin)) for first in range(last, begin, most)]
        last = end
    return holes
