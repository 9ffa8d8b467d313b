"""Operations that hide a part of the face."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.operations.noise import Noise
from faceflow.components.common.operations.registry import Image, operation

MIDDLE_GREY = 128
MASK_COLOURS: NDArray[np.float32] = np.array([(146, 196, 222), (233, 237, 240), (44, 46, 52)], np.float32)
"""Surgical blue, white and black."""


@operation(size=(0.05, 0.9))
def cutout(image: Image, noise: Noise, *, size: float = 0.4) -> Image:
    """Cover a square at a random place, its side the fraction ``size`` of the shorter one (DeVries & Taylor, 2017)."""
    height, width = image.shape[:2]
    side = max(1, round(size * min(height, width)))
    top, left = (noise.uniform(2) * np.array([height - side + 1, width - side + 1], np.float32)).astype(int)
    changed = image.copy()
    changed[top : top + side, left : left + side] = MIDDLE_GREY
    return changed


@operation(height=(0.2, 0.6))
def mask(image: Image, noise: Noise, *, height: float = 0.42) -> Image:
    """Cover nose and mouth, the lower part ``height`` of an aligned face, with a surgical mask of a random colour.

    The default fits the arcface templates; on openface's, which show the face larger, 0.5 reaches the nose.
    """
    which, light = noise.uniform(2)
    colour = MASK_COLOURS[int(which * len(MASK_COLOURS))] * (np.float32(0.8) + np.float32(0.3) * light)
    cloth, cover = mask_cloth(*image.shape[:2], height)
    return np.asarray(np.rint(image + (np.minimum(cloth * colour, 255) - image) * cover), np.uint8)


@lru_cache(maxsize=8)
def mask_cloth(rows: int, columns: int, height: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A mask over an aligned face, by the proportions that the alignment templates share.

    The upper edge runs over the nose and falls towards the ears, the sides narrow towards the chin, three pleats run
    across, and the cloth darkens where it turns away.

    Args:
        rows: Rows of the image.
        columns: Columns of the image.
        height: Fraction of the rows that the mask covers in the middle.

    Returns:
        Shade of the cloth and how much it covers, both (rows, columns, 1), 0 to 1.
    """
    y, x = np.mgrid[:rows, :columns].astype(np.float64)
    across = np.abs(x - (columns - 1) / 2) / rows  # templates of another width show the same face
    down = (y + 0.5) / rows - (1 - height)
    side = 0.40 - 0.12 * np.clip(down / height, 0, 1) ** 2
    edge = np.minimum((down - 0.9 * across**2) * rows, (side - across) * rows)
    cover = np.clip(edge + 0.5, 0, 1)
    pleats = sum(np.exp(-(((down / height - place) * height * rows / 0.8) ** 2)) for place in (0.4, 0.55, 0.7))
    shade = 1 - 0.25 * (across / 0.4) ** 2 - 0.12 * pleats * (across < 0.3)
    return np.asarray(shade[..., None], np.float32), np.asarray(cover[..., None], np.float32)
