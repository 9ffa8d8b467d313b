"""MobileFaceNet, the embedding network.

S. Chen, Y. Liu, X. Gao, Z. Han: "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile
Devices", CCBR 2018 (arXiv:1804.07573), table 1. At width 1, 112 x 112 pixels and 128 embedding values the paper says
0.99 million parameters, 4.0 MB and 221 million multiply-adds. :func:`cost` gives 993,344, 3.97 MB and 220.97 million
when a batch normalisation counts as the one bias per channel that it folds into for inference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import keras

STRIDE = 16
"""Input pixels for each position of the last feature map."""


class _Stack(NamedTuple):
    """A row of the paper's table 1: `repeats` bottlenecks, the first of them with `stride`."""

    expansion: int
    channels: int
    repeats: int
    stride: int


_STACKS = (
    _Stack(2, 64, 5, 2),
    _Stack(4, 128, 1, 2),
    _Stack(2, 128, 6, 1),
    _Stack(4, 128, 1, 2),
    _Stack(2, 128, 2, 1),
)
_STEM_CHANNELS = 64
_LAST_CHANNELS = 512
_BN_MOMENTUM = 0.9  # running statistics must follow within a short training; Keras's 0.99 takes 500 steps


def scaled(channels: int, width: float) -> int:
    """Channels of a layer at a width factor: the nearest multiple of 8, and never fewer than 8."""
    return max(8, int(channels * width / 8 + 0.5) * 8)


def build(
    height_px: int,
    width_px: int,
    embedding_size: int = 128,
    width: float = 1.0,
    precision: str = "float32",
) -> keras.Model:
    """Build the network.

    The scaling of pixels to -1 .. 1 is its first layer, so a caller cannot get it wrong. The last depthwise
    convolution covers the whole feature map, whose size follows the input's.

    Args:
        height_px: Rows of the input image.
        width_px: Columns of the input image.
        embedding_size: Values of the embedding.
        width: Factor on the channels of every layer but the embedding.
        precision: ``float32``, ``mixed_float16`` or ``mixed_bfloat16``. The scaling of pixels and the embedding are
            float32 in any case.

    Returns:
        A model from RGB pixels 0 .. 255, (N, height_px, width_px, 3), to embeddings (N, embedding_size) in float32
        which are not normalised.
    """
    layers = _Layers(precision)
    pixels = keras.Input((height_px, width_px, 3), name="pixels")
    x = keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="scaling")(pixels)
    x = layers.convolution(x, scaled(_STEM_CHANNELS, width), "stem", kernel=3, stride=2)
    x = layers.depthwise(x, "stem_depthwise")
    block = 0
    for stack in _STACKS:
        for repeat in range(stack.repeats):
            block += 1
            stride = stack.stride if repeat == 0 else 1
            x = layers.bottleneck(x, stack.expansion, scaled(stack.channels, width), stride, f"block{block}")
    x = layers.convolution(x, scaled(_LAST_CHANNELS, width), "last")
    x = layers.depthwise(x, "global", kernel=(x.shape[1], x.shape[2]), padding="valid", linear=True)
    x = layers.convolution(x, embedding_size, "embedding", linear=True)
    x = keras.layers.Flatten(dtype="float32", name="embedding")(x)
    return keras.Model(pixels, x, name="mobilefacenet")


class _Layers:
    """The paper's building blocks, each a convolution with batch normalisation and, unless linear, a PReLU."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def _finish(self, x: keras.KerasTensor, name: str, linear: bool) -> keras.KerasTensor:
        x = keras.layers.BatchNormalization(momentum=_BN_MOMENTUM, dtype=self.precision, name=f"{name}_bn")(x)
        if linear:
            return x
        # one slope a channel, as in the paper: without shared axes Keras learns one for every pixel
        prelu = keras.layers.PReLU(
            shared_axes=[1, 2],
            alpha_initializer=keras.initializers.Constant(0.25),
            dtype=self.precision,
            name=f"{name}_prelu",
        )
        return prelu(x)

    def convolution(
        self, x: keras.KerasTensor, channels: int, name: str, kernel: int = 1, stride: int = 1, linear: bool = False
    ) -> keras.KerasTensor:
        x = keras.layers.Conv2D(
            channels,
            kernel,
            stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=self.precision,
            name=f"{name}_conv",
        )(x)
        return self._finish(x, name, linear)

    def depthwise(
        self,
        x: keras.KerasTensor,
        name: str,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        padding: str = "same",
        linear: bool = False,
    ) -> keras.KerasTensor:
        x = keras.layers.DepthwiseConv2D(
            kernel,
            stride,
            padding=padding,
            use_bias=False,
            depthwise_initializer="he_normal",
            dtype=self.precision,
            name=f"{name}_conv",
        )(x)
        return self._finish(x, name, linear)

    def bottleneck(
        self, x: keras.KerasTensor, expansion: int, channels: int, stride: int, name: str
    ) -> keras.KerasTensor:
        """MobileNetV2's inverted residual (arXiv:1801.04381, table 1)."""
        entry = x
        x = self.convolution(x, expansion * entry.shape[-1], f"{name}_expand")
        x = self.depthwise(x, f"{name}_depthwise", stride=stride)
        x = self.convolution(x, channels, f"{name}_project", linear=True)
        if stride == 1 and channels == entry.shape[-1]:
            x = keras.layers.Add(dtype=self.precision, name=f"{name}_add")([entry, x])
        return x


class Cost(NamedTuple):
    """What a network costs at inference.

    Attributes:
        parameters: Convolution weights, one bias for each normalised channel (a batch normalisation folds into the
            convolution before it) and PReLU slopes.
        multiply_adds: Of the convolutions, for one image.
    """

    parameters: int
    multiply_adds: int


def _convolutions(model: keras.Model) -> Iterator[tuple[int, int]]:
    """Weights and output positions of each convolution."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            _, rows, columns, _ = layer.output.shape
            yield layer.kernel.shape.num_elements(), rows * columns


def cost(model: keras.Model) -> Cost:
    """Count a built network's parameters and multiply-adds the way the paper does."""
    weights = list(_convolutions(model))
    biases = sum(layer.output.shape[-1] for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization))
    slopes = sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.PReLU))
    return Cost(
        parameters=sum(count for count, _ in weights) + biases + slopes,
        multiply_adds=sum(count * positions for count, positions in weights),
    )
