"""Rows looked up by name: landmark files and attribute tables of millions of rows, held as plain arrays."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.hashing import stable_hash

_MERGE_AT = 1 << 16
_MIDDLE = 8
_NONE = np.empty(0, np.uint64)
# Sorted hashes are searched as memoryviews by bisect: numpy's searchsorted lets go of the interpreter at every call,
# and with threads at work waits for it each time.


class NameIndex:
    """Finds a name's place among many, by a 64-bit hash of it: 13 bytes a name.

    Two of ten million names share a hash with a probability of three in a million.

    Args:
        names: The names, in order; the first of equal ones counts. None stands for a row without a name, which cannot
            be found.
    """

    def __init__(self, names: Iterable[str | None]) -> None:
        """Hash and sort the names."""
        values, places = array("Q"), array("I")
        row = -1
        for row, name in enumerate(names):
            if name is not None:
                values.append(stable_hash(name))
                places.append(row)
        hashes = np.frombuffer(values, np.uint64)
        order = np.argsort(hashes, kind="stable")
        hashes = hashes[order]
        rows = np.frombuffer(places, np.uint32)[order]
        first = np.ones(len(hashes), bool)
        first[1:] = hashes[1:] != hashes[:-1]
        self.found: NDArray[np.bool_] = np.zeros(row + 1, bool)
        """Which rows were looked up; those that repeat an earlier name count as found."""
        self.found[rows[~first]] = True
        self.repeated = int((~first).sum())
        self._hashes = _view(hashes[first] if self.repeated else hashes)
        self._places: NDArray[np.uint32] = rows[first] if self.repeated else rows

    def find(self, name: str) -> int:
        """The place of a name, which then counts as found; -1 if there is no such name."""
        wanted = stable_hash(name)
        at = bisect_left(self._hashes, wanted)
        if at == len(self._hashes) or self._hashes[at] != wanted:
            return -1
        place = int(self._places[at])
        self.found[place] = True
        return place


class NameSet:
    """The names met so far, 8 bytes each: a set of the latest, and two sorted arrays of hashes, a small and a large."""

    def __init__(self) -> None:
        """Begin with none."""
        self._large = _view(_NONE)
        self._small = _view(_NONE)
        self._new: set[int] = set()

    def add(self, name: str) -> bool:
        """Add a name; returns False if it was met before."""
        value = stable_hash(name)
        if value in self._new or _holds(self._small, value) or _holds(self._large, value):
            return False
        self._new.add(value)
        if len(self._new) >= _MERGE_AT:
            self._small = _merged(self._small, np.fromiter(self._new, np.uint64, len(self._new)))
            self._new = set()
            # Merging into the large array touches all of it, so it is done for many names at a time.
            if len(self._small) >= _MIDDLE * _MERGE_AT:
                self._large = _merged(self._large, self._small)
                self._small = _view(_NONE)
        return True


def _view(values: NDArray[np.uint64]) -> memoryview:
    return values.data


def _holds(values: memoryview, value: int) -> bool:
    at = bisect_left(values, value)
    return at < len(values) and bool(values[at] == value)


def _merged(one: memoryview, other: memoryview | NDArray[np.uint64]) -> memoryview:
    both = np.concatenate([np.asarray(one), np.asarray(other)])
    both.sort(kind="stable")
    return _view(both)
