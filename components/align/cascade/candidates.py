"""Boxes on their way through the cascade: from the cells of the first network to squares, crops and corrected boxes.

The arithmetic is that of the ``mtcnn`` package. Its sides are sometimes ``right - left`` and sometimes one more; both
are kept as they are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.cascade.pyramid import CELL_PX, Pyramid

_STRIDE = 2
_OUTSIDE = -1e4
_NEUTRAL = 127.5
_REMAPPED_AT_ONCE = 512  # OpenCV draws at most 32,767 rows


@dataclass(frozen=True)
class Cells:
    """The cells of the first network, for all levels of a pyramid one after the other, row by row.

    Attributes:
        place: (C,) place in the network's output for the canvas, counted row by row.
        left: (C,) left side of the cell in its level's pixels.
        top: (C,) top side.
        scale: (C,) the level's nominal scale.
        level: (C,) the level's number.
    """

    place: NDArray[np.intp]
    left: NDArray[np.float64]
    top: NDArray[np.float64]
    scale: NDArray[np.float64]
    level: NDArray[np.int64]

    def boxes(self, chosen: NDArray[np.intp], offsets: NDArray[np.float32]) -> NDArray[np.float64]:
        """The boxes that chosen cells propose.

        Args:
            chosen: (N,) places of the cells.
            offsets: (4, N) what the network says of left, top, right and bottom, in sides of a cell.

        Returns:
            (N, 4) left, top, right, bottom in pixels of the image.
        """
        left, top = self.left[chosen], self.top[chosen]
        side = CELL_PX - 1
        corners = np.stack([left, top, left + side, top + side]) + offsets * np.float64(side)
        return np.asarray((corners / self.scale[chosen]).T)


def cells(pyramid: Pyramid, first: int = 0) -> Cells:
    """The cells of a pyramid: one every two pixels, from pixel 1 to 12 for the first.

    A level has ``ceil((side - 2) / 2) - 4`` of them each way: a 3x3 window, halved with an odd one kept, and two more
    3x3 windows.

    Args:
        pyramid: The pyramid.
        first: The number of its first level.
    """
    parts = []
    for number, (level, (above, before)) in enumerate(zip(pyramid.levels, pyramid.corners, strict=True), first):
        rows, columns = ((side - 1) // _STRIDE - 4 for side in (level.height, level.width))
        row, column = np.divmod(np.arange(rows * columns), columns)
        place = (row + above // _STRIDE) * output_columns(pyramid) + column + before // _STRIDE
        numbers = np.full(len(row), number)
        scales = np.full(len(row), level.scale)
        parts.append(Cells(place, column * _STRIDE + 1.0, row * _STRIDE + 1.0, scales, numbers))
    return Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in Cells.__dataclass_fields__))


def output_columns(pyramid: Pyramid) -> int:
    """Columns of what the first network makes of a pyramid's canvas."""
    return (pyramid.canvas[1] - 1) // _STRIDE - 4


def corrected(boxes: NDArray[np.float64], offsets: NDArray[np.float32]) -> NDArray[np.float64]:
    """Move the sides of (N, 4) boxes by (N, 4) offsets, given in sides of the box counted in pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    return boxes + offsets * np.tile(sides, 2)


def squared(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Grow the shorter sides of (N, 4) boxes about the middle, so that they become squares."""
    sides = boxes[:, 2:] - boxes[:, :2]
    longer = sides.max(1, keepdims=True)
    start = boxes[:, :2] + sides * 0.5 - longer * 0.5
    return np.concatenate([start, start + longer], 1)


def landmarks_of(boxes: NDArray[np.float64], shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """The landmarks that the last network puts into boxes.

    Args:
        boxes: (N, 4) the squares that it was shown.
        shares: (N, 10) five x, then five y, in sides of the square.

    Returns:
        (N, 5, 2) in pixels of the image.
    """
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    points = shares.reshape(-1, 2, 5) * sides[..., np.newaxis] + boxes[:, :2, np.newaxis] - 1
    return np.asarray(points.transpose(0, 2, 1))


def crops(
    images: Sequence[NDArray[np.float32]], owners: NDArray[np.int64], boxes: NDArray[np.float64], side: int
) -> NDArray[np.float32]:
    """Draw boxes at one size, bilinearly, by one remap an image.

    The package hands its boxes to ``tf.image.crop_and_resize`` in shares of the image's side, which that function takes
    for shares of the side less one; points outside the image are neutral grey, however near its border.

    Args:
        images: (H, W, 3) each, 0 to 255.
        owners: (N,) places of the boxes' images, in ascending order.
        boxes: (N, 4).
        side: Rows and columns of a crop.

    Returns:
        (N, side, side, 3).
    """
    drawn = np.empty((len(boxes), side, side, 3), np.float32)
    sizes = np.array([image.shape[1::-1] for image in images], np.float64)[owners]
    steps = np.arange(side) / (side - 1)
    points = (boxes[:, :2, np.newaxis] + (boxes[:, 2:] - boxes[:, :2])[..., np.newaxis] * steps) * (
        (sizes - 1) / sizes
    )[..., np.newaxis]
    inside = (points >= 0) & (points <= (sizes - 1)[..., np.newaxis])
    points = np.where(inside, points, _OUTSIDE).astype(np.float32)
    across = np.repeat(points[:, 0, np.newaxis, :], side, axis=1).reshape(-1, side)
    down = np.repeat(points[:, 1, :, np.newaxis], side, axis=2).reshape(-1, side)
    used, starts = np.unique(owners, return_index=True)
    for owner, first, last in zip(used, starts, np.append(starts[1:], len(boxes)), strict=True):
        for begin in range(first, last, _REMAPPED_AT_ONCE):
            end = min(last, begin + _REMAPPED_AT_ONCE)
            rows = slice(begin * side, end * side)
            cv2.remap(
                images[owner], across[rows], down[rows], cv2.INTER_LINEAR, drawn[begin:end].reshape(-1, side, 3),
                borderMode=cv2.BORDER_CONSTANT, borderValue=(_NEUTRAL, _NEUTRAL, _NEUTRAL),
            )  # fmt: skip
    return drawn
