"""The whole cascade: from images to faces with landmarks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.cascade.candidates import Cells, cells, corrected, crops, landmarks_of, squared
from faceflow.components.align.cascade.networks import PatchNetwork, ProposalNetwork
from faceflow.components.align.cascade.pyramid import Pyramid, levels, sheets
from faceflow.components.align.cascade.suppression import suppress

Image = NDArray[np.uint8]

# The package's thresholds: probabilities of a face, and overlaps that are suppressed.
_PROPOSED, _REFINED, _FOUND = (math.log(p / (1 - p)) for p in (0.6, 0.7, 0.8))
_ON_A_LEVEL, _ACROSS_LEVELS, _AFTER_REFINING, _AT_LAST = 0.5, 0.7, 0.7, 0.7
_MOST_LEVELS = 64
_PIXELS_AT_ONCE = 2_560_000


@dataclass(frozen=True)
class Found:
    """Faces in a sequence of images.

    Attributes:
        owners: (N,) places of their images, in ascending order; of one image, the surest first.
        boxes: (N, 4) left, top, right, bottom in pixels; they may reach beyond the image.
        scores: (N,) probabilities.
        landmarks: (N, 5, 2) x and y in pixels: image-left eye, image-right eye, nose, mouth left, mouth right.
    """

    owners: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    landmarks: NDArray[np.float64]


class _Memory:
    """Room for one array at a time, kept for the next one: fresh memory costs more than most of what is done in it."""

    def __init__(self) -> None:
        self._room = np.zeros(0, np.float32)

    def array(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """An array that holds whatever the last one left."""
        size = math.prod(shape)
        if len(self._room) < size:
            self._room = np.zeros(size, np.float32)
        return self._room[:size].reshape(shape)


class Cascade:
    """The three networks, for one thread."""

    def __init__(self) -> None:
        """Load and compile the networks."""
        self._propose = ProposalNetwork()
        self._refine = PatchNetwork("rnet")
        self._output = PatchNetwork("onet")
        self._pixels, self._canvas = _Memory(), _Memory()

    def find(self, images: Sequence[Image], smallest_share: float) -> Found:
        """Find the faces in images of any sizes.

        What is found in an image does not hang on the others.

        Args:
            images: (H, W, 3) RGB each.
            smallest_share: Side of the smallest face searched for, as a share of an image's shorter side; with 0, 20
                pixels.
        """
        parts = [self._find(images[begin:end], begin, smallest_share) for begin, end in _batches(images)]
        return Found(*(np.concatenate([getattr(part, name) for part in parts]) for name in Found.__dataclass_fields__))

    def _find(self, images: Sequence[Image], first: int, smallest_share: float) -> Found:
        pixels = self._floats(images)
        owners, boxes = self._proposals(pixels, smallest_share)
        owners, boxes = self._refined(pixels, owners, boxes)
        return self._faces(pixels, owners, boxes, first)

    def _floats(self, images: Sequence[Image]) -> list[NDArray[np.float32]]:
        ends = np.cumsum([0] + [image.size for image in images])
        everything = self._pixels.array((int(ends[-1]),))
        floats = []
        for begin, end, image in zip(ends[:-1], ends[1:], images, strict=True):
            floats.append(everything[begin:end].reshape(image.shape))
            np.copyto(floats[-1], image)
        return floats

    def _proposals(
        self, images: Sequence[NDArray[np.float32]], smallest_share: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        owners, groups, boxes, logits = [], [], [], []
        # Sheet by sheet: the network prepares itself anew whenever the size of its canvas changes.
        for place, image, (pyramid, grid) in _in_turn(images, smallest_share):
            canvas = self._canvas.array((*pyramid.canvas, 3))
            pyramid.draw(image, canvas)
            outputs = self._propose(canvas)
            logit = outputs[4, grid.place]
            chosen = np.flatnonzero(logit > _PROPOSED)
            owners.append(np.full(len(chosen), place))
            groups.append(place * _MOST_LEVELS + grid.level[chosen])
            boxes.append(grid.boxes(chosen, outputs[:4, grid.place[chosen]]))
            logits.append(logit[chosen])
        if not owners:
            return np.zeros(0, np.int64), np.zeros((0, 4))
        owned, box, sure = np.concatenate(owners), np.concatenate(boxes), np.concatenate(logits)
        kept = suppress(box, sure, np.concatenate(groups), _ON_A_LEVEL)
        kept = kept[suppress(box[kept], sure[kept], owned[kept], _ACROSS_LEVELS)]
        return owned[kept], squared(box[kept])

    def _refined(
        self, images: Sequence[NDArray[np.float32]], owners: NDArray[np.int64], boxes: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        if not len(owners):
            return owners, boxes
        outputs = self._refine(crops(images, owners, boxes, self._refine.side))
        good = outputs[:, 4] > _REFINED
        owners, boxes, outputs = owners[good], corrected(boxes[good], outputs[good, :4]), outputs[good]
        kept = suppress(boxes, outputs[:, 4], owners, _AFTER_REFINING)
        return owners[kept], squared(boxes[kept])

    def _faces(
        self, images: Sequence[NDArray[np.float32]], owners: NDArray[np.int64], boxes: NDArray[np.float64], first: int
    ) -> Found:
        if not len(owners):
            return Found(owners, boxes, np.zeros(0), np.zeros((0, 5, 2)))
        outputs = self._output(crops(images, owners, boxes, self._output.side))
        good = outputs[:, 14] > _FOUND
        owners, outputs = owners[good], outputs[good]
        landmarks, boxes = landmarks_of(boxes[good], outputs[:, 4:14]), corrected(boxes[good], outputs[:, :4])
        kept = suppress(boxes, outputs[:, 14], owners, _AT_LAST, of_smaller=True)
        scores = 1 / (1 + np.exp(-outputs[kept, 14].astype(np.float64)))
        return Found(owners[kept] + first, boxes[kept], scores, landmarks[kept])


def _batches(images: Sequence[Image]) -> Iterator[tuple[int, int]]:
    """Runs of images that together have not too many pixels."""
    begin, pixels = 0, 0
    for place, image in enumerate(images):
        size = image.shape[0] * image.shape[1]
        if pixels and pixels + size > _PIXELS_AT_ONCE:
            yield begin, place
            begin, pixels = place, 0
        pixels += size
    yield begin, len(images)


def _in_turn(
    images: Sequence[NDArray[np.float32]], smallest_share: float
) -> Iterator[tuple[int, NDArray[np.float32], tuple[Pyramid, Cells]]]:
    """Each image with its place and each part of its plan; images of one size that follow each other take turns."""
    for (height, width), group in groupby(enumerate(images), lambda each: each[1].shape[:2]):
        alike = list(group)
        for part in _plan(height, width, smallest_share):
            for place, image in alike:
                yield place, image, part


@lru_cache(maxsize=256)
def _plan(height: int, width: int, smallest_share: float) -> list[tuple[Pyramid, Cells]]:
    """How images of one size are searched, canvas by canvas; those that are too small are not."""
    parts, first = [], 0
    for sheet in sheets(levels(height, width, smallest_share)):
        pyramid = Pyramid(height, width, sheet)
        parts.append((pyramid, cells(pyramid, first)))
        first += len(sheet)
    return parts


_idle: list[Cascade] = []


@contextmanager
def cascade() -> Iterator[Cascade]:
    """A cascade for the calling thread alone: one that is idle, or else a new one."""
    try:
        found = _idle.pop()
    except IndexError:
        found = Cascade()
    try:
        yield found
    finally:
        _idle.append(found)
