"""A limit on the bytes a second of all transfers together."""

from __future__ import annotations

import threading
import time

_BURST_SECONDS = 0.25


class Throttle:
    """Makes callers wait so that together they stay below a rate.

    Args:
        bytes_per_second: The rate; 0 for none.
    """

    def __init__(self, bytes_per_second: float = 0.0) -> None:
        """Begin with nothing owed."""
        self._rate = bytes_per_second
        self._free_at = 0.0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until so many more bytes are allowed."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - _BURST_SECONDS) + count / self._rate
            pause = self._free_at - now
        if pause > 0:
            time.sleep(pause)
