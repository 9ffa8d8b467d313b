"""The reader of each kind of source."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import (
    FaceScrub,
    Folder,
    InsightFace,
    Lfw,
    MegaFace,
    Source,
    Synthetic,
    TrillionPairs,
    parse,
)
from faceflow.components.download.folder import IdentityFolders
from faceflow.components.download.insightface import BinReader, RecordReader
from faceflow.components.download.items import Reader
from faceflow.components.download.lfw import LfwReader
from faceflow.components.download.megaface import ListedImages
from faceflow.components.download.members import Members
from faceflow.components.download.trillion_pairs import TrillionPairsReader

_log = logging.getLogger("faceflow.download")

Locate = Callable[[str], Path]
"""Gives the local path of a location field of the source."""


def open_reader(source: Source, locate: Locate) -> Reader:
    """Open a source of one of the real layouts.

    Args:
        source: The source.
        locate: Where each of its location fields is on this machine.

    Raises:
        SourceError: A file of the source is malformed.
        ArchiveError: A file of the source is damaged or hostile.
    """
    match source:
        case TrillionPairs():
            return TrillionPairsReader(locate("archive"), locate("landmarks"), source.name)
        case Lfw():
            return LfwReader(locate("archive"), locate("pairs"), source.name)
        case Folder():
            path = locate("path")
            return IdentityFolders(Members(path, f"source '{source.name}': path {path.name}"), source.strip)
        case InsightFace():
            path = locate("path")
            return RecordReader(path, source.name) if path.is_dir() else BinReader(path, source.name)
        case MegaFace() | FaceScrub():
            return ListedImages(locate("path"), locate("list"), source.name)
    raise SourceError(f"source '{source.name}' of kind '{source.kind}' has nothing to read.")


def render(source: Synthetic, seed: int, workers: int, scratch: Path) -> Source:
    """Render a synthetic source into its real layout.

    Args:
        source: The source.
        seed: What it is drawn from where the source has no seed of its own.
        workers: Processes that render.
        scratch: Where the set is written.

    Returns:
        The source of the real kind that reads it, under the synthetic one's name.

    Raises:
        SettingsError: Its numbers do not fit the layout.
        DiskSpaceError: It does not fit.
    """
    from faceflow.components.common.synthetic import layouts

    out = scratch / "rendered"
    shutil.rmtree(out, ignore_errors=True)
    few, many = source.images_range
    written = layouts.write(
        "megaface" if source.layout == "facescrub" else source.layout,
        out,
        identities=source.identities,
        images_per_identity=few if few == many else (few, many),
        seed=seed if source.seed is None else source.seed,
        size_px=source.size_px,
        workers=workers,
    )
    wanted = source.layout if source.layout in ("megaface", "facescrub") else written.sources[0]["kind"]
    located = next(each for each in written.sources if each["kind"] == wanted)
    made = parse({**located, "attributes": str(written.attributes)})
    return replace(made, name=source.name, namespace=source.namespace, aligned=source.aligned or made.aligned)
