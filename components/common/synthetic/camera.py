"""The camera: from linear light to the bytes of a photograph."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.synthetic import noise
from faceflow.components.common.synthetic.arrays import Array, F


def photograph(canvas: Array, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Expose, balance, blur, grain and, half the time, compress a canvas (H, W, 3) of linear light to RGB bytes."""
    balance = np.diag(rng.uniform(0.7, 1.4) * (1 + rng.normal(0, 0.05, 3))).astype(F)
    picture = cv2.transform(canvas, balance)
    picture = cv2.GaussianBlur(picture, (0, 0), float(0.2 + abs(rng.normal(0, 0.5))) * len(canvas) / 250)
    grain = F(rng.uniform(0.5, 5.0)) * noise.window("white", rng, *canvas.shape[:2])
    bright = cv2.sqrt(np.maximum(picture, 0))  # the square root stands for the display's gamma
    bright = np.minimum(bright, 1) * F(255)
    shown = np.asarray(cv2.add(bright, cv2.merge([grain] * 3), dtype=cv2.CV_8U), np.uint8)
    return decode(encode_jpeg(shown, int(rng.integers(45, 90)))) if rng.uniform() < 0.5 else shown
