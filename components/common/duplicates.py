"""Equal numbers among any amount of 64-bit hashes, in bounded memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import IO

import numpy as np
from numpy.typing import NDArray

IN_MEMORY = 1 << 21
"""Hashes that are looked at together: 16 MiB."""


class Duplicates:
    """Finds hashes that were given twice. Up to ``in_memory`` of them are kept; more go to disk, by their high bits.

    Args:
        expected: About how many hashes will come.
        in_memory: How many may be in memory.
    """

    def __init__(self, expected: int, in_memory: int = IN_MEMORY) -> None:
        """Open the files, if there will be any."""
        self._bits = max(0, (max(1, expected) // max(1, in_memory)).bit_length())
        self._held: list[NDArray[np.uint64]] = []
        self._files: list[IO[bytes]] = []
        if self._bits:
            self._files = [tempfile.TemporaryFile() for _ in range(1 << self._bits)]  # noqa: SIM115 - see __exit__

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take in hashes."""
        if not self._bits:
            self._held.append(hashes)
            return
        ordered = np.sort(hashes)
        cuts = np.searchsorted(ordered >> np.uint64(64 - self._bits), np.arange(len(self._files) + 1, dtype=np.uint64))
        for file, begin, end in zip(self._files, cuts, cuts[1:], strict=False):
            file.write(ordered[begin:end].tobytes())

    def found(self) -> set[int]:
        """The hashes that were given more than once."""
        return {int(number) for hashes in self._groups() for number in _repeated(hashes)}

    def _groups(self) -> Iterator[NDArray[np.uint64]]:
        if not self._bits:
            yield _joined(self._held)
        for file in self._files:
            file.seek(0)
            yield np.frombuffer(file.read(), np.uint64)

    def __enter__(self) -> Duplicates:
        """Return itself."""
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        """Close the files, which removes them."""
        for file in self._files:
            file.close()


def _joined(parts: Iterable[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    return np.concatenate([np.empty(0, np.uint64), *parts])


def _repeated(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    ordered = np.sort(hashes)
    repeated: NDArray[np.uint64] = ordered[1:][ordered[1:] == ordered[:-1]]
    return repeated
