"""A folder of one's own: ``faces/<identity>/<image>.jpg``, with the names that people really give their folders.

Of every four identities one has a plain name, one a name with a space, one a name with letters beyond ASCII, and one a
name with both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceflow.components.common.synthetic.cast import Sitter
from faceflow.components.common.synthetic.layouts.order import AttributeTable, Order
from faceflow.components.common.synthetic.names import full_names
from faceflow.components.common.synthetic.studio import Job

SIZE_PX = 250


def write(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write the tree ``faces`` and the attributes into a folder; returns the source's fields."""
    cast = order.cast()
    people = sorted(zip(_folder_names(cast), cast, strict=True))
    with AttributeTable(out) as attributes:
        for picture in order.pictures(_jobs(people), sum(sitter.images for sitter in cast)):
            file = out / "faces" / picture.job.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture.jpeg)
            attributes.add(picture.job.path, picture.gender, picture.age)
    return [{"kind": "folder", "path": "faces"}]


def _folder_names(cast: Sequence[Sitter]) -> list[str]:
    """Different names, of four kinds in turn."""
    names = full_names(cast, accented=lambda index: index % 4 >= 2)
    return [name.replace("_", " ") if index % 2 else name for index, name in enumerate(names)]


def _jobs(people: Sequence[tuple[str, Sitter]]) -> Iterator[Job]:
    for name, sitter in people:
        for index in range(sitter.images):
            yield Job(sitter.seed, index, f"{name}/{'photo ' if ' ' in name else ''}{index + 1:03d}.jpg")
