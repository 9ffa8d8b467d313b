"""The k smallest numbers of each of many groups, in memory bounded by groups times k."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PENDING = 1 << 18


class Smallest:
    """Keeps the smallest numbers of every group while more come in.

    Args:
        most: How many of each group to keep; 0 for none. One number for all, or one for each group, by its number.
    """

    def __init__(self, most: int | NDArray[np.int64]) -> None:
        """Start empty."""
        self._most = most
        self._none = not np.any(most)
        self._groups = np.empty(0, np.int64)
        self._numbers = np.empty(0, np.uint64)
        self._pending: list[tuple[NDArray[np.int64], NDArray[np.uint64]]] = []
        self._pending_count = 0

    def add(self, groups: NDArray[np.int64], numbers: NDArray[np.uint64]) -> None:
        """Take in numbers, each with its group."""
        if self._none or not len(groups):
            return
        self._pending.append((groups, numbers))
        self._pending_count += len(groups)
        # Sorting costs in proportion to what is kept, so that much should have come in between.
        if self._pending_count >= max(_PENDING, len(self._groups) // 2):
            self._settle()

    def _settle(self) -> None:
        if not self._pending:
            return
        groups = np.concatenate([self._groups, *(groups for groups, _ in self._pending)])
        numbers = np.concatenate([self._numbers, *(numbers for _, numbers in self._pending)])
        self._pending, self._pending_count = [], 0
        counts = np.bincount(groups)
        # Only where there are too many is anything to be compared.
        crowded = (counts > (self._most if isinstance(self._most, int) else self._most[: len(counts)]))[groups]
        some, theirs = _sorted(groups[crowded], numbers[crowded])
        first = np.flatnonzero(np.diff(some, prepend=-1))
        rank = np.arange(len(some)) - np.repeat(first, np.diff(np.append(first, len(some))))
        kept = rank < (self._most if isinstance(self._most, int) else self._most[some])
        self._groups = np.concatenate([groups[~crowded], some[kept]])
        self._numbers = np.concatenate([numbers[~crowded], theirs[kept]])

    def of(self, group: int) -> NDArray[np.uint64]:
        """The smallest numbers of one group, in order."""
        self._settle()
        return np.sort(self._numbers[self._groups == group])

    def nth(self, groups: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Of each of the given groups, the number at a place counted from 0, which must be kept."""
        self._settle()
        asked = np.zeros(int(max(groups.max(initial=-1), self._groups.max(initial=-1))) + 1, bool)
        asked[groups] = True
        rows = asked[self._groups]
        some, numbers = _sorted(self._groups[rows], self._numbers[rows])
        found: NDArray[np.uint64] = numbers[np.searchsorted(some, groups) + places]
        return found

    def renumbered(self, groups: NDArray[np.int64]) -> Smallest:
        """The same with other group numbers: group ``groups[i]`` becomes ``i``, one not listed is left out."""
        self._settle()
        new = np.full(int(max(groups.max(initial=-1), self._groups.max(initial=-1))) + 1, -1, np.int64)
        new[groups] = np.arange(len(groups))
        moved = Smallest(self._most if isinstance(self._most, int) else self._most[groups])
        names = new[self._groups]
        moved._groups, moved._numbers = names[names >= 0], self._numbers[names >= 0]
        return moved


def _sorted(groups: NDArray[np.int64], numbers: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    order = np.lexsort((numbers, groups))
    return groups[order], numbers[order]
