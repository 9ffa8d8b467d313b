"""The renderer's array type and the one curve that everything fades along."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Float32 unless a docstring says otherwise: OpenCV's stubs cannot tell its float images from its byte images."""

F = np.float32


def smoothstep(x: Array | float, start: float, end: float) -> Array:
    """The cubic that runs from 0 at start to 1 at end; start may lie above end."""
    t = np.clip((np.asarray(x, F) - F(start)) * F(1 / (end - start)), 0, 1)
    curve: Array = t * t * (3 - 2 * t)
    return curve
