"""Perceptual hashes: numbers that stay nearly the same when a picture is compressed, resized or slightly cropped.

The hash is that of the discrete cosine transform (Zauner, Implementation and Benchmarking of Perceptual Image Hash
Functions, 2010): grey, reduced, and of the lowest frequencies, without the constant ones, whether each is above their
median. It takes 16 x 16 frequencies of 64 x 64 pixels instead of the usual 8 x 8 of 32 x 32: aligned faces are alike in
the lowest ones, and 64 bits take several times as many photographs of one person for copies. Cropping moves every
frequency, so a picture is hashed whole and without two margins, and two pictures are compared whole against each of the
other's three.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

BITS = 256
MARGINS = (0.0, 0.02, 0.04)
"""Fractions of width and height that are left out on every side."""

_SIDE, _FREQUENCIES = 64, 16


def perceptual_hashes(image: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash a picture.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (3, 4) words of the hashes, one row for each of :data:`MARGINS`.
    """
    grey = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)
    height, width = grey.shape
    hashes = []
    for margin in MARGINS:
        rows, columns = round(margin * height), round(margin * width)
        part = grey[rows : height - rows, columns : width - columns]
        small = cv2.resize(part, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
        low = cv2.dct(small)[1 : _FREQUENCIES + 1, 1 : _FREQUENCIES + 1].ravel()
        hashes.append(np.packbits(low > np.median(low), bitorder="little").view(np.uint64))
    return np.stack(hashes)


def distances(one: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bits by which a picture differs from each of several others.

    Args:
        one: (3, 4) hashes of a picture.
        others: (N, 3, 4) hashes.

    Returns:
        (N,), the smallest distance of one whole picture to the other, whole or without a margin.
    """
    forth = np.bitwise_count(one[0] ^ others).sum(2, dtype=np.int64).min(1)
    back = np.bitwise_count(one ^ others[:, :1]).sum(2, dtype=np.int64).min(1)
    return np.asarray(np.minimum(forth, back), np.int64)
