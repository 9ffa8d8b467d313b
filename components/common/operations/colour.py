"""Operations on colour and light."""

from __future__ import annotations

import cv2
import numpy as np

from faceflow.components.common.operations.noise import Noise
from faceflow.components.common.operations.registry import Image, operation


@operation(hue=(0, 180), saturation=(0, 1), value=(0, 1))
def hsv(image: Image, noise: Noise, *, hue: float = 10.0, saturation: float = 0.3, value: float = 0.2) -> Image:
    """Shift the hue by up to ``hue`` degrees; scale saturation and value by up to those fractions, each at random."""
    turn, deeper, lighter = (2 * noise.uniform(3) - 1) * np.array([hue, saturation, value], np.float32)
    channels = cv2.cvtColor(image.astype(np.float32) * np.float32(1 / 255), cv2.COLOR_RGB2HSV)
    channels[..., 0] = (channels[..., 0] + turn) % 360
    channels[..., 1] = np.minimum(channels[..., 1] * (1 + deeper), 1)
    channels[..., 2] = np.minimum(channels[..., 2] * (1 + lighter), 1)
    return np.rint(cv2.cvtColor(channels, cv2.COLOR_HSV2RGB) * 255).astype(np.uint8)


@operation(amount=(0.01, 1))
def brightness(image: Image, noise: Noise, *, amount: float = 0.4) -> Image:
    """Multiply the light by a random factor within ``amount`` of 1."""
    factor = 1 + (2 * noise.uniform(1) - 1) * np.float32(amount)
    return _by_level(image, np.arange(256, dtype=np.float32) * factor)


@operation(amount=(0.01, 1))
def contrast(image: Image, noise: Noise, *, amount: float = 0.5) -> Image:
    """Stretch or squeeze the levels about the image's mean by a random factor within ``amount`` of 1."""
    factor = 1 + (2 * noise.uniform(1) - 1) * np.float32(amount)
    mean = np.float32(image.mean())
    return _by_level(image, (np.arange(256, dtype=np.float32) - mean) * factor + mean)


def _by_level(image: Image, levels: np.ndarray[tuple[int], np.dtype[np.float32]]) -> Image:
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table), np.uint8)


@operation()
def grey(image: Image, noise: Noise) -> Image:
    """Take the colour away (luma of ITU-R BT.601)."""
    return np.asarray(cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB), np.uint8)
