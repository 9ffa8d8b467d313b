"""The local paths among a run's parameters: made absolute, checked to exist, and counted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import SourceError

PARAMETERS = ("sources", "evaluate_sources")
LOCATIONS = ("archive", "landmarks", "list", "pairs", "path")


def from_paths(paths: Sequence[str]) -> list[dict[str, Any]]:
    """Sources for folders or archives of one's own, ``<identity>/<image>``; several are told apart by their names."""
    if len(paths) == 1:
        return [{"kind": "folder", "path": paths[0]}]
    made: list[dict[str, Any]] = []
    taken: set[str] = set()
    for path in paths:
        stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).absolute().name).strip("-.") or "folder"
        name = next(each for each in chain([stem], (f"{stem}-{n}" for n in count(2))) if each not in taken)
        taken.add(name)
        made.append({"kind": "folder", "name": name, "path": path})
    return made


def is_local(location: str) -> bool:
    """Whether a location is a path on this machine rather than a URL."""
    return "://" not in location


def resolved(arguments: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The parameters with every local location of every source absolute.

    Args:
        arguments: The pipeline's parameters.
        base: The folder that relative paths start from.

    Raises:
        SourceError: A source is not an object, or a local file or folder does not exist or cannot be read.
    """
    made = dict(arguments)
    for name in PARAMETERS:
        if name in made:
            made[name] = [_resolved(name, index, source, base) for index, source in enumerate(made[name])]
    return made


def _resolved(parameter: str, index: int, source: Any, base: Path) -> dict[str, Any]:
    if not isinstance(source, dict) or not isinstance(source.get("kind"), str):
        raise SourceError(
            f"{parameter}[{index}] is {source!r}, but a source is an object with a kind, for instance "
            "{kind: folder, path: /data/people}."
        )
    made = dict(source)
    for key in LOCATIONS:
        location = made.get(key)
        if not isinstance(location, str) or not is_local(location):
            continue
        if not location:
            raise SourceError(
                f"{parameter}[{index}].{key} is empty. Give the path or URL of the {source['kind']} source."
            )
        where = f"{parameter}[{index}].{key}"
        path = Path(os.path.abspath(base / Path(location).expanduser()))
        if not path.exists():
            raise SourceError(f"{where}: {path} does not exist. Check the path of the {source['kind']} source.")
        if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
            raise SourceError(f"{where}: {path} cannot be read by this user. Change its permissions.")
        made[key] = str(path)
    return made


def local_paths(arguments: Mapping[str, Any]) -> Iterator[Path]:
    """The files and folders of this machine that the sources name, each once."""
    seen = set()
    for name in PARAMETERS:
        for source in arguments.get(name, ()):
            for key in LOCATIONS:
                location = source.get(key)
                if isinstance(location, str) and is_local(location) and location not in seen:
                    seen.add(location)
                    yield Path(location)


def size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(path) for file in files)
