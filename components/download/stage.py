"""Turn a source into raw faces: read its archive or folder once, and write the images as they are into shards.

Locations may be local paths or addresses of servers and object stores; what is fetched is kept under scratch until the
stage is done, so that a killed stage goes on where it stopped.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from faceflow.components.common import images
from faceflow.components.common.dataset import finish, publishing
from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.locations import Patience
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.sources import HeldOut, Source, Synthetic, parse
from faceflow.components.common.storage import require_free_space
from faceflow.components.download.acquisition import acquire, forget, workplace
from faceflow.components.download.attributes import Attributes
from faceflow.components.download.exclusions import Exclusions
from faceflow.components.download.ingest import STAGE, Ingest, Limits
from faceflow.components.download.licences import notices
from faceflow.components.download.members import MAX_EXPANSION
from faceflow.components.download.readers import name_of, open_reader, render
from faceflow.components.download.throttle import Throttle
from faceflow.components.download.transfer import Manner

Table = TypeVar("Table")
_TABLES = {"attributes", "exclude"}
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
    max_expansion: int = setting(
        MAX_EXPANSION,
        "How many times its size an archive may unpack to, once that is more than 64 MiB; more is taken for a bomb.",
        minimum=1,
        affects_output=False,
    )
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
    connections: int = setting(1, "Ranges of a file to fetch at once.", minimum=1, maximum=64, affects_output=False)
    max_mb_per_second: float = setting(
        0.0, "Most megabytes a second of all transfers together; 0 for no limit.", minimum=0, affects_output=False
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
            inputs_of_none = {"source": source.spec_without_locations, "sha256": {}}
            return _finish(directory, settings, inputs_of_none, None, 0, [], [])
        scratch = outputs.scratch or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="faceflow-")))
        folder = cleanup.enter_context(workplace(scratch / STAGE, f"{source.name}-{source.fingerprint[:16]}"))
        real = source
        if isinstance(source, Synthetic):
            real = render(source, settings.seed, settings.workers, folder)
        try:
            return _ingest(settings, source, real, folder, directory)
        except ArchiveError:
            forget(real, folder)
            raise


def _ingest(settings: Settings, source: Source, real: Source, folder: Path, directory: Path) -> Manifest:
    manner = Manner(
        Patience(settings.timeout_seconds, settings.retries, settings.retry_wait_seconds),
        settings.connections,
        Throttle(settings.max_mb_per_second * 1e6),
    )
    paths, needed = acquire(real, folder, manner)
    require_free_space(directory, needed, f"source '{source.name}': writing its images")
    names = [name_of(path) for label, path in paths.items() if label not in _TABLES]
    told = notices(source, names)
    for notice in told:
        _log.warning("terms of use: %s", notice)
    reader = open_reader(real, paths.__getitem__, folder, settings.max_expansion)
    attributes = _table(paths, "attributes", source, Attributes)
    exclusions = _table(paths, "exclude", source, lambda path, what: Exclusions(path, real.name, real.namespace, what))
    limits = Limits(settings.shard_mb * 1_000_000, settings.max_pixels, settings.max_image_mb * 1_000_000)
    ingest = Ingest(real, limits, directory, attributes, exclusions)
    attachments = ingest.run(reader)
    digests = dict(reader.digests)
    for label in _TABLES & paths.keys():
        digests[label] = file_sha256(_single(paths[label], label, source))
    inputs = {"source": source.spec_without_locations, "sha256": digests, "unmatched": ingest.unmatched}
    return _finish(directory, settings, inputs, real.aligned or None, ingest.images_in, attachments, told)


def _table(
    paths: Mapping[str, Path | list[Path]], label: str, source: Source, read: Callable[[Path, str], Table]
) -> Table | None:
    """Read a table that the source may have beside its images."""
    if label not in paths:
        return None
    path = _single(paths[label], label, source)
    return read(path, f"source '{source.name}': {label} {path.name}")


def _single(found: Path | list[Path], label: str, source: Source) -> Path:
    if isinstance(found, list):
        raise SourceError(f"source '{source.name}': {label} is in {len(found)} parts: join them, and give the file.")
    return found


def _finish(
    directory: Path,
    settings: Settings,
    inputs: Mapping[str, Any],
    template: str | None,
    images_in: int,
    attachments: list[Path],
    licences: list[str],
) -> Manifest:
    return finish(
        directory,
        stage=STAGE,
        settings=settings.for_manifest(),
        template=template,
        inputs=inputs,
        images_in=images_in,
        attachments=attachments,
        licences=licences,
    )
