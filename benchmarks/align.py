"""The align stage: detection against the mtcnn package, given landmarks against a bare OpenCV loop, and the same faces.

Bars:
- ``speed_full``: images per second of the stage's work on shards with MTCNN (read, decode, detect, warp, encode, write;
  two processes of one thread with a shard each, as with ``workers: 2, threads: 1``) over those of mtcnn 1.0.0, called
  with its defaults on decoded batches of 16; images of 400 x 400 pixels, the package's full pyramid.
- ``speed_follow``: the same with the default setting, where the smallest face searched for follows the image's size.
- ``given_share``: images per second on a shard with given landmarks over those of a bare loop of read, decode, warp,
  encode and write with OpenCV; one process and one thread each, beside which the stage has one that hashes and writes.
  The bare loop reads plain JPEGs, knows its transforms, and checks, hashes and records nothing.
- ``same_face_share``: of the images in which the package finds exactly one face, the share in which the stage chooses
  the same one (intersection over union above 0.7), with the default setting.
- ``landmark_difference``: median distance of its landmarks from the package's unrounded ones, over the distance between
  the eyes. Both once on synthetic faces and, with ``--photos DIR``, once on the images in a folder.

Startup is left out on both sides: TensorFlow and OpenVINO are imported, the processes run, the networks are warm. One
process of two threads, the default, is shown beside the two. Rounds alternate between
subject and reference, and a ratio is the median over rounds. ``--quick`` takes fewer images and rounds.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align import mtcnn
from faceflow.components.align.faces import choose, overlap
from faceflow.components.align.shard import Job, align_shard
from faceflow.components.common import images, tfrecord
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.geometry import TEMPLATES, similarity_transform
from faceflow.components.common.logs import holding_back_native_chatter
from faceflow.components.common.record import Record
from faceflow.components.common.synthetic.cast import identity_seed
from faceflow.components.common.synthetic.render import Face, render
from measurement.bars import report
from measurement.machine import libraries, machine

SIZE_PX = 400
BATCH = 16
TEMPLATE = TEMPLATES["arcface_112"]
FOLLOW, FULL = 0.1, 0.0
Image = NDArray[np.uint8]


def package() -> Any:
    """The package's detector."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported
    with holding_back_native_chatter():
        from mtcnn import MTCNN

        return MTCNN()


def write_shard(folder: Path, index: int, faces: Sequence[Face], count: int) -> str:
    """A raw shard of so many records, made of the faces in turn."""
    records = [
        Record(
            key=f"people/{i}",
            identity="people",
            image=images.encode_jpeg(face.image, 90),
            width=SIZE_PX,
            height=SIZE_PX,
            landmarks=face.landmarks.astype(np.float32),
        )
        for i, face in enumerate(faces)
    ]
    with ShardWriter(str(folder), index, stage="download") as out:
        for place in range(count):
            record = replace(records[place % len(records)], key=f"people/{place}")
            out.write(record)
            out.kept(record.key, record.identity)
    return str(folder / f"part-{index:05d}.tfrecord")


def job(folder: str, landmarks: str, smallest_share: float, threads: int) -> Job:
    """The stage's work with its default settings."""
    return Job(
        directory=folder,
        template=TEMPLATE.name,
        landmarks=landmarks,
        aligned_already=False,
        several_faces="choose",
        face="central",
        min_score=0.9,
        min_face_px=20,
        detect_side_px=1024,
        dlib_search_px=400,
        smallest_share=smallest_share,
        max_pixels=images.DEFAULT_MAX_PIXELS,
        jpeg_quality=95,
        threads=threads,
    )


def bare_loop(stored: Path, sizes: Sequence[int], matrices: Sequence[NDArray[np.float64]], out: Path) -> None:
    """Read, decode, warp, encode and write with OpenCV, and nothing else."""
    options = [cv2.IMWRITE_JPEG_QUALITY, 95]
    with stored.open("rb") as source, out.open("wb") as target:
        for size, matrix in zip(sizes, matrices, strict=True):
            image = cv2.imdecode(np.frombuffer(source.read(size), np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            aligned = cv2.warpAffine(image, matrix, (TEMPLATE.width, TEMPLATE.height), flags=cv2.INTER_LINEAR)
            target.write(cv2.imencode(".jpg", aligned, options)[1].tobytes())


def rate(work: Callable[[], None], count: int) -> float:
    """Images per second."""
    begin = time.perf_counter()
    work()
    return count / (time.perf_counter() - begin)


@contextmanager
def two_processes() -> Iterator[Callable[[Job, Sequence[str]], None]]:
    """Two processes that stay: a call has them align a shard each, and waits for both."""
    spawned = multiprocessing.get_context("spawn")  # a fork would take TensorFlow's threads for its own
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, spawned)) for _ in range(2)]

        def align(job: Job, shards: Sequence[str]) -> None:
            underway = [
                pool.submit(align_shard, job, (3 + place, shard))
                for place, (pool, shard) in enumerate(zip(pools, shards, strict=True))
            ]
            for each in underway:
                each.result()

        yield align


def speeds(detector: Any, faces: Sequence[Face], rounds: int, count: int) -> dict[str, float]:
    """Median ratios of rates, of rounds that alternate between subject and reference."""
    decoded = [face.image for face in faces[: 6 * BATCH]]
    batches = [decoded[begin : begin + BATCH] for begin in range(0, len(decoded), BATCH)]
    with tempfile.TemporaryDirectory(prefix="faceflow-align-") as name, two_processes() as align_both:
        folder = Path(name)
        # With given landmarks images pass so fast that a shard of usual length is needed: its report has a fixed cost.
        shard, longer = write_shard(folder, 0, faces, count), write_shard(folder, 1, faces, 8 * count)
        stored, sizes, matrices = folder / "stored", [], []
        with stored.open("wb") as file:
            for record in map(Record.decode, tfrecord.read(longer)):
                file.write(record.image)
                sizes.append(len(record.image))
                assert record.landmarks is not None
                matrices.append(similarity_transform(record.landmarks, TEMPLATE.points))

        def stage(file: str, landmarks: str, smallest_share: float, threads: int) -> Callable[[], None]:
            return lambda: align_shard(job(name, landmarks, smallest_share, threads), (2, file))

        def both(smallest_share: float) -> Callable[[], None]:
            return lambda: align_both(job(name, "mtcnn", smallest_share, 1), [shard, shard])

        def detect() -> None:
            for batch in batches:
                detector.detect_faces(batch)

        works: dict[str, tuple[Callable[[], None], int]] = {
            "package": (detect, len(decoded)),
            "full": (both(FULL), 2 * count),
            "full, 2 threads": (stage(shard, "mtcnn", FULL, 2), count),
            "follow": (both(FOLLOW), 2 * count),
            "follow, 2 threads": (stage(shard, "mtcnn", FOLLOW, 2), count),
            "bare": (lambda: bare_loop(stored, sizes, matrices, folder / "bare"), 8 * count),
            "given": (stage(longer, "given", FOLLOW, 1), 8 * count),
            "given, 2 threads": (stage(longer, "given", FOLLOW, 2), 8 * count),
        }
        for work, _ in works.values():
            work()  # warm
        measured = [{label: rate(*each) for label, each in works.items()} for _ in range(rounds)]
    for label in works:
        print(f"{label}: {np.median([each[label] for each in measured]):,.0f} images per second")
    pairs = {"speed_full": ("full", "package"), "speed_follow": ("follow", "package"), "given_share": ("given", "bare")}
    return {
        bar: float(np.median([each[subject] / each[reference] for each in measured]))
        for bar, (subject, reference) in pairs.items()
    }


def agreement(detector: Any, pictures: Sequence[Image], smallest_share: float) -> tuple[int, float, float]:
    """How many images have one face for the package; in what share of them it is chosen; landmark difference."""
    chosen = []
    for begin in range(0, len(pictures), 64):
        some = pictures[begin : begin + 64]
        for picture, faces in zip(some, mtcnn.detect(some, 0.9, 1024, smallest_share), strict=True):
            chosen.append(choose(faces, picture.shape[1], picture.shape[0]) if faces else None)
    single, same, differences = 0, 0, []
    for theirs, ours in zip(package_faces(detector, pictures), chosen, strict=True):
        if len(theirs) != 1:
            continue
        single += 1
        points = theirs[0, 6:].reshape(2, 5).T
        if ours is not None and overlap(ours.box, theirs[0, 1:5]) > 0.7:
            same += 1
            between_eyes = np.linalg.norm(points[1] - points[0])
            differences.append(np.linalg.norm(ours.landmarks - points, axis=1).mean() / between_eyes)
    return single, same / max(1, single), float(np.median(differences)) if differences else 1.0


def package_faces(detector: Any, pictures: Sequence[Image]) -> list[NDArray[np.float64]]:
    """For each image the package's rows, not rounded: place in its batch, box, score, five x, five y."""
    found = []
    begin = 0
    while begin < len(pictures):
        end = begin + 1
        # Equal sizes only: in a mixed batch the package takes the padding off the wrong image.
        while end < len(pictures) and end - begin < BATCH and pictures[end].shape == pictures[begin].shape:
            end += 1
        batch = list(pictures[begin:end])
        rows = detector.detect_faces(batch, fit_to_image=False, box_format="xyxy", output_type="numpy")
        rows = np.reshape(rows, (-1, 16))
        found += [rows[rows[:, 0] == place] for place in range(len(batch))]
        begin = end
    return found


def main() -> int:
    """Measure, print, and say whether every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer images and rounds: an answer within a minute")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="a folder of photographs to compare the faces on")
    options = parser.parse_args()
    print(machine(libraries("numpy", "openvino", "mtcnn", "tensorflow"), f"OpenCV {cv2.__version__}"))

    faces = [render(identity_seed(3, i // 4), i % 4, SIZE_PX) for i in range(160 if options.quick else 500)]
    detector = package()
    ratios = speeds(detector, faces, 3 if options.quick else 7, 320 if options.quick else 1000)
    bars = [
        ("speed_full", ratios["speed_full"], ">=", 6.0),
        ("speed_follow", ratios["speed_follow"], ">=", 12.0),
        ("given_share", ratios["given_share"], ">=", 0.85),
    ]
    sets: list[tuple[str, list[Image]]] = [("", [face.image for face in faces])]
    if options.photos:
        files = sorted(path for path in options.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        sets.append(("photos_", [images.decode(path.read_bytes()) for path in files]))
    for prefix, pictures in sets:
        for label, share in (("full pyramid", FULL), ("default", FOLLOW)):
            single, same, difference = agreement(detector, pictures, share)
            print(
                f"{prefix.strip('_') or 'synthetic'}, {label}: {len(pictures)} images, {single} with one face for the "
                f"package, {same:.2%} the same, landmarks {difference:.4%} apart"
            )
        bars += [
            (f"{prefix}same_face_share", same, ">=", 0.99),
            (f"{prefix}landmark_difference", difference, "<", 0.005),
        ]
    if not options.photos:
        print("photographs: skipped, no --photos given")
    return report(bars)


if __name__ == "__main__":
    sys.exit(main())
