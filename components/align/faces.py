"""Detected faces, and the rule that picks one where an image shows several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SIZE_SHARE = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face.

    Attributes:
        box: (4,) left, top, right, bottom in image pixels.
        score: The detector's confidence; 0 to 1 for MTCNN.
        landmarks: (5, 2) in image pixels, in the order of the record's.
        parts: The detector's own points, (N, 2) in image pixels, where it has others.
    """

    box: NDArray[np.float64]
    score: float
    landmarks: NDArray[np.float64]
    parts: NDArray[np.float64] | None = None

    @property
    def side(self) -> float:
        """Geometric mean of the box's sides, pixels."""
        left, top, right, bottom = self.box
        return float(np.sqrt(max(right - left, 0.0) * max(bottom - top, 0.0)))


RULES = ("central", "largest", "overlap")


def choose(
    faces: Sequence[Face], width: int, height: int, rule: str = "central", known: NDArray[np.float64] | None = None
) -> Face:
    """One of the faces of an image.

    ``central`` takes the most central among those that are at least half as large as the largest: a portrait set is
    framed around its subject, bystanders are smaller, or at the edge. ``largest`` takes the largest, the more central
    of equals. ``overlap`` takes the one whose box has the most in common with a known box (intersection over union),
    and the central one where there is no known box or none that touches it.

    Args:
        faces: One face or more.
        width: Columns of the image.
        height: Rows of the image.
        rule: One of ``RULES``.
        known: (4,) left, top, right, bottom of the face that is meant, pixels.
    """
    centre = np.array([width - 1, height - 1]) / 2

    def distance(face: Face) -> float:
        return float(np.hypot(*((face.box[:2] + face.box[2:]) / 2 - centre)))

    if rule == "largest":
        return min(faces, key=lambda face: (-face.side, distance(face)))
    if rule == "overlap" and known is not None:
        shares = [overlap(face.box, known) for face in faces]
        if max(shares) > 0:
            return faces[int(np.argmax(shares))]
    largest = max(face.side for face in faces)
    return min((face for face in faces if face.side >= _SIZE_SHARE * largest), key=distance)


def overlap(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    common = float(np.prod(np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None)))
    areas = [float(np.prod(np.clip(box[2:] - box[:2], 0, None))) for box in (one, other)]
    return common / (sum(areas) - common) if common else 0.0
