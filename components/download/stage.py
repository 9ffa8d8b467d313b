"""Turn a source into raw faces: read its archive or folder once, and write the images as they are into shards.

Locations may be local paths or http(s) URLs; what is fetched is kept under scratch until the stage is done, so that a
killed stage goes on where it stopped.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceflow.components.common import images
from faceflow.components.common.dataset import finish, publishing
from faceflow.components.common.locations import Patience, describe, local_path
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.sources import HeldOut, Source, Synthetic, is_remote, parse
from faceflow.components.common.storage import require_free_space
from faceflow.components.download.attributes import Attributes
from faceflow.components.download.ingest import STAGE, Ingest, Limits
from faceflow.components.download.readers import open_reader, render
from faceflow.components.download.transfer import fetch

_log = logging.getLogger("faceflow.download")


@dataclass(frozen=True)
class Settings(StageSettings):
    """What an image may be, and how files are fetched."""

    seed: int = setting(0, "Seed of a synthetic source that has none of its own.", minimum=0)
    shard_mb: int = setting(64, "A shard is closed once it has this many megabytes.", minimum=1)
    max_pixels: int = setting(
        images.DEFAULT_MAX_PIXELS, "Most pixels of an image, checked before it is decoded.", minimum=1
    )
    max_image_mb: int = setting(100, "Most megabytes of an image file.", minimum=1)
    workers: int = setting(1, "Processes that render a synthetic source.", minimum=1, affects_output=False)
    timeout_seconds: float = setting(
        60.0, "Longest silence of a server, in seconds.", minimum=0.1, affects_output=False
    )
    retries: int = setting(
        5, "Further tries after a failed transfer, anew whenever bytes arrived.", minimum=0, affects_output=False
    )
    retry_wait_seconds: float = setting(
        1.0, "Pause before the first of them, in seconds; it doubles up to a minute.", minimum=0, affects_output=False
    )


@dataclass(frozen=True)
class Inputs:
    """What the stage reads.

    Attributes:
        source: The source spec.
        fingerprint: What probe said of it. It decides nothing here: as an input it makes a changed source a changed
            task, and it is noted in the log.
    """

    source: dict[str, Any]
    fingerprint: str = ""


@dataclass(frozen=True)
class Outputs:
    """What the stage writes.

    Attributes:
        raw_faces: The dataset.
        scratch: A folder that outlives a killed attempt; without one, a temporary folder that does not.
    """

    raw_faces: Path
    scratch: Path | None = None


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> Manifest:
    """Read a source into a dataset.

    Args:
        settings: What an image may be, and how files are fetched.
        inputs: The source.
        outputs: Where the dataset goes.

    Returns:
        The dataset's manifest.

    Raises:
        SourceError: The source is misdescribed, missing, unreachable, or has nothing usable.
        ArchiveError: An archive is damaged or hostile.
        DiskSpaceError: There is too little room.
    """
    source = parse(inputs.source)
    if inputs.fingerprint:
        _log.info("%s: fingerprint %s", source.name, inputs.fingerprint)
    with publishing(outputs.raw_faces) as directory, ExitStack() as cleanup:
        if isinstance(source, HeldOut):
            return _finish(directory, settings, source, None, 0, {}, [])
        scratch = outputs.scratch or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="faceflow-")))
        workplace = scratch / STAGE / f"{source.name}-{source.fingerprint[:16]}"
        workplace.mkdir(parents=True, exist_ok=True)
        real = source
        if isinstance(source, Synthetic):
            real = render(source, settings.seed, settings.workers, workplace)
        manifest = _ingest(settings, source, real, workplace, directory)
        shutil.rmtree(workplace)
    return manifest


def _ingest(settings: Settings, source: Source, real: Source, workplace: Path, directory: Path) -> Manifest:
    patience = Patience(settings.timeout_seconds, settings.retries, settings.retry_wait_seconds)
    found = describe(real, patience)
    paths = {}
    for label, location in real.locations.items():
        what = f"source '{source.name}': {label} {location}"
        paths[label] = fetch(location, workplace, what, patience) if is_remote(location) else local_path(location)
    needed = sum(facts.get("bytes") or facts.get("size") or 0 for facts in found.values())
    require_free_space(directory, needed, f"source '{source.name}': writing its images")
    reader = open_reader(real, paths.__getitem__)
    table = paths.get("attributes")
    attributes = Attributes(table, f"source '{source.name}': attributes {table.name}") if table else None
    limits = Limits(settings.shard_mb * 1_000_000, settings.max_pixels, settings.max_image_mb * 1_000_000)
    ingest = Ingest(real, limits, directory)
    attachments = ingest.run(reader, attributes)
    return _finish(
        directory, settings, source, real.aligned or None, ingest.images_in, dict(reader.digests), attachments
    )


def _finish(
    directory: Path,
    settings: Settings,
    source: Source,
    template: str | None,
    images_in: int,
    digests: dict[str, str],
    attachments: list[Path],
) -> Manifest:
    return finish(
        directory,
        stage=STAGE,
        settings=settings.for_manifest(),
        template=template,
        inputs={"source": source.spec_without_locations, "sha256": digests},
        images_in=images_in,
        attachments=attachments,
    )
