"""The learning rate of each step: a linear warm-up, then a cosine or steps down to zero's neighbourhood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="faceflow")
class LearningRate(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate by step of the whole training, whichever phase an optimizer was made for.

    The cosine is half a period from ``peak`` to 0 (I. Loshchilov, F. Hutter: "SGDR", arXiv:1608.03983, one cycle); the
    steps divide by ten at each of ``drops``, as MobileFaceNet and ArcFace were trained.

    Args:
        peak: The rate after the warm-up.
        total_steps: Steps of the whole training.
        warmup_steps: Steps over which the rate grows linearly to ``peak``.
        decay: ``cosine`` or ``step``.
        drops: Where ``step`` divides by ten, as fractions of ``total_steps``, rising.
        first_step: Which step of the training is this optimizer's step 0.
    """

    def __init__(
        self,
        peak: float,
        total_steps: int,
        warmup_steps: int = 0,
        decay: str = "cosine",
        drops: Sequence[float] = (),
        first_step: int = 0,
    ) -> None:
        """Set the curve."""
        super().__init__()
        self.peak = peak
        self.total_steps = total_steps
        self.warmup_steps = warmup_steps
        self.decay = decay
        self.drops = tuple(drops)
        self.first_step = first_step

    def __call__(self, step: Any) -> Any:
        """The rate of an optimizer's step, counted from 0."""
        position = ops.cast(step, "float32") + float(self.first_step)
        if self.decay == "cosine":
            left = max(1, self.total_steps - self.warmup_steps)
            share = ops.clip((position - self.warmup_steps) / left, 0.0, 1.0)
            factor = 0.5 * (1.0 + ops.cos(math.pi * share))
        else:
            passed = [ops.cast(position >= drop * self.total_steps, "float32") for drop in self.drops]
            factor = ops.power(0.1, sum(passed, ops.zeros(())))
        if self.warmup_steps:
            factor = ops.minimum(factor, (position + 1.0) / self.warmup_steps)
        return self.peak * factor

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "peak": self.peak,
            "total_steps": self.total_steps,
            "warmup_steps": self.warmup_steps,
            "decay": self.decay,
            "drops": list(self.drops),
            "first_step": self.first_step,
        }
