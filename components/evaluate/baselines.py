"""What needs no learning: the cosine of raw pixels, by which a model's score is to be judged."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 128


def raw_pixels(pixels: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distances between unit vectors of pixels.

    Args:
        pixels: (N, H, W, 3) images.
        pairs: (M, 2) places of both images.

    Returns:
        (M,), 0 to 4.
    """
    return _distances(pixels, pairs, np.zeros(pixels.shape[1:]))


def raw_pixels_centred(pixels: NDArray[np.uint8], pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same after subtracting the mean image of the set, which is what all its faces have in common."""
    chunks = (pixels[begin : begin + _CHUNK] for begin in range(0, len(pixels), _CHUNK))
    total = sum((chunk.sum(axis=0, dtype=np.float64) for chunk in chunks), np.zeros(pixels.shape[1:]))
    return _distances(pixels, pairs, total / len(pixels))


def _distances(pixels: NDArray[np.uint8], pairs: NDArray[np.int64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    distances = []
    for begin in range(0, len(pairs), _CHUNK):
        places = pairs[begin : begin + _CHUNK]
        one, other = ((pixels[places[:, side]] - mean).reshape(len(places), -1) for side in (0, 1))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        distances.append(2 - 2 * np.einsum("nd,nd->n", one, other) / np.maximum(lengths, 1e-12))
    return np.concatenate(distances)
