"""The studio: renders and encodes the pictures of a set, in order, in several processes if wanted."""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.synthetic.identity import Gender
from faceflow.components.common.synthetic.render import render

CROP = TEMPLATES["arcface_112"]
"""The template that crops are aligned to."""

_QUALITY = 92
_BATCH = 16
_BATCHES_AHEAD = 4
"""How many batches each worker may be ahead of the writer: this bounds the memory."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to take.

    Attributes:
        identity_seed: Who.
        image_seed: In which pose, light and so on.
        path: Where the picture will lie in the set.
    """

    identity_seed: int
    image_seed: int
    path: str


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """One picture taken.

    Attributes:
        job: What was asked for.
        jpeg: The encoded picture.
        landmarks: (5, 2) x, y in the picture's pixels.
        gender: ``female`` or ``male``.
        age: In years.
    """

    job: Job
    jpeg: bytes
    landmarks: NDArray[np.float32]
    gender: Gender
    age: float


def take_pictures(jobs: Iterable[Job], size_px: int, *, crop: bool = False, workers: int = 1) -> Iterator[Picture]:
    """Take pictures and yield them in the order of the jobs, which are drawn as they are needed.

    The pictures do not depend on the number of workers.

    Args:
        jobs: What to render; jobs of one identity in a row are the fastest.
        size_px: Side of the rendered pictures.
        crop: Align each face to the 112x112 template by its true landmarks and keep only that.
        workers: Processes; with 1 the work is done in this one.
    """
    waiting = iter(jobs)
    batches = iter(lambda: list(islice(waiting, _BATCH)), [])
    take = partial(_take_batch, size_px=size_px, crop=crop)
    if workers == 1:
        for batch in batches:
            yield from take(batch)
        return
    # A forked child of a process with TensorFlow's or OpenCV's threads can hang: spawn.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _quiet_worker)
    pending: deque[Future[list[Picture]]] = deque()
    try:
        for batch in batches:
            pending.append(pool.submit(take, batch))
            if len(pending) >= workers * _BATCHES_AHEAD:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _quiet_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C
    cv2.setNumThreads(1)


def _take_batch(batch: list[Job], size_px: int, crop: bool) -> list[Picture]:
    return [_take(job, size_px, crop) for job in batch]


def _take(job: Job, size_px: int, crop: bool) -> Picture:
    face = render(job.identity_seed, job.image_seed, size_px)
    image, landmarks = face.image, face.landmarks
    if crop:
        image = warp(image, similarity_transform(landmarks, CROP.points), CROP)
        landmarks = CROP.points.astype(np.float32)
    return Picture(job, encode_jpeg(image, _QUALITY), landmarks, face.gender, face.age)
