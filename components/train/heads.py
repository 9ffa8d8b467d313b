"""Classification heads over the embedding, and the ArcFace loss.

ArcFace: J. Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019
(arXiv:1801.07698). The cosine head gives cos(theta); the margin and the scale live in the loss. So the accuracy that
Keras reports is that of the plain cosines, in training as in validation, and no layer needs to be told the labels.
"""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import ops

CLAMP = 1e-6
"""How far from +-1 the loss keeps the target's cosine: d sin / d cos = -cos / sin is infinite there."""

_SMALLEST_NORM = 1e-6


@keras.saving.register_keras_serializable(package="faceflow")
class SoftmaxHead(keras.layers.Layer):
    """Logits x W + b of the plain softmax classifier, in float32 under any precision.

    Args:
        classes: Number of identities.
        **kwargs: Of the Keras layer.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        """Set the size."""
        super().__init__(**{"dtype": "float32", **kwargs})
        self.classes = classes

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the weights: kernel (embedding size, classes) and bias (classes,)."""
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.classes), initializer="glorot_uniform", name="kernel"
        )
        self.bias = self.add_weight(shape=(self.classes,), initializer="zeros", name="bias")

    def call(self, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Map embeddings (N, D) to logits (N, classes)."""
        return ops.matmul(embeddings, self.kernel) + self.bias

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(N, classes)."""
        return (*input_shape[:-1], self.classes)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="faceflow")
class CosineHead(keras.layers.Layer):
    """Cosines between embeddings and one learnt centre for each identity, in float32 under any precision.

    Args:
        classes: Number of identities.
        **kwargs: Of the Keras layer.
    """

    def __init__(self, classes: int, **kwargs: Any) -> None:
        """Set the size."""
        super().__init__(**{"dtype": "float32", **kwargs})
        self.classes = classes

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the centres, (embedding size, classes)."""
        self.kernel = self.add_weight(
            shape=(input_shape[-1], self.classes), initializer="glorot_uniform", name="kernel"
        )

    def call(self, embeddings: keras.KerasTensor) -> keras.KerasTensor:
        """Map embeddings (N, D) to cosines (N, classes)."""
        directions = ops.normalize(embeddings, axis=-1, epsilon=_SMALLEST_NORM)
        return ops.matmul(directions, ops.normalize(self.kernel, axis=0, epsilon=_SMALLEST_NORM))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """(N, classes)."""
        return (*input_shape[:-1], self.classes)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "classes": self.classes}


@keras.saving.register_keras_serializable(package="faceflow")
class ArcFaceLoss(keras.losses.Loss):
    """Cross-entropy over scale * cos(theta), with cos(theta + margin) in the place of the target's cosine.

    Where theta + margin would pass pi, and cos(theta + margin) rise again, the target is cos(theta) - margin *
    sin(margin), which falls on with theta. cos(theta + margin) is expanded into cos and sin, so that no arc cosine is
    taken. A label that is no class gives NaN, which stops the training, rather than a loss without a target.

    Args:
        margin: Radians, 0 (a plain cosine softmax) to pi / 2.
        scale: Factor on every cosine.
        **kwargs: Of the Keras loss.
    """

    def __init__(self, margin: float = 0.5, scale: float = 64.0, **kwargs: Any) -> None:
        """Set margin and scale."""
        super().__init__(**{"name": "arcface", **kwargs})
        self.margin = margin
        self.scale = scale

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Loss of each sample.

        Args:
            y_true: Labels, (N,) or (N, 1), integers.
            y_pred: Cosines, (N, classes).

        Returns:
            (N,) float32.
        """
        cosines = ops.cast(y_pred, "float32")
        classes = cosines.shape[-1]
        labels = ops.cast(ops.reshape(y_true, (-1, 1)), "int32")
        is_target = ops.equal(labels, ops.expand_dims(ops.arange(classes, dtype="int32"), 0))
        target = ops.sum(ops.where(is_target, cosines, 0.0), axis=-1, keepdims=True)
        target = self.with_margin(target)
        logits = self.scale * ops.where(is_target, target, cosines)
        losses = ops.logsumexp(logits, axis=-1) - self.scale * ops.squeeze(target, -1)
        known = ops.squeeze(ops.logical_and(labels >= 0, labels < classes), -1)
        return ops.where(known, losses, math.nan)

    def with_margin(self, cosine: keras.KerasTensor) -> keras.KerasTensor:
        """The target's logit, before scaling, for a cosine of any shape."""
        cosine = ops.clip(cosine, CLAMP - 1.0, 1.0 - CLAMP)
        sine = ops.sqrt((1.0 - cosine) * (1.0 + cosine))
        shifted = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        beyond = cosine - self.margin * math.sin(self.margin)
        return ops.where(cosine > -math.cos(self.margin), shifted, beyond)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {**super().get_config(), "margin": self.margin, "scale": self.scale}
