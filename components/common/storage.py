"""Writing that survives being killed: check for room first, write aside, rename when complete."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faceflow.components.common.errors import DatasetError, DiskSpaceError

_RESERVE = 256 << 20


def readable_bytes(count: float) -> str:
    """A number of bytes for people: ``1.4 GB``."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def require_free_space(path: Path, needed: int, what: str) -> None:
    """Refuse to begin work that the volume has no room for.

    Args:
        path: Where the work will be written; it need not exist yet.
        needed: Bytes that the work will take; 256 MiB more must be free.
        what: The work, for the message.

    Raises:
        DiskSpaceError: Too little is free.
    """
    place = path.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed + _RESERVE:
        raise DiskSpaceError(
            f"{what} needs about {readable_bytes(needed + _RESERVE)} at {place}, but only {readable_bytes(free)} are "
            "free. Free some space (`faceflow clean` removes old runs) or choose another volume."
        )


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write a file under a temporary name and rename it, so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def publishing(path: Path) -> Iterator[Path]:
    """Fill a directory that appears under its name only when it is complete.

    The block writes into a sibling directory, which is renamed when the block ends well and removed when it does not.
    What an earlier, killed attempt left in the sibling is removed first.

    Args:
        path: The directory to publish; it must not exist, or be empty.

    Yields:
        The directory to write into.

    Raises:
        DatasetError: Something stands at ``path`` already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DatasetError(f"{path} exists already: remove it or choose another output directory.")
    aside = path.with_name(f".{path.name}.partial")
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            path.rmdir()
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
