"""Rows looked up by name: landmark files and attribute tables of millions of rows, held as plain arrays."""

from __future__ import annotations

from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.hashing import stable_hash

_MERGE_AT = 1 << 16


class NameIndex:
    """Finds a name's place among many, by a 64-bit hash of it: 16 bytes a name.

    Two of ten million names share a hash with a probability of three in a million.

    Args:
        names: The names, in order; the first of equal ones counts.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """Hash and sort the names."""
        hashes = np.frombuffer(array("Q", (stable_hash(name) for name in names)), np.uint64)
        order = np.argsort(hashes, kind="stable")
        first = np.ones(len(hashes), bool)
        first[1:] = hashes[order][1:] != hashes[order][:-1]
        self._hashes: NDArray[np.uint64] = hashes[order][first]
        self._places: NDArray[np.intp] = order[first]
        self.found: NDArray[np.bool_] = np.zeros(len(hashes), bool)
        """Which names were looked up; those that repeat an earlier one count as found."""
        self.found[order[~first]] = True
        self.repeated = int((~first).sum())

    def find(self, name: str) -> int:
        """The place of a name, which then counts as found; -1 if there is no such name."""
        wanted = np.uint64(stable_hash(name))
        at = int(np.searchsorted(self._hashes, wanted))
        if at == len(self._hashes) or self._hashes[at] != wanted:
            return -1
        place = int(self._places[at])
        self.found[place] = True
        return place


class NameSet:
    """The names met so far, 8 bytes each."""

    def __init__(self) -> None:
        """Begin with none."""
        self._old = np.empty(0, np.uint64)
        self._new: set[int] = set()

    def add(self, name: str) -> bool:
        """Add a name; returns False if it was met before."""
        value = stable_hash(name)
        at = int(np.searchsorted(self._old, np.uint64(value)))
        if value in self._new or (at < len(self._old) and int(self._old[at]) == value):
            return False
        self._new.add(value)
        if len(self._new) >= _MERGE_AT:
            self._old = np.union1d(self._old, np.fromiter(self._new, np.uint64, len(self._new)))
            self._new = set()
        return True
