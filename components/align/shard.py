"""One shard of raw faces becomes one shard of aligned faces.

A shard is read in windows of records. A window is decoded, searched, warped and encoded as one piece of work that
touches nothing outside it; what came of it is written in the order of the records. So the bytes do not depend on how
many windows are worked on at a time, nor on where one ends.

Windows are worked on by threads: nearly all the time is spent in OpenCV, OpenVINO and scipy, which hold no lock
meanwhile. They start at once, where processes take seconds, but share an interpreter: on many images processes of one
thread each get more out of the same cores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align import dlib_faces, framing, mtcnn
from faceflow.components.align.faces import Face, choose, overlap
from faceflow.components.align.landmarks import box_around, fault
from faceflow.components.align.samples import Samples, before_and_after, letterbox, score_edges
from faceflow.components.common import files, geometry, images, tfrecord
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DatasetError, ImageError
from faceflow.components.common.geometry import TEMPLATES, Template
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record

STAGE = "align"
SAMPLES_ENDING = ".samples.npz"
_WINDOW_RECORDS = 32
_WINDOW_PIXELS = 8_000_000


@dataclass(frozen=True)
class Job:
    """How to align a shard.

    Attributes:
        directory: The location where the parts go.
        template: Name of the template.
        landmarks: ``given``, ``mtcnn``, ``dlib`` or ``auto``.
        aligned_already: Whether the images lie on the template already and are passed on untouched.
        several_faces: ``choose`` or ``drop``.
        face: Which of several faces is chosen: a rule of :func:`faceflow.components.align.faces.choose`.
        min_score: Lowest score of a face, in the detector's own measure.
        min_face_px: Fewest pixels of the original across the aligned face.
        detect_side_px: Longest side at which MTCNN searches an image.
        dlib_search_px: Shorter side at which dlib does.
        smallest_share: Side of the smallest face searched for, as a share of the image's shorter side.
        max_pixels: Most pixels of an image.
        jpeg_quality: Of the aligned faces.
        threads: How many windows are worked on at a time.
    """

    directory: str
    template: str
    landmarks: str
    aligned_already: bool
    several_faces: str
    face: str
    min_score: float
    min_face_px: int
    detect_side_px: int
    dlib_search_px: int
    smallest_share: float
    max_pixels: int
    jpeg_quality: int
    threads: int


def align_shard(job: Job, element: tuple[int, str]) -> None:
    """Align one shard, and leave its part and its samples in the job's directory.

    Args:
        job: How.
        element: The shard's place and file.

    Raises:
        DatasetError: The shard is damaged, or holds an image that is not on the template it is said to be on.
    """
    index, file = element
    samples = Samples(TEMPLATES[job.template], score_edges(job.landmarks))
    work = partial(_pass_on if job.aligned_already else _align, job)
    cv2.setNumThreads(1)  # OpenCV's own threads would get in the way of ours
    with (
        ThreadPoolExecutor(1, "hash and write") as behind,
        ShardWriter(job.directory, index, stage=STAGE, behind=behind) as out,
    ):
        for window in _in_order(work, _windows(tfrecord.read(file)), job.threads):
            for face in window:
                _write(job, face, out, samples)
        samples.save(files.join(job.directory, f"part-{index:05d}{SAMPLES_ENDING}"))


@dataclass(slots=True)
class _Face:
    """A face on its way from the raw record to the aligned one.

    Attributes:
        record: The raw record.
        payload: The same, serialised.
        header: What the image says of itself, if it can be searched.
        image: Its pixels, from when they are decoded until they are drawn.
        landmarks: (5, 2), once known.
        parts: dlib's own points, (N, 2), if it found the face.
        box: (4,) the detector's, if one ran.
        score: The detector's.
        drop: Why it ends here.
        matrix: (2, 3) from the image's pixels to the template's, if it is aligned here.
        span: Pixels of the image across the aligned one.
        aligned: Its pixels on the template.
        encoded: The same as JPEG.
        frame: The record that goes on, serialised and framed.
        refused: Faces that were found, but not taken.
    """

    record: Record
    payload: bytes
    header: images.Header | None = None
    image: NDArray[np.uint8] | None = None
    landmarks: NDArray[np.float64] | None = None
    parts: NDArray[np.float64] | None = None
    box: NDArray[np.float64] | None = None
    score: float | None = None
    drop: tuple[Reason, str] | None = None
    matrix: NDArray[np.float64] | None = None
    span: float | None = None
    aligned: NDArray[np.uint8] | None = None
    encoded: bytes | None = None
    frame: bytes = b""
    refused: Sequence[Face] = ()


def _windows(payloads: Iterable[bytes]) -> Iterator[list[_Face]]:
    """Group records into as many as memory holds with ease once they are decoded."""
    window: list[_Face] = []
    pixels = 0
    for payload in payloads:
        record = Record.decode(payload)
        window.append(_Face(record, payload))
        pixels += record.width * record.height
        if len(window) == _WINDOW_RECORDS or pixels >= _WINDOW_PIXELS:
            yield window
            window, pixels = [], 0
    if window:
        yield window


def _in_order(
    work: Callable[[list[_Face]], None], windows: Iterable[list[_Face]], threads: int
) -> Iterator[list[_Face]]:
    """Work on windows, several at a time, and yield them in their order."""
    if threads == 1:
        for window in windows:
            work(window)
            yield window
        return
    with ThreadPoolExecutor(threads, "align") as pool:
        underway: deque[tuple[list[_Face], Future[None]]] = deque()
        try:
            for window in windows:
                underway.append((window, pool.submit(work, window)))
                if len(underway) > threads:
                    first, done = underway.popleft()
                    done.result()
                    yield first
            while underway:
                first, done = underway.popleft()
                done.result()
                yield first
        finally:
            pool.shutdown(cancel_futures=True)


def _align(job: Job, faces: Sequence[_Face]) -> None:
    """Decode, find the faces, and carry them onto the template.

    One thing at a time is done for all: a picture takes up the processor's caches, and what is done once between two of
    them would begin with fetching its code and data anew.
    """
    template = TEMPLATES[job.template]
    for face in faces:
        _look(job, face, template)
    for face in faces:
        if face.header is not None:
            _decode(job, face, face.header, template)
    wanting = [face for face in faces if face.drop is None and face.landmarks is None]
    if wanting:
        _detect(job, wanting, template)
        for face in wanting:
            if face.drop is None:
                _place(job, face, template)
        for face in wanting:
            _draw(job, face, template)
    for face in faces:
        _serialise(face, template)


def _look(job: Job, face: _Face, template: Template) -> None:
    """Read the image's header, and find the way onto the template where the source's landmarks give it."""
    try:
        face.header = header = images.inspect(face.record.image)
    except ImageError as error:
        face.drop = (Reason(error.reason), str(error))
        return
    if min(header.height, header.width) < job.min_face_px:
        size = f"{header.width}x{header.height}"
        face.drop = (Reason.TOO_SMALL, f"the image has {size} pixels, a face needs {job.min_face_px}")
        return
    _take_given(job, face, header, template)
    if face.drop is None and face.landmarks is not None:
        _place(job, face, template)


def _decode(job: Job, face: _Face, header: images.Header, template: Template) -> None:
    """Decode the image, even one that is dropped for another reason, and draw the face where its place is known."""
    try:
        face.image = images.decode(face.record.image, job.max_pixels, header)
    except ImageError as error:
        face.drop = (Reason(error.reason), str(error))
        return
    _draw(job, face, template)  # at once: its pixels are still in the processor's cache


def _take_given(job: Job, face: _Face, header: images.Header, template: Template) -> None:
    """Take the source's landmarks, where they are wanted and the template can be reached by them."""
    if job.landmarks not in ("given", "auto") or template.framing != "landmarks":
        return
    if face.record.landmarks is None:
        if job.landmarks == "given" and (job.face != "overlap" or face.record.box is None):
            only = "" if face.record.box is None else ", only a box, by which 'face' overlap would find it"
            face.drop = (Reason.NO_FACE, f"the source gives no landmarks for it{only}")
        return
    face.landmarks = face.record.landmarks.astype(np.float64)
    wrong = fault(face.landmarks, header.width, header.height)
    if wrong is not None:
        face.drop = (Reason.BAD_LANDMARKS, wrong)


def _detect(job: Job, wanting: Sequence[_Face], template: Template) -> None:
    """Find the faces of the images that are to be searched, and choose one for each."""
    pictures = [face.image for face in wanting if face.image is not None]
    for face, picture, found in zip(wanting, pictures, _found(job, pictures, template), strict=True):
        good = [each for each in found if each.score >= job.min_score]
        known = _meant(face.record) if job.face == "overlap" else None
        if not found:
            face.drop = (Reason.NO_FACE, "no face found")
        elif not good:
            best = max(each.score for each in found)
            face.drop = (Reason.LOW_SCORE, f"the best score is {best:.3f}, below {job.min_score:g}")
            face.refused = found
        elif len(good) > 1 and job.several_faces == "drop":
            face.drop = (Reason.SEVERAL_FACES, f"{len(good)} faces found")
            face.refused = good
        elif job.landmarks == "given" and not (known is not None and any(overlap(each.box, known) for each in good)):
            face.drop = (Reason.NO_FACE, "no face found in the box that the source gives")
            face.refused = good
        else:
            chosen = choose(good, picture.shape[1], picture.shape[0], job.face, known)
            face.landmarks, face.parts, face.box = chosen.landmarks, chosen.parts, chosen.box
            face.score = chosen.score


def _meant(record: Record) -> NDArray[np.float64] | None:
    """The box, (4,), of the face that the source means: the one that it gives, else about its landmarks'."""
    box, points = record.box, record.landmarks
    if box is not None and np.isfinite(box).all():
        return box.astype(np.float64)
    if points is not None and np.isfinite(points).all():
        return box_around(points.astype(np.float64))
    return None


def _found(job: Job, pictures: Sequence[NDArray[np.uint8]], template: Template) -> list[list[Face]]:
    if job.landmarks == "dlib":
        five = template.framing == "dlib_chip"
        return dlib_faces.detect(pictures, job.min_score, job.dlib_search_px, five=five)
    return mtcnn.detect(pictures, job.min_score, job.detect_side_px, job.smallest_share)


def _place(job: Job, face: _Face, template: Template) -> None:
    """Find the way onto the template, or note why there is none."""
    assert face.header is not None
    width, height = face.header.width, face.header.height
    try:
        matrix = framing.onto(
            template, landmarks=face.landmarks, parts=face.parts, box=face.box, width=width, height=height
        )
    except ValueError as error:
        face.drop = (Reason.BAD_LANDMARKS, str(error))
        return
    face.span = framing.span(matrix, template)
    if face.span < job.min_face_px:
        face.drop = (Reason.TOO_SMALL, f"the face spans {face.span:.0f} pixels, fewer than {job.min_face_px}")
        return
    face.matrix = matrix


def _draw(job: Job, face: _Face, template: Template) -> None:
    """Draw a face on the template, if the way there is known."""
    if face.matrix is None:
        return
    assert face.image is not None
    face.aligned = geometry.warp(face.image, face.matrix, template)
    face.encoded = images.encode_jpeg(face.aligned, job.jpeg_quality)
    face.image = None


def _serialise(face: _Face, template: Template) -> None:
    """Make the record of a face that was drawn."""
    if face.encoded is None:
        return
    assert face.matrix is not None and face.landmarks is not None
    raw = face.record
    aligned = Record(
        key=raw.key,
        identity=raw.identity,
        image=face.encoded,
        height=template.height,
        width=template.width,
        landmarks=geometry.apply(face.matrix, face.landmarks).astype(np.float32),
        score=face.score,
        gender=raw.gender,
        age=raw.age,
    )
    face.frame = b"".join(tfrecord.framing(aligned.encode()))


def _pass_on(job: Job, faces: Sequence[_Face]) -> None:
    """Check faces that are aligned already."""
    template = TEMPLATES[job.template]
    for face in faces:
        record = face.record
        if (record.width, record.height) != (template.width, template.height):
            raise DatasetError(
                f"{record.key} has {record.width}x{record.height} pixels, but the dataset says it is aligned to "
                f"{template.name} ({template.width}x{template.height}). Correct the source's 'aligned', and download "
                "again."
            )
        try:
            face.aligned, face.score = images.decode(record.image, job.max_pixels), record.score
        except ImageError as error:
            face.drop = (Reason(error.reason), str(error))
        face.frame = b"".join(tfrecord.framing(face.payload))


def _write(job: Job, face: _Face, out: ShardWriter, samples: Samples) -> None:
    record = face.record
    if face.drop is not None or face.aligned is None:
        reason, detail = face.drop or (Reason.NO_FACE, "no face found")
        out.dropped(record.key, record.identity, reason, detail)
        points = face.landmarks if reason == Reason.BAD_LANDMARKS else None
        samples.add_drop(record.key, reason, detail, face.image, points, [each.box for each in face.refused])
        return
    out.write_frame(face.frame)
    out.account([record.identity.encode()], {name: 1 for name in (record.variant, *record.online_variants)})
    out.kept(record.key, record.identity)
    samples.add_face(record.key, face.aligned, face.score, face.span, _drawing(job, face, face.aligned))


def _drawing(job: Job, face: _Face, aligned: NDArray[np.uint8]) -> Callable[[], NDArray[np.uint8]]:
    template = TEMPLATES[job.template]

    def draw() -> NDArray[np.uint8]:
        if face.landmarks is None or face.matrix is None:
            return letterbox(aligned)[0]
        # Few pictures are drawn in the end: to decode those once more costs less than to hold all until then.
        image = images.decode(face.record.image, job.max_pixels)
        points = face.landmarks
        if face.parts is not None and template.framing != "landmarks":
            points = face.parts[list(template.parts)] if template.parts else face.parts
        box = face.box if template.framing == "box" else None
        return before_and_after(image, points, framing.frame(face.matrix, template), aligned, box)

    return draw
