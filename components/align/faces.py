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
        score: The detector's confidence, 0 to 1.
        landmarks: (5, 2) in image pixels, in the order of the record's.
    """

    box: NDArray[np.float64]
    score: float
    landmarks: NDArray[np.float64]

    @property
    def side(self) -> float:
        """Geometric mean of the box's sides, pixels."""
        left, top, right, bottom = self.box
        return float(np.sqrt(max(right - left, 0.0) * max(bottom - top, 0.0)))


def choose(faces: Sequence[Face], width: int, height: int) -> Face:
    """The most central among the faces that are at least half as large as the largest.

    A portrait set is framed around its subject: bystanders are smaller, or at the edge.

    Args:
        faces: One face or more.
        width: Columns of the image.
        height: Rows of the image.
    """
    largest = max(face.side for face in faces)
    centre = np.array([width - 1, height - 1]) / 2

    def distance(face: Face) -> float:
        return float(np.hypot(*((face.box[:2] + face.box[2:]) / 2 - centre)))

    return min((face for face in faces if face.side >= _SIZE_SHARE * largest), key=distance)
