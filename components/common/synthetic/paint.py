"""Soft-edged shapes: polygons, rings and strokes, blended into pictures, textures and masks.

Colours meet masks in OpenCV: NumPy's broadcasting over a trailing axis of three is several times slower.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import cv2
import numpy as np
from numpy.typing import ArrayLike

from faceflow.components.common.synthetic.arrays import Array, F

_MIRROR = np.array([-1.0, 1.0])
_SUBPIXEL_BITS = 4
_SHARP = 0.3
"""Below this softness, in pixels, antialiasing is blur enough."""


def blend(target: Array, source: ArrayLike, alpha: Array) -> None:
    """Blend a colour (3,) or a picture (H, W, 3) into target (H, W, 3), in place, with alpha (H, W)."""
    colour = np.asarray(source, F)
    missing = cv2.subtract(colour, target)  # OpenCV takes as many numbers as there are channels for one colour
    cv2.accumulateProduct(missing, cv2.merge([alpha] * 3), target)


def shape_mask(
    polygons: Sequence[Array], height: int, width: int, softness: float, opacity: float = 1.0
) -> tuple[tuple[slice, slice], Array] | None:
    """Rasterize polygons (even-odd rule) with soft edges.

    Args:
        polygons: Each (N, 2) x, y in pixels.
        height: Height of the picture they lie in.
        width: Its width.
        softness: Standard deviation of the edge, in pixels.
        opacity: What full coverage counts.

    Returns:
        The window of the picture that the shapes touch, and their coverage (h, w) in 0..opacity there; None outside.
    """
    corners = polygons[0] if len(polygons) == 1 else np.concatenate(polygons)
    margin = int(3 * softness) + 2
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    x0, y0 = max(0, int(left) - margin), max(0, int(top) - margin)
    x1, y1 = min(width, int(right) + margin + 1), min(height, int(bottom) + margin + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    fixed = ((corners - (x0, y0)) * (1 << _SUBPIXEL_BITS) + 0.5).astype(np.int32)
    ends = list(accumulate(len(polygon) for polygon in polygons))
    mask: Array = np.zeros((y1 - y0, x1 - x0), np.uint8)
    pieces = [fixed[end - len(polygon) : end] for polygon, end in zip(polygons, ends, strict=True)]
    cv2.fillPoly(mask, pieces, (255,), cv2.LINE_AA, _SUBPIXEL_BITS)
    if softness > _SHARP:
        mask = cv2.GaussianBlur(mask, (0, 0), softness)
    coverage: Array = mask * F(opacity / 255)
    return (slice(y0, y1), slice(x0, x1)), coverage


def fill(
    target: Array, polygons: Sequence[Array], source: ArrayLike, softness: float = 0.0, opacity: float = 1.0
) -> None:
    """Blend soft-edged polygons into a picture (H, W, 3), in place.

    Args:
        target: The picture.
        polygons: Each (N, 2) x, y in pixels; even-odd rule.
        source: A colour (3,), a row of colours (W, 3) or a picture (H, W, 3).
        softness: Standard deviation of the edge, in pixels.
        opacity: 0 (nothing is seen) to 1.
    """
    found = shape_mask(polygons, target.shape[0], target.shape[1], softness, opacity)
    if found is not None:
        where, coverage = found
        colour = np.asarray(source, F)
        if colour.ndim > 1:
            colour = np.broadcast_to(colour, target.shape)[where]
        blend(target[where], colour, coverage)


def stain(target: Array, polygons: Sequence[Array], softness: float = 0.0, opacity: float = 1.0) -> None:
    """Raise a mask (H, W), in place, to the polygons' coverage times the opacity."""
    found = shape_mask(polygons, target.shape[0], target.shape[1], softness, opacity)
    if found is not None:
        where, coverage = found
        np.maximum(target[where], coverage, out=target[where])


def ring(
    x: float,
    y: float,
    radius_x: float,
    radius_y: float,
    corners: int = 24,
    squareness: float = 1.0,
    turn: float = 0.0,
) -> Array:
    """An ellipse as a polygon (corners, 2).

    Args:
        x: Centre.
        y: Centre.
        radius_x: Half axis.
        radius_y: Half axis.
        corners: How many corners the polygon has.
        squareness: Exponent of the superellipse: 1 is an ellipse, below 1 a rounded rectangle.
        turn: Rotation, in radians.
    """
    c, s = np.cos(turn), np.sin(turn)
    polygon: Array = _circle(corners, squareness) * (radius_x, radius_y) @ np.array([[c, s], [-s, c]]) + (x, y)
    return polygon


@lru_cache(maxsize=64)
def _circle(corners: int, squareness: float) -> Array:
    angle = np.arange(corners) * (2 * np.pi / corners)
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    rounded: Array = np.abs(circle) ** squareness * np.sign(circle)
    return rounded


def stroke(x: Array, y: Array, half_x: ArrayLike, half_y: ArrayLike) -> Array:
    """A line (N,), (N,) widened by (half_x, half_y) to both sides, as a polygon (2N, 2)."""
    count = len(x)
    polygon = np.empty((2 * count, 2))
    polygon[:count, 0], polygon[:count, 1] = x - half_x, y - half_y
    polygon[: count - 1 : -1, 0], polygon[: count - 1 : -1, 1] = x + half_x, y + half_y
    return polygon


def mirrored(polygon: Array) -> list[Array]:
    """A polygon and its mirror image about x = 0."""
    return [polygon * _MIRROR, polygon]
