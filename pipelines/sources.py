"""The sources of a local run: checked, their local paths made absolute, and counted."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from faceflow.components.common import sources
from faceflow.components.common.errors import SourceError
from faceflow.components.common.locations import local_path

PARAMETERS = ("sources", "evaluate_sources")


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


def resolved(arguments: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """The parameters with every local location of every source absolute.

    Args:
        arguments: The pipeline's parameters.
        base: The folder that relative paths start from.

    Raises:
        SourceError: A source is misdescribed, or a local file or folder does not exist or cannot be read.
    """
    made = dict(arguments)
    for parameter in PARAMETERS:
        if parameter not in made:
            continue
        checked = []
        for source, spec in zip(sources.parse_all(made[parameter]), made[parameter], strict=True):
            places = {
                label: str(_absolute(location, base, f"{parameter}: source '{source.name}': {label}"))
                for label, location in source.locations.items()
                if not sources.is_remote(location)
            }
            checked.append(spec | places)
        made[parameter] = checked
    return made


def _absolute(location: str, base: Path, what: str) -> Path:
    path = Path(os.path.abspath(base / local_path(location)))
    if not path.exists():
        raise SourceError(f"{what} {path} does not exist. Check the path.")
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        raise SourceError(f"{what} {path} cannot be read by this user. Change its permissions.")
    return path


def local_paths(arguments: Mapping[str, Any]) -> Iterator[Path]:
    """The files and folders of this machine that the sources name, each once; of resolved parameters."""
    specs = [spec for parameter in PARAMETERS for spec in arguments.get(parameter, ())]
    places = [place for spec in specs for place in sources.parse(spec).locations.values()]
    yield from (Path(place) for place in dict.fromkeys(places) if not sources.is_remote(place))


def size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(path) for file in files)
