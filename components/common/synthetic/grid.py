"""The texture grid: the front of the head, seen straight on, at a fixed number of texels per head unit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from faceflow.components.common.synthetic.arrays import Array, F
from faceflow.components.common.synthetic.paint import fill, stain

TEXELS = 64.0
"""Texels per head unit."""
HALF_WIDTH, HALF_HEIGHT = 1.25, 1.85
"""The grid covers |u| < HALF_WIDTH and |v| < HALF_HEIGHT."""
COLUMNS, ROWS = int(2 * HALF_WIDTH * TEXELS), int(2 * HALF_HEIGHT * TEXELS)
U: Array = (np.arange(COLUMNS, dtype=F) + F(0.5)) / F(TEXELS) - F(HALF_WIDTH)
V: Array = (np.arange(ROWS, dtype=F) + F(0.5)) / F(TEXELS) - F(HALF_HEIGHT)

_CORNER = np.array([HALF_WIDTH, HALF_HEIGHT]) * TEXELS - 0.5
_SOFTNESS_UNIT = TEXELS / 80
"""Softness of painted edges is given in eightieths of a head unit."""


def to_texels(points: Array) -> Array:
    """Head coordinates (N, 2) u, v to texture coordinates (N, 2) column, row."""
    return points * TEXELS + _CORNER


def paint(
    texture: Array, shapes: Sequence[Array], colour: ArrayLike, softness: float = 0.7, opacity: float = 1.0
) -> None:
    """Blend polygons, each (N, 2) u, v, into a texture (ROWS, COLUMNS, 3), in place; softness in 1/80 head units."""
    fill(texture, [to_texels(shape) for shape in shapes], colour, softness * _SOFTNESS_UNIT, opacity)


def mark(mask: Array, shapes: Sequence[Array], softness: float = 0.7, opacity: float = 1.0) -> None:
    """Raise a mask (ROWS, COLUMNS), in place, where the polygons lie; softness in 1/80 head units."""
    stain(mask, [to_texels(shape) for shape in shapes], softness * _SOFTNESS_UNIT, opacity)


def bumps(rows: Sequence[tuple[float, float, float, float, float]]) -> Array:
    """A sum of Gaussian bumps (height, u, v, spread in u, spread in v) on the grid: (ROWS, COLUMNS)."""
    height, u, v, spread_u, spread_v = np.array(rows, F).T[:, :, None]
    down = height * np.exp(-(((V - v) / spread_v) ** 2))
    across = np.exp(-(((U - u) / spread_u) ** 2))
    total: Array = down.T @ across
    return total
