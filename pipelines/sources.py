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
from faceflow.components.common.parts import parts_of

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
            places = {}
            for label in source.locations:
                what = f"{parameter}: source '{source.name}': {label}"
                places[label] = [_absolute_parts(parts, base) for parts in source.places(label)]
                refusals = [_first_refusal(parts) for parts in places[label]]
                if refusals[0] and all(refusals):  # a mirror may stand in for what is missing
                    raise SourceError(f"{what} {refusals[0]}")
            absolute = {label: _as_given(there[0]) for label, there in places.items()}
            mirrors = {label: [_as_given(parts) for parts in places[label][1:]] for label in source.mirrors}
            checked.append(spec | absolute | ({"mirrors": mirrors} if mirrors else {}))
        made[parameter] = checked
    return made


def _absolute_parts(parts: Sequence[str], base: Path) -> list[str]:
    return [part if sources.is_remote(part) else os.path.abspath(base / local_path(part)) for part in parts]


def _as_given(parts: list[str]) -> str | list[str]:
    """One location as a text, several as a list, as a source spec has them."""
    return parts if len(parts) > 1 else parts[0]


def _first_refusal(parts: Sequence[str]) -> str:
    """Why one of the parts cannot be used, as far as this machine can tell; nothing if all can."""
    for place in parts:
        if sources.is_remote(place):
            continue
        if not os.path.exists(place):
            return f"{place} does not exist. Check the path."
        if not os.access(place, os.R_OK | (os.X_OK if os.path.isdir(place) else 0)):
            return f"{place} cannot be read by this user. Change its permissions."
    return ""


def local_paths(arguments: Mapping[str, Any]) -> Iterator[Path]:
    """The files and folders of this machine that the sources name, each once; of resolved parameters."""
    made = [sources.parse(spec) for parameter in PARAMETERS for spec in arguments.get(parameter, ())]
    named = [part for source in made for label in source.locations for parts in source.places(label) for part in parts]
    for place in dict.fromkeys(named):
        if not sources.is_remote(place):
            yield from map(Path, parts_of(place, os.path.exists) if os.path.exists(place) else ())


def size(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(os.path.join(folder, file)).st_size for folder, _, files in os.walk(path) for file in files)
