"""The operations of a policy as TensorFlow graphs, for variants that are applied while training reads.

Each function does what the one of the same name in ``faceflow.components.common.operations`` does with OpenCV, takes
the same arguments, and asks for the same random numbers in the same order; the docstrings are there. Outside whole
numbers the two may round differently. An operation that has no form here runs through its OpenCV function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from faceflow.components.common.operations import OPERATIONS, Variant, covering, degrading
from faceflow.components.common.operations import Noise as OpenCVNoise


class Noise(Protocol):
    """Random numbers, as :class:`faceflow.components.common.operations.Noise` gives them."""

    def uniform(self, *shape: int) -> Any:
        """Float32 numbers from 0 to 1, 1 excluded."""

    def normal(self, *shape: int, sigma: float) -> Any:
        """Whole numbers as float32, normally distributed about 0."""


class StatelessNoise:
    """Random numbers that hang on a seed alone.

    Args:
        seed: (2,) int64 tensor.
    """

    def __init__(self, seed: tf.Tensor) -> None:
        """Begin with the seed's first numbers."""
        self._seed = seed
        self._draws = 0

    def _next(self) -> tf.Tensor:
        self._draws += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._draws)

    def uniform(self, *shape: int) -> tf.Tensor:
        """See :class:`Noise`."""
        return tf.random.stateless_uniform(shape, self._next())

    def normal(self, *shape: int, sigma: float) -> tf.Tensor:
        """See :class:`Noise`."""
        return tf.round(tf.random.stateless_normal(shape, self._next()) * sigma)


def apply(variant: Variant, image: tf.Tensor, noise: Noise) -> tf.Tensor:
    """Apply a variant's operation.

    Args:
        variant: What to apply.
        image: (H, W, 3) uint8 of a shape that is known.
        noise: Its random numbers.

    Returns:
        (H, W, 3) uint8.
    """
    found = _FUNCTIONS.get(variant.operation)
    changed = _through_opencv(variant, image, noise) if found is None else found(image, noise, **variant.values)
    return tf.ensure_shape(changed, image.shape)


def choose(variants: Sequence[Variant], choice: tf.Tensor, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Apply one of several variants, or none.

    Args:
        variants: Those that occur.
        choice: () int32, 0 for the image as it is, 1 for the first variant.
        image: (H, W, 3) uint8 of a shape that is known.
        seed: (2,) int64, of the random numbers.
    """
    changed = [partial(apply, each, image, StatelessNoise(seed)) for each in variants]
    return tf.switch_case(choice, [lambda: image, *changed])


def _through_opencv(variant: Variant, image: tf.Tensor, noise: Noise) -> tf.Tensor:
    def call(pixels: np.ndarray[Any, Any], draw: np.float32) -> np.ndarray[Any, Any]:
        return OPERATIONS[variant.operation].function(
            pixels, OpenCVNoise("online", draw.tobytes(), variant.name), **variant.values
        )

    return tf.numpy_function(call, [image, noise.uniform(1)], tf.uint8, stateful=False)


_FUNCTIONS: dict[str, Callable[..., tf.Tensor]] = {}


def _online(function: Callable[..., tf.Tensor]) -> Callable[..., tf.Tensor]:
    _FUNCTIONS[function.__name__] = function
    return function


def _pixels(values: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.clip_by_value(tf.round(values), 0, 255), tf.uint8)


def _floats(image: tf.Tensor) -> tf.Tensor:
    return tf.cast(image, tf.float32)


def _filtered(image: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """Correlate each channel with a (rows, columns) kernel, the image mirrored about its border pixels."""
    rows, columns = (size // 2 for size in kernel.shape)
    padded = tf.pad(_floats(image), ((rows, rows), (columns, columns), (0, 0)), "REFLECT")
    depthwise = tf.tile(kernel[:, :, None, None], (1, 1, 3, 1))
    return tf.nn.depthwise_conv2d(padded[None], depthwise, (1, 1, 1, 1), "VALID")[0]


@_online
def opening(image: tf.Tensor, noise: Noise, *, size: int) -> tf.Tensor:
    """Erosion, then dilation about the mirrored square: max pooling of the negative, and max pooling."""
    near, far = size // 2, size - 1 - size // 2
    edges = ((0, 0), (near, far), (near, far), (0, 0))
    eroded = -tf.nn.max_pool2d(tf.pad(-_floats(image)[None], edges, constant_values=-256), size, 1, "VALID")
    edges = ((0, 0), (far, near), (far, near), (0, 0))
    return _pixels(tf.nn.max_pool2d(tf.pad(eroded, edges, constant_values=-1), size, 1, "VALID")[0])


@_online
def gaussian_noise(image: tf.Tensor, noise: Noise, *, sigma: float) -> tf.Tensor:
    """Add whole numbers."""
    return _pixels(_floats(image) + tf.cast(noise.normal(*image.shape, sigma=sigma), tf.float32))


@_online
def salt_pepper(image: tf.Tensor, noise: Noise, *, fraction: float) -> tf.Tensor:
    """Black below half the fraction, white above the rest."""
    draw = noise.uniform(*image.shape[:2])[..., None]
    peppered = tf.where(draw < np.float32(fraction / 2), tf.constant(0, tf.uint8), image)
    return tf.where(draw >= np.float32(1 - fraction / 2), tf.constant(255, tf.uint8), peppered)


@_online
def blur(image: tf.Tensor, noise: Noise, *, sigma: float) -> tf.Tensor:
    """Rows, then columns."""
    kernel = tf.constant(degrading.gaussian_kernel(sigma))
    return _pixels(_filtered(_filtered(image, kernel[:, None]), kernel[None]))


@_online
def motion_blur(image: tf.Tensor, noise: Noise, *, length: float) -> tf.Tensor:
    """The kernel is drawn in the graph."""
    angle = math.pi * noise.uniform(1)[0]
    x, y = degrading.motion_grid(length)
    along, across = x * tf.cos(angle) + y * tf.sin(angle), y * tf.cos(angle) - x * tf.sin(angle)
    kernel = tf.clip_by_value(length / 2 + 0.5 - tf.abs(along), 0, 1) * tf.clip_by_value(1 - tf.abs(across), 0, 1)
    return _pixels(_filtered(image, kernel / tf.reduce_sum(kernel)))


@_online
def jpeg(image: tf.Tensor, noise: Noise, *, quality: int) -> tf.Tensor:
    """TensorFlow and OpenCV share libjpeg-turbo."""
    encoded = tf.io.encode_jpeg(image, quality=quality, chroma_downsampling=True)
    return tf.io.decode_jpeg(encoded, channels=3, dct_method="INTEGER_ACCURATE")


@_online
def low_resolution(image: tf.Tensor, noise: Noise, *, factor: float) -> tf.Tensor:
    """Averaged over areas, then bilinear."""
    rows, columns = image.shape[:2]
    small = tf.image.resize(image, degrading.reduced_size(rows, columns, factor), "area")
    return _pixels(tf.image.resize(tf.round(small), (rows, columns), "bilinear"))


@_online
def hsv(image: tf.Tensor, noise: Noise, *, hue: float, saturation: float, value: float) -> tf.Tensor:
    """TensorFlow counts the hue from 0 to 1."""
    shift = (2 * noise.uniform(3) - 1) * np.array([hue / 360, saturation, value], np.float32)
    channels = tf.unstack(tf.image.rgb_to_hsv(_floats(image) / 255), axis=-1)
    turned = tf.math.floormod(channels[0] + shift[0], 1)
    scaled = [tf.minimum(channels[i] * (1 + shift[i]), 1) for i in (1, 2)]
    return _pixels(tf.image.hsv_to_rgb(tf.stack([turned, *scaled], -1)) * 255)


@_online
def brightness(image: tf.Tensor, noise: Noise, *, amount: float) -> tf.Tensor:
    """Multiply."""
    return _pixels(_floats(image) * (1 + (2 * noise.uniform(1) - 1) * np.float32(amount)))


@_online
def contrast(image: tf.Tensor, noise: Noise, *, amount: float) -> tf.Tensor:
    """Multiply about the mean."""
    factor = 1 + (2 * noise.uniform(1) - 1) * np.float32(amount)
    levels = _floats(image)
    mean = tf.reduce_mean(levels)
    return _pixels((levels - mean) * factor + mean)


@_online
def grey(image: tf.Tensor, noise: Noise) -> tf.Tensor:
    """The luma, three times."""
    luma = tf.tensordot(_floats(image), tf.constant([0.299, 0.587, 0.114]), 1)
    return _pixels(tf.tile(luma[..., None], (1, 1, 3)))


@_online
def flip(image: tf.Tensor, noise: Noise) -> tf.Tensor:
    """Reverse the columns."""
    return tf.reverse(image, [1])


@_online
def rotate(image: tf.Tensor, noise: Noise, *, degrees: float) -> tf.Tensor:
    """Each output pixel is looked up at the place that it was turned from."""
    rows, columns = image.shape[:2]
    angle = (2 * noise.uniform(1)[0] - 1) * math.radians(degrees)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    x, y = (columns - 1) / 2, (rows - 1) / 2
    transform = [cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y, 0.0, 0.0]
    turned = tf.raw_ops.ImageProjectiveTransformV3(
        images=_floats(image)[None],
        transforms=tf.stack(transform)[None],
        output_shape=(rows, columns),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
    return _pixels(turned[0])


@_online
def cutout(image: tf.Tensor, noise: Noise, *, size: float) -> tf.Tensor:
    """A square by comparison of rows and columns."""
    rows, columns = image.shape[:2]
    side = max(1, round(size * min(rows, columns)))
    corner = tf.cast(noise.uniform(2) * np.array([rows - side + 1, columns - side + 1], np.float32), tf.int32)
    row, column = (tf.range(count) - corner[axis] for axis, count in enumerate((rows, columns)))
    inside = tf.logical_and(row >= 0, row < side)[:, None] & tf.logical_and(column >= 0, column < side)[None]
    return tf.where(inside[..., None], tf.constant(covering.MIDDLE_GREY, tf.uint8), image)


@_online
def mask(image: tf.Tensor, noise: Noise, *, height: float) -> tf.Tensor:
    """The cloth is a constant of the graph."""
    draw = noise.uniform(2)
    colours = tf.constant(covering.MASK_COLOURS)
    colour = tf.gather(colours, tf.cast(draw[0] * len(covering.MASK_COLOURS), tf.int32)) * (0.8 + 0.3 * draw[1])
    cloth, cover = covering.mask_cloth(*image.shape[:2], height)
    levels = _floats(image)
    return _pixels(levels + (tf.minimum(cloth * colour, 255) - levels) * cover)
