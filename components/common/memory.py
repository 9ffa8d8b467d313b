"""How much memory there is to use."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
# The limit of a container: of version 2 and of version 1 of control groups (docs.kernel.org, admin-guide).
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def available(meminfo: Path = _MEMINFO, limits: tuple[Path, ...] = _LIMITS) -> int:
    """Bytes that can be used without swapping, files that the system caches among them.

    Args:
        meminfo: What Linux says of its memory; without it all that the machine has counts as available.
        limits: Files with the limit of this process' container, if it has one.
    """
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo.read_text(), re.MULTILINE) if meminfo.exists() else None
    free = int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    told = [limit.read_text().strip() for limit in limits if limit.exists()]
    return min([free, *(int(limit) for limit in told if limit.isdigit())])
