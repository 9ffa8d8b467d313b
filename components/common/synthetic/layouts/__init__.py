"""Sets of synthetic faces in the on-disk layouts of the real sets.

:func:`write` makes one; each layout's module says what its files hold and where the format is described.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.storage import publishing, require_free_space
from faceflow.components.common.synthetic.cast import image_range
from faceflow.components.common.synthetic.layouts import folder, insightface, lfw, megaface, trillion_pairs
from faceflow.components.common.synthetic.layouts.order import ATTRIBUTES, Order

__all__ = ["LAYOUTS", "LayoutFiles", "write"]

_BYTES_PER_PIXEL = 0.35
"""Of a noisy rendered JPEG, generously."""


@dataclass(frozen=True, slots=True)
class _Layout:
    write: Callable[[Path, Order], list[dict[str, Any]]]
    size_px: int
    images_per_identity_besides: int = 0


_LAYOUTS = {
    "trillion_pairs": _Layout(trillion_pairs.write, trillion_pairs.SIZE_PX),
    "lfw": _Layout(lfw.write, lfw.SIZE_PX),
    "megaface": _Layout(megaface.write, megaface.SIZE_PX, megaface.DISTRACTORS_PER_PROBE_IDENTITY),
    "insightface_rec": _Layout(insightface.write_rec, insightface.SIZE_PX),
    "insightface_bin": _Layout(insightface.write_bin, insightface.SIZE_PX),
    "folder": _Layout(folder.write, folder.SIZE_PX),
}
LAYOUTS = tuple(_LAYOUTS)
"""The names of the layouts."""


@dataclass(frozen=True, slots=True)
class LayoutFiles:
    """A set that was written.

    Attributes:
        layout: The layout's name.
        root: The folder that holds everything.
        attributes: ``attributes.csv`` with the header ``path,gender,age``: the path of each image within the set (a
            record's or image's number where images have no path).
        sources: The sources that read the set, in the pipeline's own terms: ``kind`` and the locations that this kind
            needs. MegaFace has two, FaceScrub and the distractors.
    """

    layout: str
    root: Path
    attributes: Path
    sources: tuple[dict[str, str], ...]


def write(
    layout: str,
    out: Path,
    *,
    identities: int,
    images_per_identity: int | Sequence[int],
    seed: int,
    size_px: int | None = None,
    workers: int = 1,
) -> LayoutFiles:
    """Render a set of faces into a layout.

    The bytes depend on everything but ``workers``. Different seeds give different people, whatever the layout; the same
    seed gives the same people in every layout.

    Args:
        layout: One of :data:`LAYOUTS`.
        out: The folder to write; it must not exist or be empty, and appears when everything is in it.
        identities: How many people.
        images_per_identity: How many pictures of each: a number, or the fewest and the most.
        seed: What everything is drawn from.
        size_px: Side of the rendered pictures; None takes that of the real set. InsightFace's layouts hold 112x112
            crops of them.
        workers: Processes that render.

    Raises:
        SettingsError: A value is out of range, the layout is unknown, or its pairs cannot be made of so few images.
        DatasetError: ``out`` holds something already.
        DiskSpaceError: The volume has too little room.
    """
    if layout not in _LAYOUTS:
        raise SettingsError(f"layout is {layout!r}, but must be one of {', '.join(LAYOUTS)}.")
    chosen = _LAYOUTS[layout]
    order = Order(identities, images_per_identity, seed, chosen.size_px if size_px is None else size_px, workers)
    most = identities * (image_range(images_per_identity)[1] + chosen.images_per_identity_besides)
    require_free_space(out, int(most * order.size_px**2 * _BYTES_PER_PIXEL), f"rendering {most:,} faces")
    with publishing(out) as folder_in_work:
        sources = chosen.write(folder_in_work, order)
    located = tuple(
        {field: value if field == "kind" else str(out / value) for field, value in source.items()} for source in sources
    )
    return LayoutFiles(layout, out, out / ATTRIBUTES, located)
