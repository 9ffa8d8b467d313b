"""Face detection by the ``mtcnn`` package (Zhang et al., "Joint face detection and alignment", 2016).

Images are batched by equal size: the package pads a mixed batch with black, and then takes the padding off the wrong
image's landmarks whenever one of the images shows no face. Its smallest face stays at 20 pixels: with another value
the last levels of its pyramid become too small, and it silently finds nothing at all.

Small and tightly cropped images need help. Measured with 55 face crops of 150 px that were shrunk to 48 px, the
landmarks are 3.5 % of the distance between the eyes off; enlarged to 112 px again, 1.9 %; at 32 px 5.7 % and 2.5 %. Of
113 crops along MTCNN's own box it misses 7 %, and none after the border was continued by 15 % of the shorter side.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.faces import Face
from faceflow.components.common.logs import holding_back_native_chatter

Image = NDArray[np.uint8]
_log = logging.getLogger("faceflow.align")

_BATCH = 16
_BATCH_PIXELS = _BATCH * 640 * 640
_ENLARGE_TO = 112
_SHORTEST = 24
_BORDER_SHARE = 0.15


@cache
def _network() -> Any:
    """The networks, loaded once a process."""
    with holding_back_native_chatter():
        import tensorflow
        from mtcnn import MTCNN
        from mtcnn.utils import bboxes

        try:
            tensorflow.config.set_visible_devices([], "GPU")
        except RuntimeError:  # another part of this process uses TensorFlow already
            _log.debug("TensorFlow is running already: its devices stay as they are")
        bboxes.sort_by_scores = _sorted_by_scores
        return MTCNN(device="CPU:0")


def _sorted_by_scores(
    boxes: NDArray[np.float64], scores: NDArray[np.float64], ascending: bool = True
) -> NDArray[np.float64]:
    """Order boxes by score, equal scores by place.

    Takes the place of the package's own function, which leaves equal scores in any order: as many scores are exactly 1,
    the box that survives suppression, and with it the landmarks, would hang on the other images of the batch.
    """
    order: NDArray[np.intp] = np.argsort(scores if ascending else -scores, kind="stable")
    return boxes[order]


def detect(images: Sequence[Image], min_score: float, longest_side: int) -> list[list[Face]]:
    """Find the faces in images of any sizes.

    Where no face reaches the score, the image is searched once more with its border continued outwards, so that a face
    that fills it has the surroundings that the networks know.

    Args:
        images: (H, W, 3) uint8 RGB each.
        min_score: The score that makes a second search needless.
        longest_side: Longest side, in pixels, at which an image is searched; larger ones are shrunk to it.

    Returns:
        For each image its faces, of any score.
    """
    found = _detect(images, longest_side, 0.0)
    weak = [index for index, faces in enumerate(found) if all(face.score < min_score for face in faces)]
    for index, faces in zip(weak, _detect([images[index] for index in weak], longest_side, _BORDER_SHARE), strict=True):
        if faces:
            found[index] = faces
    return found


def _detect(images: Sequence[Image], longest_side: int, border_share: float) -> list[list[Face]]:
    found: list[list[Face]] = [[] for _ in images]
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    prepared = [_prepare(image, longest_side, border_share) for image in images]
    for index, (pixels, _, _) in enumerate(prepared):
        if min(pixels.shape[:2]) >= _SHORTEST:
            by_shape[pixels.shape].append(index)
    for indices in by_shape.values():
        for batch in _batches(indices, prepared[indices[0]][0].size // 3):
            rows = _network().detect_faces(
                [prepared[index][0] for index in batch], fit_to_image=False, box_format="xyxy", output_type="numpy"
            )
            for place, *values in np.asarray(rows, np.float64):
                index = batch[int(place)]
                _, scale, border = prepared[index]
                found[index].append(_face(np.array(values), scale, border))
    return found


def _prepare(image: Image, longest_side: int, border_share: float) -> tuple[Image, NDArray[np.float64], int]:
    """The image as it is searched, the (2,) factors by which it was scaled, and the border added after that."""
    height, width = image.shape[:2]
    longest, shortest = max(height, width), min(height, width)
    scale = min(max(1.0, _ENLARGE_TO / shortest), longest_side / longest)
    if scale != 1.0:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        image = np.asarray(cv2.resize(image, size, interpolation=method), np.uint8)
    border = round(border_share * min(image.shape[:2]))
    if border:
        image = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    return image, np.array([image.shape[1] - 2 * border, image.shape[0] - 2 * border]) / (width, height), border


def _batches(indices: list[int], pixels: int) -> Iterator[list[int]]:
    step = max(1, min(_BATCH, _BATCH_PIXELS // pixels))
    for begin in range(0, len(indices), step):
        yield indices[begin : begin + step]


def _face(values: NDArray[np.float64], scale: NDArray[np.float64], border: int) -> Face:
    """A row of the package (box, score, five x, five y), in the original's pixels."""

    def back(points: NDArray[np.float64]) -> NDArray[np.float64]:
        return (points - border + 0.5) / scale - 0.5

    return Face(back(values[:4].reshape(2, 2)).ravel(), float(values[4]), back(values[5:15].reshape(2, 5).T))
