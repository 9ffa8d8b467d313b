"""Bringing the files of a source to this machine: what is on a server is fetched, checksums are compared."""

from __future__ import annotations

import fcntl
import logging
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from faceflow.components.common.errors import SourceError
from faceflow.components.common.hashing import fingerprint
from faceflow.components.common.locations import Located, below, is_hidden, local_path, locate
from faceflow.components.common.logs import progress
from faceflow.components.common.parts import same_part
from faceflow.components.common.sources import Source, is_remote
from faceflow.components.common.storage import readable_bytes, require_free_space
from faceflow.components.download import checksums
from faceflow.components.download.transfer import Manner, fetch

_log = logging.getLogger("faceflow.download")
_SAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_OBJECTS_AT_ONCE = 8  # small objects: the time goes into asking
_LARGE_OBJECT = 64 << 20


@contextmanager
def workplace(scratch: Path, name: str) -> Iterator[Path]:
    """A folder for the files of a source that only one process at a time uses; it is removed when the block ends well.

    Args:
        scratch: Where it is made.
        name: Its name: the same for the same source.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    with open(scratch / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that reads the same source")
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = scratch / name
        folder.mkdir(exist_ok=True)
        yield folder
        shutil.rmtree(folder)


def acquire(source: Source, folder: Path, manner: Manner) -> tuple[dict[str, Path | list[Path]], int]:
    """Bring the files of a source to this machine.

    Args:
        source: The source.
        folder: Where what is fetched is kept, so that a later attempt goes on from there.
        manner: How files are fetched.

    Returns:
        For each location field its path, or the paths of an archive's parts; and the bytes of all files together, as
        far as they are told.

    Raises:
        SourceError: Something is missing, cannot be read or cannot be had.
        ChecksumError: A file has not the checksum that the source says.
        DiskSpaceError: Something does not fit.
    """
    found = {label: locate(source, label, manner.patience) for label in source.locations}
    _require_room(source, found, folder)
    paths: dict[str, Path | list[Path]] = {}
    for label, located in found.items():
        parts = _acquired(source, label, located, folder, manner)
        paths[label] = parts if len(parts) > 1 else parts[0]
    size = sum(each.facts.get("bytes") or each.facts.get("size") or 0 for each in found.values())
    return paths, size


def forget(source: Source, folder: Path) -> None:
    """Remove fetched files that turned out damaged, so that the next attempt fetches them again.

    Those that have the checksum that the source says are what the publisher gives, and are kept.
    """
    for label in source.locations:
        if label not in source.checksums:
            shutil.rmtree(folder / label, ignore_errors=True)


def _require_room(source: Source, found: Mapping[str, Located], folder: Path) -> None:
    """Refuse before anything is fetched what would not fit in the end."""
    needed = sum(
        each.facts.get("bytes") or each.facts.get("size") or 0 for each in found.values() if is_remote(each.parts[0])
    )
    have = sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
    if needed > have:
        require_free_space(folder, needed - have, f"source '{source.name}': fetching its files")


def _acquired(source: Source, label: str, found: Located, folder: Path, manner: Manner) -> list[Path]:
    what = f"source '{source.name}': {label}"
    given = source.checksums.get(label, "")
    each_own = given if isinstance(given, list) else [given if len(found.parts) == 1 else ""] * len(found.parts)
    if len(each_own) != len(found.parts):
        raise SourceError(
            f"{what} has {len(found.parts)} parts, but checksums.{label} has {len(each_own)}: give as many."
        )
    remote = [is_remote(part) for part in found.parts]
    if found.folder and remote[0]:
        return [_fetched_folder(found.parts[0], folder / label, what, manner)]
    paths = []
    for index, part in enumerate(found.parts):
        if not remote[index]:
            paths.append(local_path(part))
            if each_own[index]:
                checksums.check([paths[-1]], each_own[index], f"{what} {part}")
            continue
        target = folder / label / f"{index:03d}" / _file_name(part)
        places = _places_of_part(source.places(label), found, index)
        paths.append(_fetched(places, target, what, manner, each_own[index]))
    if isinstance(given, str) and given and len(paths) > 1:
        checksums.check(paths, given, f"{what} {found.parts[0]} and the parts after it")
    return paths


def _fetched(places: Sequence[str], target: Path, what: str, manner: Manner, checksum: str) -> Path:
    """Fetch a file from one of its places; one on this machine's disk stands in when the servers fail."""
    try:
        fetch([place for place in places if is_remote(place)], target, what, manner, checksum)
    except SourceError as error:
        spare = next((place for place in places if not is_remote(place) and local_path(place).is_file()), None)
        if spare is None:
            raise
        _log.warning("%s Taking %s.", error, spare)
        if checksum:
            checksums.check([local_path(spare)], checksum, f"{what} {spare}")
        return local_path(spare)
    _log.info("%s %s: %s fetched", what, places[0], readable_bytes(target.stat().st_size))
    return target


def _places_of_part(places: Sequence[list[str]], found: Located, index: int) -> list[str]:
    """Where a part is: at the place that answered, then at the others in order."""
    part = found.parts[index]
    others = [
        other[index] if len(other) == len(found.parts) else same_part(found.parts[0], other[0], part)
        for place, other in enumerate(places)
        if place != found.place
    ]
    return [part, *others]


def _file_name(location: str) -> str:
    return _SAFE.sub("_", unquote(urlsplit(location).path.rpartition("/")[2])) or "file"


def _fetched_folder(location: str, folder: Path, what: str, manner: Manner) -> Path:
    """Fetch every object below a prefix into a folder of the same shape."""
    entries = [each for each in below(location, what, manner.patience) if not is_hidden(each.path)]
    state = fingerprint([location, *([each.path, each.size, each.etag] for each in entries)])[:16]
    for other in folder.glob("*"):
        if other.name not in (state, f"{state}.partial"):
            shutil.rmtree(other)
    root, aside = folder / state, folder / f"{state}.partial"

    def one(index: int) -> None:
        entry = entries[index]
        if "" in entry.path.split("/"):
            raise SourceError(f"{what} {location}: the object {entry.path!r} leads outside the folder: rename it.")
        target = root / entry.path
        if not target.exists():
            kept = aside / f"{index:09d}"
            own = manner if entry.size >= _LARGE_OBJECT else replace(manner, connections=1, shown=False)
            fetch([f"{location.rstrip('/')}/{entry.path}"], kept / "object", what, own)
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                (kept / "object").replace(target)
            except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
                raise SourceError(
                    f"{what} {location}: {entry.path} is an object, and the folder of others: rename one of them."
                ) from error
            shutil.rmtree(kept)

    root.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(max(manner.connections, _OBJECTS_AT_ONCE)) as pool:
        done = pool.map(one, range(len(entries)))
        try:
            for _ in progress(done, total=len(entries), what="objects", label=f"fetching {location}"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    shutil.rmtree(aside, ignore_errors=True)
    _log.info("%s %s: %s fetched", what, location, readable_bytes(sum(each.size for each in entries)))
    return root
