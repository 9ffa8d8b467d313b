"""The memory of a process and of all that it started, as Linux tells it.

The proportional set size (proc_pid_smaps(5)) divides a page by the number of processes that share it, so the sum over a
tree counts each page once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """The most memory seen so far, in bytes."""

    bytes: int = 0


@contextmanager
def watching(pid: int, every_seconds: float) -> Iterator[Peak]:
    """Keep the peak of the proportional set sizes, summed, of a process and of all below it."""
    peak = Peak()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_seconds):
            peak.bytes = max(peak.bytes, sum(map(_proportional_bytes, _tree(pid))))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _tree(root: int) -> list[int]:
    """A process and all that it started, and they."""
    found = [root]
    for pid in found:
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            try:
                found += map(int, task.read_text().split())
            except OSError:
                continue  # it ended meanwhile
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it ended meanwhile
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
