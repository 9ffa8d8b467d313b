"""Operations that move pixels."""

from __future__ import annotations

import cv2
import numpy as np

from faceflow.components.common.operations.noise import Noise
from faceflow.components.common.operations.registry import Image, operation


@operation()
def flip(image: Image, noise: Noise) -> Image:
    """Mirror left and right."""
    return np.asarray(cv2.flip(image, 1), np.uint8)


@operation(degrees=(0.5, 180))
def rotate(image: Image, noise: Noise, *, degrees: float = 15.0) -> Image:
    """Turn about the middle by a random angle of up to ``degrees``; what comes in from outside is mirrored."""
    height, width = image.shape[:2]
    angle = float(2 * noise.uniform(1)[0] - 1) * degrees
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1)
    turned = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(turned, np.uint8)
