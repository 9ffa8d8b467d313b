"""The random numbers of one operation on one image.

They are made from the raw bits of a generator whose stream NumPy guarantees, not by NumPy's distributions, whose
values may change from one version to the next; a table makes the normal ones several times as fast besides.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.hashing import stable_hash

_LEVELS = 1 << 16


class Noise:
    """Random numbers that depend on the parts it is made of alone, whichever worker draws them.

    Args:
        *parts: The seed, and what the numbers are for.
    """

    def __init__(self, *parts: str | int | bytes) -> None:
        """Note the parts; a generator is made when the first number is asked for."""
        self._parts = parts
        self._bits: np.random.SFC64 | None = None

    def _raw(self, count: int) -> NDArray[np.uint64]:
        if self._bits is None:
            self._bits = np.random.SFC64(stable_hash(*self._parts))
        return np.asarray(self._bits.random_raw(count))

    def uniform(self, *shape: int) -> NDArray[np.float32]:
        """Numbers from 0 to 1, 1 excluded, in steps of 2**-24."""
        count = prod(shape)
        words = self._raw(-(-count // 2)).view(np.uint32)[:count]
        numbers = (words >> np.uint32(8)).astype(np.float32)
        numbers *= np.float32(2**-24)
        return numbers.reshape(shape)

    def normal(self, *shape: int, sigma: float) -> NDArray[np.int16]:
        """Whole numbers, normally distributed about 0 and rounded; at most 4.3 standard deviations.

        Args:
            *shape: How many.
            sigma: Standard deviation.
        """
        count = prod(shape)
        words = self._raw(-(-count // 4)).view(np.uint16)[:count]
        # NumPy would turn the words into indices of eight bytes each before it looks them up.
        return np.asarray(cv2.LUT(words.reshape(1, -1), _normal_table(sigma)), np.int16).reshape(shape)


@lru_cache(maxsize=1)
def _quantiles() -> NDArray[np.float64]:
    """The standard normal distribution's quantiles in the middle of 65,536 equal shares."""
    upper = np.array([NormalDist().inv_cdf((share + 0.5) / _LEVELS) for share in range(_LEVELS // 2, _LEVELS)])
    return np.concatenate([-upper[::-1], upper])


@lru_cache(maxsize=16)
def _normal_table(sigma: float) -> NDArray[np.int16]:
    return np.rint(_quantiles() * sigma).astype(np.int16).reshape(1, -1)
