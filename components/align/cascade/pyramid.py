"""The image pyramid that the first network searches: which levels, and how an image is shrunk to them.

Levels are those of the ``mtcnn`` package. Its scales are ``12 / 20 * 0.709 ** i``; their number is counted from the
image's shorter side alone, rounded; a level's sides are ``floor(side * scale)``, while boxes found on it are carried
back by the nominal scale. Searching for large faces only means leaving out the first levels, and changes nothing about
the others; starting from another smallest face would shift them all, and with them every landmark by 1 to 2 % of the
distance between the eyes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy import sparse

SMALLEST_PX = 20
CELL_PX = 12
_FACTOR = 0.709
_ALONE_PX = 10_000


@dataclass(frozen=True)
class Level:
    """One level of a pyramid.

    Attributes:
        scale: Nominal scale: a pixel of the level is ``1 / scale`` pixels of the image.
        height: Rows.
        width: Columns.
    """

    scale: float
    height: int
    width: int


def levels(height: int, width: int, smallest_share: float) -> tuple[Level, ...]:
    """The levels on which an image is searched.

    Level *i* finds faces from ``20 / 0.709 ** i`` pixels on. Left out are the levels before the last one that still
    finds every face of the smallest size wanted.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        smallest_share: Side of the smallest face wanted, as a share of the image's shorter side. With 0, all levels.

    Returns:
        The levels, largest first; none for an image that is too small to be searched.
    """
    shorter = min(height, width)
    count = round(-(math.log(shorter / CELL_PX) / math.log(_FACTOR) + 1))
    scales = [CELL_PX / SMALLEST_PX * _FACTOR**i for i in range(count)]
    needless = sum(CELL_PX / scale <= smallest_share * shorter for scale in scales[1:])
    return tuple(Level(scale, int(height * scale), int(width * scale)) for scale in scales[needless:])


def sheets(levels: Sequence[Level]) -> list[tuple[Level, ...]]:
    """Divide levels into those that share a canvas.

    A large level has its own. Small ones are put together: an eighth more would be computed if all were, in the gaps
    and across the borders, but a run of the network for each would cost more than that.
    """
    large = [level for level in levels if level.height * level.width >= _ALONE_PX]
    small = tuple(levels[len(large) :])
    return [(level,) for level in large] + ([small] if small else [])


class Pyramid:
    """Shrinks images of one size to some levels, side by side on one canvas, by exact area averages in float32.

    All rows of all levels are made by one sparse matrix, and the columns of each level by a resize. Averages of
    averages, or levels of 8 bits, would cost 0.3 to 2.2 % of the distance between the eyes in the landmarks.

    On the canvas levels begin at even rows and columns, where the first network's cells begin, and an odd side gets its
    last pixels twice. There the package's network sees nothing, which matters to the outermost cells alone.

    Args:
        height: Rows of the images.
        width: Columns of the images.
        levels: The levels; one or more.

    Attributes:
        levels: The levels.
        corners: (top, left) of each level on the canvas.
        canvas: Rows and columns of the canvas.
    """

    def __init__(self, height: int, width: int, levels: tuple[Level, ...]) -> None:
        """Lay out the canvas and prepare the matrix."""
        self.levels = levels
        sizes = [(_up(level.height, 2), _up(level.width, 2)) for level in levels]
        self.corners, (down, across) = _arranged(sizes)
        # Code is generated for each size of a canvas: similar images had better share one.
        self.canvas = (_up(down, 8), _up(across, 8))
        self._shape = (height, width)
        self._rows = sparse.vstack([_area_weights(height, level.height) for level in levels], format="csr")
        self._ends = np.cumsum([level.height for level in levels])

    def draw(self, pixels: NDArray[np.float32], canvas: NDArray[np.float32]) -> None:
        """Shrink an image.

        Args:
            pixels: (height, width, 3).
            canvas: (rows, columns, 3), drawn onto; what is between the levels stays as it is.
        """
        height, width = self._shape
        rows = np.asarray(self._rows @ pixels.reshape(height, width * 3)).reshape(-1, width, 3)
        for end, level, (top, left) in zip(self._ends, self.levels, self.corners, strict=True):
            bottom, right = top + level.height, left + level.width
            size = (level.width, level.height)
            shrunk = rows[end - level.height : end]
            cv2.resize(shrunk, size, canvas[top:bottom, left:right], interpolation=cv2.INTER_AREA)
            if level.height % 2:
                canvas[bottom, left:right] = canvas[bottom - 1, left:right]
            if level.width % 2:
                canvas[top : _up(bottom, 2), right] = canvas[top : _up(bottom, 2), right - 1]


def _up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple


def _arranged(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Place rectangles on a canvas as high as the first one, each in the smallest gap that it fits in.

    Args:
        sizes: (height, width), the largest first.

    Returns:
        (top, left) of each, and the canvas's height and width. Levels of a pyramid fill nine tenths of it.
    """
    tallest, across = sizes[0][0], 0
    gaps: list[tuple[int, int, int, int]] = []
    corners = []
    for height, width in sizes:
        fitting = [gap for gap in gaps if gap[2] >= height and gap[3] >= width]
        if fitting:
            gap = min(fitting, key=lambda gap: gap[2] * gap[3])
            gaps.remove(gap)
        else:
            gap = (0, across, tallest, width)
            across += width
        top, left, room_down, room_across = gap
        corners.append((top, left))
        gaps.append((top, left + width, height, room_across - width))
        gaps.append((top + height, left, room_down - height, room_across))
    return corners, (tallest, across)


def _area_weights(size: int, smaller: int) -> sparse.csr_matrix:
    """(smaller, size) matrix whose row *k* averages the stretch from ``k`` to ``k + 1`` times ``size / smaller``."""
    edges = np.arange(smaller + 1) * (size / smaller)
    first = np.floor(edges[:-1]).astype(np.int64)
    reach = int(np.ceil(size / smaller)) + 1
    columns = first[:, np.newaxis] + np.arange(reach)
    covered = np.minimum(edges[1:, np.newaxis], columns + 1) - np.maximum(edges[:-1, np.newaxis], columns)
    weights = np.where(columns < size, np.maximum(covered, 0), 0) * (smaller / size)
    rows = np.repeat(np.arange(smaller), reach)
    used = weights.ravel() > 0
    entries = (weights.ravel()[used].astype(np.float32), (rows[used], columns.ravel()[used]))
    return sparse.csr_matrix(entries, shape=(smaller, size))
