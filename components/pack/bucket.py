"""The records of one bucket, in their order: frames from wherever they lie."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from mmap import mmap
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import files, tfrecord
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.record import glanced
from faceflow.components.pack import tables
from faceflow.components.pack.tables import Rows

_BUFFER_STEP = 16 << 20
_MOST_OPEN = 512  # half of the files that a process may have open by default


class Bucketful:
    """All records of a bucket, and their order.

    A context manager.

    Args:
        spill: The folder of the tables.
        bucket: The bucket's number.

    Raises:
        DatasetError: Two records have the same key.
    """

    def __init__(self, spill: str, bucket: int) -> None:
        """Find the records' order."""
        rows = tables.read(spill, bucket)
        self._rows = rows
        remote = any(files.is_remote(name) for name in rows.files)
        # Frames that are together, or far, are fetched together; those that memory caches are read one by one.
        together = rows.copied or remote or len(rows.files) > _MOST_OPEN
        self._frames: _Frames = _Fetched(rows) if together else _Opened(rows)
        try:
            self._order = np.argsort(rows.table["position"], kind="stable")
            self._break_ties()
        except BaseException:
            self._frames.close()
            raise

    def __enter__(self) -> Bucketful:
        """Return the bucketful itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give memory and files back."""
        self._frames.close()

    def batches(self, size: int, relabel: Callable[[bytes, int, int], bytes]) -> Iterator[list[bytes]]:
        """Yield the payloads in order, so many at a time, as a function of payload, place and label leaves them.

        Raises:
            DatasetError: A record is damaged.
        """
        rows, unframed = self._rows, tfrecord.unframed
        for start in range(0, len(rows.table), size):
            chosen = self._order[start : start + size]
            batch = rows.table[chosen]
            names = [rows.files[source] for source in rows.sources[chosen].tolist()]
            columns = (batch[name].tolist() for name in ("offset", "place", "label"))
            yield [
                relabel(unframed(frame, name, offset), place, label)
                for frame, name, offset, place, label in zip(self._frames.of(chosen), names, *columns, strict=True)
            ]

    def _break_ties(self) -> None:
        """Put records of equal positions in the order of their keys: hashes can meet, keys cannot."""
        ordered = self._rows.table["position"][self._order]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        for group in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1) if len(same) else []:
            tied = self._order[group[0] : group[-1] + 2]
            keys = dict(zip(tied.tolist(), self._keys(tied), strict=True))
            numbers = sorted(keys, key=keys.__getitem__)
            for one, other in zip(numbers, numbers[1:], strict=False):
                if keys[one] == keys[other]:
                    raise DatasetError(
                        f"two images have the key '{keys[one].decode()}'. Keys must be unique: give each source a "
                        "'name' of its own and run augment again."
                    )
            tied[:] = numbers

    def _keys(self, numbers: NDArray[np.int64]) -> list[bytes]:
        names = [self._rows.files[source] for source in self._rows.sources[numbers].tolist()]
        offsets = self._rows.table["offset"][numbers].tolist()
        found = zip(self._frames.of(numbers), names, offsets, strict=True)
        return [glanced(tfrecord.unframed(frame, name, offset)).key for frame, name, offset in found]


class _Frames(Protocol):
    """The frames of a bucket's rows."""

    def of(self, numbers: NDArray[np.int64]) -> list[bytes]:
        """Those of some rows."""

    def close(self) -> None:
        """Give back what they take."""


class _Opened:
    """Frames in files on this machine's disk, each read when it is asked for."""

    def __init__(self, rows: Rows) -> None:
        self._offsets, self._sizes = rows.table["offset"], rows.table["size"]
        self._sources = rows.sources
        self._open: dict[int, int] = {}
        try:
            for source in np.unique(rows.sources).tolist():
                self._open[source] = os.open(rows.files[source], os.O_RDONLY)
        except BaseException:
            self.close()
            raise

    def of(self, numbers: NDArray[np.int64]) -> list[bytes]:
        opened = [self._open[source] for source in self._sources[numbers].tolist()]
        return list(map(os.pread, opened, self._sizes[numbers].tolist(), self._offsets[numbers].tolist()))

    def close(self) -> None:
        for file in self._open.values():
            os.close(file)


class _Fetched:
    """Frames fetched at once, those that follow each other in a file with one request.

    They are in memory of their own, which the next bucket of this process takes over: memory that comes from the
    system is new each time, and to fill it costs as much as to read the frames.
    """

    def __init__(self, rows: Rows) -> None:
        sizes = rows.table["size"].astype(np.int64)
        self._ends = np.cumsum(sizes)
        self._begins = self._ends - sizes
        self._memory = _take_memory(int(sizes.sum()))
        try:
            with memoryview(self._memory) as view:
                cuts = np.flatnonzero(np.diff(rows.sources, prepend=-1, append=-1))
                for first, last in zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True):
                    into = view[self._begins[first] : self._ends[last - 1]]
                    _fetch(rows.files[rows.sources[first]], rows.table[first:last], into)
        except BaseException:
            self.close()
            raise

    def of(self, numbers: NDArray[np.int64]) -> list[bytes]:
        begins, ends = self._begins[numbers].tolist(), self._ends[numbers].tolist()
        return [self._memory[begin:end] for begin, end in zip(begins, ends, strict=True)]

    def close(self) -> None:
        _unused.append(self._memory)


_unused: list[mmap] = []


def _take_memory(size: int) -> mmap:
    while _unused:
        memory = _unused.pop()
        if len(memory) >= size:
            return memory
        memory.close()
    # Buckets are about as large as each other: one piece of memory does for most.
    return mmap(-1, -(-(size + 1) // _BUFFER_STEP) * _BUFFER_STEP)


def _fetch(source: str, rows: NDArray[np.void], into: memoryview) -> None:
    """Read frames one behind the other into memory; those that follow each other in the file at once."""
    begins, ends = rows["offset"], rows["offset"] + rows["size"]
    starts = np.flatnonzero(np.append(True, begins[1:] != ends[:-1]))
    sizes = np.add.reduceat(rows["size"].astype(np.int64), starts)
    with files.open_read(source, 0) as file:
        place = 0
        for offset, size in zip(begins[starts].tolist(), sizes.tolist(), strict=True):
            files.read_into(file, into[place : place + size], offset)
            place += size
