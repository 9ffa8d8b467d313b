"""Find the face in every raw image, and carry it onto one template.

Landmarks come from the source, from MTCNN or from dlib. The template says what they fix: the best similarity without
reflection, for most. It is the same for training and evaluation sets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from faceflow.components.align import dlib_faces
from faceflow.components.align.faces import RULES
from faceflow.components.align.landmarks import MIRRORED
from faceflow.components.align.report import write_report
from faceflow.components.align.samples import Samples, score_edges
from faceflow.components.align.shard import SAMPLES_ENDING, STAGE, Job, align_shard
from faceflow.components.common import images
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import check_settings, runner_options_setting, runner_setting, work_uri_setting
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.ledger import LEDGER_NAME, Reason
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space
from faceflow.components.common.workplace import Workplace

_log = logging.getLogger("faceflow.align")
_MIRRORED_SHARE = 0.01


@dataclass(frozen=True)
class Settings(StageSettings):
    """Where landmarks come from, the template, and what is dropped."""

    landmarks: str = setting(
        "auto",
        "Where landmarks come from: the source (given), detection (mtcnn or dlib), or the source where it has them and "
        "else mtcnn (auto). Where the source gives only a box and 'face' is overlap, given takes the face that mtcnn "
        "finds there.",
        choices=("auto", "given", "mtcnn", "dlib"),
    )
    template: str = setting("arcface_112", "Template that the faces are carried onto.", choices=tuple(TEMPLATES))
    several_faces: str = setting(
        "choose",
        "Where several faces are found: choose one of them by 'face', or drop the image.",
        choices=("choose", "drop"),
    )
    face: str = setting(
        "central",
        "Which of several faces is chosen: the most central of those at least half as large as the largest, the "
        "largest, or the one that overlaps most with the source's box, or where it has none with its landmarks "
        "(central where it has neither).",
        choices=RULES,
    )
    min_score: float = setting(0.9, "Lowest score of a face that mtcnn finds.", minimum=0, maximum=1)
    dlib_min_score: float = setting(
        0.0, "Lowest score of a face that dlib finds: its distance from the margin, rarely above 3.", minimum=-0.5
    )
    min_face_px: int = setting(20, "Fewest pixels of the original across the aligned face.", minimum=1)
    detect_side_px: int = setting(
        1024, "Longest side at which mtcnn searches an image; larger images are shrunk for that.", minimum=112
    )
    smallest_face_percent: float = setting(
        10.0,
        "Smallest face that mtcnn searches for, in percent of the image's shorter side; 0 searches for all from 20 "
        "pixels on, at half the speed.",
        minimum=0,
        maximum=100,
    )
    dlib_search_px: int = setting(
        480,
        "Shorter side at which dlib searches an image; it finds faces from 80 pixels on at that size. Images are "
        "enlarged 4 times at most.",
        minimum=80,
        maximum=4096,
    )
    max_pixels: int = setting(
        images.DEFAULT_MAX_PIXELS, "Most pixels of an image, checked before it is decoded.", minimum=1
    )
    jpeg_quality: int = setting(95, "JPEG quality of the aligned faces.", minimum=1, maximum=100)
    workers: int = setting(1, "Processes.", minimum=1, affects_output=False)
    threads: int = setting(2, "Threads of each process.", minimum=1, affects_output=False)
    runner: str = runner_setting()
    runner_options: list[str] = runner_options_setting()
    work_uri: str = work_uri_setting()

    def __post_init__(self) -> None:
        """Check how the fields go together, too.

        Raises:
            SettingsError: A field is not allowed.
        """
        super().__post_init__()
        check_settings(self)
        framing = TEMPLATES[self.template].framing
        if framing in ("dlib_chip", "three_points") and self.landmarks != "dlib":
            raise SettingsError(
                f"setting 'template' is {self.template!r}, which needs dlib's own landmarks, but 'landmarks' is "
                f"{self.landmarks!r}: set it to 'dlib', or take another template."
            )
        if framing == "box" and self.landmarks not in ("mtcnn", "auto"):
            raise SettingsError(
                f"setting 'template' is {self.template!r}, which is cut along the box that mtcnn finds, but "
                f"'landmarks' is {self.landmarks!r}: set it to 'mtcnn', or take another template."
            )

    def check_installed(self) -> None:
        """Refuse settings that need what is not installed.

        Raises:
            SettingsError: Says what to install.
        """
        if self.landmarks == "dlib":
            dlib_faces.require()


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
        SettingsError: The settings need what is not installed.
    """
    settings.check_installed()
    raw = Dataset(inputs.raw_faces)
    template = TEMPLATES[settings.template]
    if raw.manifest.template not in (None, template.name):
        raise DatasetError(
            f"the raw faces are aligned to {raw.manifest.template} already, but the template is {template.name}: "
            f'set it to {raw.manifest.template}, or give the source "aligned": "" to have its faces detected.'
        )
    require_free_space(outputs.faces, sum(shard.bytes for shard in raw.manifest.shards), "writing the aligned faces")
    source = str(raw.manifest.inputs.get("source", {}).get("name", "raw faces"))
    with publishing(outputs.faces) as directory, Workplace(STAGE, settings, [raw.fingerprint]) as place:
        parts = place.folder(directory)
        job = Job(
            directory=parts,
            template=template.name,
            landmarks=settings.landmarks,
            aligned_already=raw.manifest.template is not None,
            several_faces=settings.several_faces,
            face=settings.face,
            min_score=settings.dlib_min_score if settings.landmarks == "dlib" else settings.min_score,
            min_face_px=settings.min_face_px,
            detect_side_px=settings.detect_side_px,
            dlib_search_px=settings.dlib_search_px,
            smallest_share=settings.smallest_face_percent / 100,
            max_pixels=settings.max_pixels,
            jpeg_quality=settings.jpeg_quality,
            threads=settings.threads,
        )
        place.map(partial(align_shard, job), place.shards(raw.shards), "align")
        place.collect(parts)
        samples = Samples(template, score_edges(settings.landmarks))
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
        mirrored = _mirrored(manifest, directory)
        _check(manifest, source, outputs.report, mirrored)
        if mirrored >= _MIRRORED_SHARE * manifest.images_in and mirrored:
            _log.warning("%s: %s", source, _about_mirrored(mirrored, manifest))
    return manifest


def _tell(manifest: Manifest, source: str) -> None:
    drops = "".join(f", {count:,} {reason}" for reason, count in manifest.drops.items())
    _log.info(f"{source}: {manifest.images:,} of {manifest.images_in:,} images aligned{drops}")


def _mirrored(manifest: Manifest, directory: Path) -> int:
    """Images whose landmarks only a mirrored face could have."""
    if str(Reason.BAD_LANDMARKS) not in manifest.drops:
        return 0
    wanted = [("reason", "=", str(Reason.BAD_LANDMARKS))]
    details = pq.read_table(directory / LEDGER_NAME, columns=["detail"], filters=wanted)["detail"]
    return sum(MIRRORED in detail for detail in details.to_pylist())


def _about_mirrored(mirrored: int, manifest: Manifest) -> str:
    return (
        f"{mirrored:,} of {manifest.images_in:,} images ({mirrored / manifest.images_in:.1%}) have landmarks that only "
        "a mirrored face could have, and were dropped: check the order of the source's landmarks, which must be "
        "image-left eye, image-right eye, nose, mouth left, mouth right, x before y; or find them anew with "
        "'landmarks' mtcnn."
    )


def _check(manifest: Manifest, source: str, report: Path, mirrored: int) -> None:
    if manifest.images_in and not manifest.images:
        if 2 * mirrored >= manifest.images_in:
            raise DatasetError(
                f"none of the images of '{source}' could be aligned. {_about_mirrored(mirrored, manifest)}"
            )
        drops = ", ".join(f"{count:,} {reason}" for reason, count in manifest.drops.items())
        raise DatasetError(
            f"none of the {manifest.images_in:,} images of '{source}' could be aligned: {drops}. {report} shows "
            "examples; check the source, 'landmarks', 'min_score' and 'min_face_px'."
        )
