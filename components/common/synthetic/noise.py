"""Tiles of noise that every picture cuts random windows from: drawing noise afresh would take most of the time."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import cv2
import numpy as np

from faceflow.components.common.synthetic.arrays import Array, F

Kind = Literal["white", "blotches", "strands"]
LARGEST = 512
"""Side of the largest window, in pixels."""


@lru_cache(maxsize=1)
def _tiles() -> dict[Kind, Array]:
    side = LARGEST
    white = np.tile(np.random.default_rng(20240229).standard_normal((side, side), dtype=F), (3, 3))
    wide, fine, long = (
        cv2.GaussianBlur(white, (0, 0), sigmaX=across, sigmaY=down) for across, down in ((5, 5), (1.5, 1.5), (1.2, 20))
    )
    inner = slice(side // 2, side // 2 + 2 * side)  # away from the border, so that the tile repeats without a seam
    wide, fine, long = ((layer / layer.std())[inner, inner] for layer in (wide, fine, long))
    return {"white": white[: 2 * side, : 2 * side], "blotches": F(0.85) * wide + F(0.5) * fine, "strands": long}


def tile(kind: Kind) -> Array:
    """The whole (1024, 1024) tile of a kind, of about unit variance; it repeats every 512 pixels."""
    return _tiles()[kind]


def window(kind: Kind, rng: np.random.Generator, height: int, width: int) -> Array:
    """A (height, width) window, at most 512 each way, at a random place of a tile; it is shared: do not write to it."""
    y, x = rng.integers(0, LARGEST, 2)
    return _tiles()[kind][y : y + height, x : x + width]
