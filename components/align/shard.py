"""One shard of raw faces becomes one shard of aligned faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceflow.components.align import mtcnn
from faceflow.components.align.faces import choose
from faceflow.components.align.samples import Samples, before_and_after, letterbox
from faceflow.components.common import geometry, images, tfrecord
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DatasetError, ImageError
from faceflow.components.common.geometry import TEMPLATES, Template
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record

STAGE = "align"
SAMPLES_ENDING = ".samples.npz"
_WINDOW_RECORDS = 64
_WINDOW_PIXELS = 32_000_000


@dataclass(frozen=True)
class Job:
    """How to align a shard.

    Attributes:
        directory: Where the parts go.
        template: Name of the template.
        landmarks: ``given``, ``mtcnn`` or ``auto``.
        aligned_already: Whether the images lie on the template already and are passed on untouched.
        several_faces: ``choose`` or ``drop``.
        min_score: Lowest score of a face.
        min_face_px: Fewest pixels of the original across the aligned face.
        detect_side_px: Longest side at which an image is searched.
        max_pixels: Most pixels of an image.
        jpeg_quality: Of the aligned faces.
    """

    directory: Path
    template: str
    landmarks: str
    aligned_already: bool
    several_faces: str
    min_score: float
    min_face_px: int
    detect_side_px: int
    max_pixels: int
    jpeg_quality: int


def align_shard(job: Job, element: tuple[int, str]) -> None:
    """Align one shard, and leave its part and its samples in the job's directory.

    Args:
        job: How.
        element: The shard's place and file.

    Raises:
        DatasetError: The shard is damaged, or holds an image that is not on the template it is said to be on.
    """
    index, file = element
    samples = Samples(TEMPLATES[job.template])
    with ShardWriter(job.directory, index, stage=STAGE) as out:
        payloads = tfrecord.read(Path(file))
        if job.aligned_already:
            for payload in payloads:
                _pass_on(job, payload, out, samples)
        else:
            for window in _windows(map(Record.decode, payloads), job.max_pixels):
                _align(job, window, out, samples)
        samples.save(job.directory / f"part-{index:05d}{SAMPLES_ENDING}")


@dataclass(slots=True)
class _Raw:
    """A raw face on its way.

    Attributes:
        record: The record.
        image: Its pixels, if they could be decoded.
        landmarks: (5, 2), once known.
        score: The detector's.
        drop: Why it ends here.
    """

    record: Record
    image: NDArray[np.uint8] | None = None
    landmarks: NDArray[np.float64] | None = None
    score: float | None = None
    drop: tuple[Reason, str] | None = None


def _windows(records: Iterator[Record], max_pixels: int) -> Iterator[list[_Raw]]:
    """Decode records, and group them into as many as memory holds with ease."""
    window: list[_Raw] = []
    pixels = 0
    for record in records:
        raw = _Raw(record)
        try:
            raw.image = images.decode(record.image, max_pixels)
            pixels += raw.image.size // 3
        except ImageError as error:
            raw.drop = (Reason(error.reason), str(error))
        window.append(raw)
        if len(window) == _WINDOW_RECORDS or pixels >= _WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def _align(job: Job, window: Sequence[_Raw], out: ShardWriter, samples: Samples) -> None:
    for raw in window:
        _check_size(job, raw)
        if raw.drop is None and job.landmarks != "mtcnn" and raw.record.landmarks is not None:
            raw.landmarks = raw.record.landmarks.astype(np.float64)
        elif raw.drop is None and job.landmarks == "given":
            raw.drop = (Reason.NO_FACE, "the source gives no landmarks for it")
    _detect(job, [raw for raw in window if raw.drop is None and raw.landmarks is None])
    for raw in window:
        _write(job, raw, out, samples)


def _check_size(job: Job, raw: _Raw) -> None:
    if raw.image is not None and min(raw.image.shape[:2]) < job.min_face_px:
        height, width = raw.image.shape[:2]
        raw.drop = (Reason.TOO_SMALL, f"the image has {width}x{height} pixels, a face needs {job.min_face_px}")


def _detect(job: Job, wanting: Sequence[_Raw]) -> None:
    """Find the faces of the images that have no landmarks, and choose one for each."""
    pictures = [raw.image for raw in wanting if raw.image is not None]
    for raw, picture, faces in zip(
        wanting, pictures, mtcnn.detect(pictures, job.min_score, job.detect_side_px), strict=True
    ):
        good = [face for face in faces if face.score >= job.min_score]
        if not faces:
            raw.drop = (Reason.NO_FACE, "no face found")
        elif not good:
            best = max(face.score for face in faces)
            raw.drop = (Reason.LOW_SCORE, f"the best score is {best:.3f}, below {job.min_score:g}")
        elif len(good) > 1 and job.several_faces == "drop":
            raw.drop = (Reason.SEVERAL_FACES, f"{len(good)} faces found")
        else:
            face = choose(good, picture.shape[1], picture.shape[0])
            raw.landmarks, raw.score = face.landmarks, face.score


def _write(job: Job, raw: _Raw, out: ShardWriter, samples: Samples) -> None:
    template = TEMPLATES[job.template]
    matrix = None if raw.drop or raw.landmarks is None else _transform(job, raw, template)
    record, image, landmarks = raw.record, raw.image, raw.landmarks
    if raw.drop or matrix is None or image is None or landmarks is None:
        reason, detail = raw.drop or (Reason.NO_FACE, "no face found")
        out.dropped(record.key, record.identity, reason, detail)
        samples.add_drop(record.key, reason, detail, image)
        return
    aligned = geometry.warp(image, matrix, template)
    out.write(
        replace(
            record,
            image=images.encode_jpeg(aligned, job.jpeg_quality),
            height=template.height,
            width=template.width,
            landmarks=geometry.apply(matrix, landmarks).astype(np.float32),
            score=raw.score,
        )
    )
    out.kept(record.key, record.identity)
    size = _span(matrix, template)
    samples.add_face(record.key, aligned, raw.score, size, _drawing(image, landmarks, matrix, aligned))


def _transform(job: Job, raw: _Raw, template: Template) -> NDArray[np.float64] | None:
    """The way onto the template; None, with the reason noted, if there is none."""
    assert raw.landmarks is not None and raw.image is not None
    height, width = raw.image.shape[:2]
    try:
        matrix = geometry.similarity_transform(raw.landmarks, template.points)
    except ValueError as error:
        raw.drop = (Reason.NO_FACE, f"its landmarks cannot be used: {error}")
        return None
    x, y = raw.landmarks.mean(0)
    if not (0 <= x < width and 0 <= y < height):
        raw.drop = (Reason.NO_FACE, f"its landmarks lie outside the image of {width}x{height} pixels")
        return None
    size = _span(matrix, template)
    if size < job.min_face_px:
        raw.drop = (Reason.TOO_SMALL, f"the face spans {size:.0f} pixels, fewer than {job.min_face_px}")
        return None
    return matrix


def _span(matrix: NDArray[np.float64], template: Template) -> float:
    """Pixels of the original across the aligned image."""
    return template.width / float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _drawing(
    image: NDArray[np.uint8], landmarks: NDArray[np.float64], matrix: NDArray[np.float64], aligned: NDArray[np.uint8]
) -> Callable[[], NDArray[np.uint8]]:
    def draw() -> NDArray[np.uint8]:
        height, width = aligned.shape[:2]
        corners = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)
        frame = (corners - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        return before_and_after(image, landmarks, frame, aligned)

    return draw


def _pass_on(job: Job, payload: bytes, out: ShardWriter, samples: Samples) -> None:
    """Pass a face on that is aligned already."""
    record = Record.decode(payload)
    template = TEMPLATES[job.template]
    if (record.width, record.height) != (template.width, template.height):
        raise DatasetError(
            f"{record.key} has {record.width}x{record.height} pixels, but the dataset says it is aligned to "
            f"{template.name} ({template.width}x{template.height}). Correct the source's 'aligned', and download again."
        )
    try:
        pixels = images.decode(record.image, job.max_pixels)
    except ImageError as error:
        out.dropped(record.key, record.identity, Reason(error.reason), str(error))
        samples.add_drop(record.key, Reason(error.reason), str(error), None)
        return
    out.write_payload(payload)
    out.kept(record.key, record.identity)
    samples.add_face(record.key, pixels, record.score, None, lambda: letterbox(pixels)[0])
