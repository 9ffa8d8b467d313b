"""Find the face in every raw image, and carry it onto one template by its five landmarks.

Landmarks come from the source or from MTCNN. The transform is the best similarity without reflection, the same for
training and evaluation sets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faceflow.components.align.report import write_report
from faceflow.components.align.samples import Samples
from faceflow.components.align.shard import SAMPLES_ENDING, STAGE, Job, align_shard
from faceflow.components.common import images
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space

_log = logging.getLogger("faceflow.align")


@dataclass(frozen=True)
class Settings(StageSettings):
    """Where landmarks come from, the template, and what is dropped."""

    landmarks: str = setting(
        "auto",
        "Where landmarks come from: the source (given), detection (mtcnn), or the source where it has them (auto).",
        choices=("auto", "given", "mtcnn"),
    )
    template: str = setting("arcface_112", "Template that the faces are carried onto.", choices=tuple(TEMPLATES))
    several_faces: str = setting(
        "choose",
        "Where several faces are found: choose the most central of the large ones, or drop the image.",
        choices=("choose", "drop"),
    )
    min_score: float = setting(0.9, "Lowest detector score of a face.", minimum=0, maximum=1)
    min_face_px: int = setting(20, "Fewest pixels of the original across the aligned face.", minimum=1)
    detect_side_px: int = setting(
        1024, "Longest side at which an image is searched for faces; larger images are shrunk for that.", minimum=112
    )
    max_pixels: int = setting(
        images.DEFAULT_MAX_PIXELS, "Most pixels of an image, checked before it is decoded.", minimum=1
    )
    jpeg_quality: int = setting(95, "JPEG quality of the aligned faces.", minimum=1, maximum=100)
    workers: int = setting(1, "Processes.", minimum=1, affects_output=False)
    runner: str = setting("FnApiRunner", "Beam runner.", affects_output=False)
    runner_options: list[str] = setting([], "Further Beam pipeline options.", affects_output=False)


@dataclass(frozen=True)
class Inputs:
    """What the stage reads."""

    raw_faces: Path


@dataclass(frozen=True)
class Outputs:
    """What the stage writes: the dataset and the report, an HTML page."""

    faces: Path
    report: Path


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> Manifest:
    """Align a dataset of raw faces.

    Args:
        settings: Where landmarks come from, the template, and what is dropped.
        inputs: The raw faces.
        outputs: Where the faces and the report go.

    Returns:
        The manifest of the aligned dataset.

    Raises:
        DatasetError: The input is damaged or aligned to another template, or no face is left.
        DiskSpaceError: There is too little room.
    """
    raw = Dataset(inputs.raw_faces)
    template = TEMPLATES[settings.template]
    if raw.manifest.template not in (None, template.name):
        raise DatasetError(
            f"the raw faces are aligned to {raw.manifest.template} already, but the template is {template.name}: "
            f'set it to {raw.manifest.template}, or give the source "aligned": "" to have its faces detected.'
        )
    require_free_space(outputs.faces, sum(shard.bytes for shard in raw.manifest.shards), "writing the aligned faces")
    source = str(raw.manifest.inputs.get("source", {}).get("name", "raw faces"))
    with publishing(outputs.faces) as directory:
        job = Job(
            directory=directory,
            template=template.name,
            landmarks=settings.landmarks,
            aligned_already=raw.manifest.template is not None,
            several_faces=settings.several_faces,
            min_score=settings.min_score,
            min_face_px=settings.min_face_px,
            detect_side_px=settings.detect_side_px,
            max_pixels=settings.max_pixels,
            jpeg_quality=settings.jpeg_quality,
        )
        engine = Engine(settings.runner, settings.workers, tuple(settings.runner_options))
        engine.map(partial(align_shard, job), [(i, str(path)) for i, path in enumerate(raw.shards)], "align")
        samples = Samples(template)
        samples.merge(sorted(directory.glob(f"part-*{SAMPLES_ENDING}")))
        manifest = finish(
            directory,
            stage=STAGE,
            settings=settings.for_manifest(),
            template=template.name,
            inputs={"raw_faces": raw.fingerprint, "source": raw.manifest.inputs.get("source", {})},
            images_in=raw.manifest.images,
            attachments=raw.attachments,
            licences=raw.manifest.licences,
        )
        write_report(manifest, samples, template, source=source, path=outputs.report)
        _tell(manifest, source)
        _check(manifest, source, outputs.report)
    return manifest


def _tell(manifest: Manifest, source: str) -> None:
    drops = "".join(f", {count:,} {reason}" for reason, count in manifest.drops.items())
    _log.info(f"{source}: {manifest.images:,} of {manifest.images_in:,} images aligned{drops}")


def _check(manifest: Manifest, source: str, report: Path) -> None:
    if manifest.images_in and not manifest.images:
        drops = ", ".join(f"{count:,} {reason}" for reason, count in manifest.drops.items())
        raise DatasetError(
            f"none of the {manifest.images_in:,} images of '{source}' could be aligned: {drops}. {report} shows "
            "examples; check the source, 'landmarks', 'min_score' and 'min_face_px'."
        )
