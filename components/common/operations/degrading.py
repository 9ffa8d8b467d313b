"""Operations that take from an image what a worse camera, lens or network would."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.operations.noise import Noise
from faceflow.components.common.operations.registry import Image, operation


@operation(size=(2, 31))
def opening(image: Image, noise: Noise, *, size: int = 5) -> Image:
    """Morphological opening: removes light spots smaller than a square of ``size`` pixels.

    Erosion then dilation of each channel, the border taken as absent (Serra, Image Analysis and Mathematical
    Morphology, 1982).
    """
    square = np.ones((size, size), np.uint8)
    near, far = size // 2, size - 1 - size // 2
    # cv2.morphologyEx dilates about the anchor that it eroded about, which moves the image where the size is even.
    eroded = cv2.erode(image, square, anchor=(near, near))
    return np.asarray(cv2.dilate(eroded, square, anchor=(far, far)), np.uint8)


@operation(sigma=(0.1, 128))
def gaussian_noise(image: Image, noise: Noise, *, sigma: float = 10.0) -> Image:
    """Additive Gaussian noise of standard deviation ``sigma`` grey levels, drawn for each pixel and channel."""
    return np.asarray(cv2.add(image, noise.normal(*image.shape, sigma=sigma), dtype=cv2.CV_8U), np.uint8)


@operation(fraction=(0.0001, 1))
def salt_pepper(image: Image, noise: Noise, *, fraction: float = 0.02) -> Image:
    """Salt-and-pepper noise: each pixel turns white or black, each with half the probability ``fraction``."""
    draw = noise.uniform(*image.shape[:2]).ravel()
    changed = image.copy()
    pixels = changed.reshape(-1, 3)
    pixels[np.flatnonzero(draw < np.float32(fraction / 2))] = 0
    pixels[np.flatnonzero(draw >= np.float32(1 - fraction / 2))] = 255
    return changed


@operation(sigma=(0.3, 5))
def blur(image: Image, noise: Noise, *, sigma: float = 1.5) -> Image:
    """Gaussian blur of standard deviation ``sigma`` pixels, as from a lens out of focus."""
    kernel = gaussian_kernel(sigma)
    return np.asarray(cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


@lru_cache(maxsize=16)
def gaussian_kernel(sigma: float) -> NDArray[np.float32]:
    """Weights of a Gaussian out to three standard deviations, (2 * ceil(3 * sigma) + 1,), their sum 1."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return np.asarray(weights / weights.sum(), np.float32)


@operation(length=(2, 31))
def motion_blur(image: Image, noise: Noise, *, length: float = 9.0) -> Image:
    """Blur along a line of ``length`` pixels in a random direction, as from a camera that moved."""
    angle = np.pi * float(noise.uniform(1)[0])
    x, y = motion_grid(length)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    kernel = np.clip(length / 2 + 0.5 - np.abs(along), 0, 1) * np.clip(1 - np.abs(across), 0, 1)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return np.asarray(cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REFLECT_101), np.uint8)


@lru_cache(maxsize=16)
def motion_grid(length: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Columns and rows, counted from the middle, of a square that holds a line of so many pixels at any angle."""
    reach = int(np.ceil(length / 2 + 0.5)) - 1
    places = np.arange(-reach, reach + 1, dtype=np.float32)
    x, y = np.meshgrid(places, places)
    return x, y


@operation(quality=(1, 100))
def jpeg(image: Image, noise: Noise, *, quality: int = 30) -> Image:
    """JPEG compression at libjpeg quality ``quality``: blocks and bleeding colours."""
    encoded = np.frombuffer(encode_jpeg(image, quality), np.uint8)
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB), np.uint8)


@operation(factor=(1.2, 16))
def low_resolution(image: Image, noise: Noise, *, factor: float = 4.0) -> Image:
    """A face ``factor`` times smaller, enlarged again: averaged over areas, then drawn bilinearly."""
    height, width = image.shape[:2]
    small = cv2.resize(image, reduced_size(height, width, factor)[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def reduced_size(height: int, width: int, factor: float) -> tuple[int, int]:
    """Rows and columns of an image ``factor`` times smaller, at least 1."""
    return max(1, round(height / factor)), max(1, round(width / factor))
