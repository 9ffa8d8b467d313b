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
from faceflow.components.download.landmarks import Landmarks
from faceflow.components.download.lfw import LfwReader
from faceflow.components.download.licences import MD5S
from faceflow.components.download.megaface import ListedImages
from faceflow.components.download.members import MAX_EXPANSION, Members
from faceflow.components.download.trillion_pairs import TrillionPairsReader
from faceflow.components.download.verification import CfpReader, FlatReader

_log = logging.getLogger("faceflow.download")

Located = Path | list[Path]
"""A file or folder, or the parts that a file was cut into, in order."""

Locate = Callable[[str], Located]
"""Gives the local path of a location field of the source."""


def open_reader(source: Source, locate: Locate, scratch: Path, max_expansion: int = MAX_EXPANSION) -> Reader:
    """Open a source of one of the real layouts.

    Args:
        source: The source.
        locate: Where each of its location fields is on this machine.
        scratch: A folder for temporary files.
        max_expansion: How many times its size an archive may unpack to.

    Raises:
        SourceError: A file of the source is malformed.
        ArchiveError: A file of the source is damaged or hostile.
    """

    def what(label: str) -> str:
        return f"source '{source.name}': {label} {name_of(locate(label))}"

    def members(label: str) -> Members:
        return Members(locate(label), what(label), max_expansion, published(label))

    def published(label: str) -> str:
        # A checksum that the source gives was compared already.
        return "" if label in source.checksums else MD5S.get(name_of(locate(label)), "")

    def whole(label: str) -> Path:
        found = locate(label)
        if isinstance(found, list):
            raise SourceError(f"{what(label)} is in {len(found)} parts: join them, and give the file.")
        return found

    match source:
        case TrillionPairs():
            landmarks = Landmarks(
                locate("landmarks"), what("landmarks"), scratch, max_expansion, published("landmarks")
            )
            return TrillionPairsReader(members("archive"), landmarks, what("landmarks"))
        case Lfw(layout="lfw"):
            return LfwReader(members("archive"), whole("pairs"), what("pairs"))
        case Lfw(layout="cfp_fp"):
            return CfpReader(members("archive"), members("pairs") if source.pairs else None, what("archive"))
        case Lfw():
            return FlatReader(members("archive"), whole("pairs"), what("pairs"))
        case Folder():
            return IdentityFolders(members("path"), source.strip)
        case InsightFace():
            path = whole("path")
            return RecordReader(path, source.name) if path.is_dir() else BinReader(path, source.name)
        case MegaFace() | FaceScrub():
            return ListedImages(members("path"), whole("list"), what("list"))
    raise SourceError(f"source '{source.name}' of kind '{source.kind}' has nothing to read.")


def name_of(located: Located) -> str:
    """What to call a file, or the parts of one."""
    return located.name if isinstance(located, Path) else f"{located[0].name} and the parts after it"


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
    return replace(
        made,
        name=source.name,
        namespace=source.namespace,
        aligned=source.aligned or made.aligned,
        exclude=source.exclude,
        licence=source.licence,
    )
