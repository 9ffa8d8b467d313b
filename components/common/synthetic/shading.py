"""Light on surfaces: Lambert's cosine, cast shadows, ambient occlusion."""

from __future__ import annotations

import cv2
import numpy as np

from faceflow.components.common.synthetic import grid
from faceflow.components.common.synthetic.arrays import Array, F, smoothstep
from faceflow.components.common.synthetic.shape import Shape

_COARSENESS = 4
_STEPS = (0.08, 0.15, 0.24, 0.35, 0.5)


def cosines(normal: tuple[Array, Array, Array], *directions: Array) -> list[Array]:
    """Cosines (H, W) between normals of any length and unit directions (3,)."""
    u, v, z = normal
    inverse = 1 / np.sqrt(u * u + v * v + z * z + F(1e-6))
    return [(u * d[0] + v * d[1] + z * d[2]) * inverse for d in directions]


def highlight(cosine: Array, doublings: int) -> Array:
    """Blinn and Phong's highlight: the cosine to the halfway vector, raised by repeated squaring."""
    shine = np.maximum(0, cosine)
    for _ in range(doublings):
        shine = shine * shine
    return shine


def lit(shape: Shape, light: Array, hairline: float) -> Array:
    """How much light reaches the front of a head: shadow it casts on itself, its creases, and the shade of its hair.

    The shadow comes from marching a coarse height map towards the lamp.

    Args:
        shape: The head.
        light: (3,) Towards the lamp, in the head's frame.
        hairline: v of the hairline over the forehead.

    Returns:
        (ROWS, COLUMNS), 0..1.
    """
    size = (grid.COLUMNS // _COARSENESS, grid.ROWS // _COARSENESS)
    front, relief = (cv2.resize(m, size, interpolation=cv2.INTER_AREA) for m in (shape.front, shape.relief))
    texels = grid.TEXELS / _COARSENESS
    blocked = np.zeros_like(front)
    for step in _STEPS:
        shift = np.array([[1, 0, step * light[0] * texels], [0, 1, step * light[1] * texels]], F)
        ahead = cv2.warpAffine(front, shift, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        blocked = np.maximum(blocked, ahead - F(step * max(float(light[2]), 0.15)) - front)
    reached = 1 - 0.75 * cv2.GaussianBlur(smoothstep(blocked, 0.0, 0.06), (0, 0), 0.8)
    reached *= 1 - np.clip(2.2 * (cv2.GaussianBlur(relief, (0, 0), 2.4) - relief), 0, 0.45)
    under_hair = 1 - 0.45 * smoothstep(grid.V, hairline + 0.22, hairline - 0.02)
    shaded: Array = cv2.resize(reached, (grid.COLUMNS, grid.ROWS)) * under_hair[:, None]
    return shaded
