"""The training itself: a softmax phase, an ArcFace phase, and what happens at the end of each epoch.

The phases share the network. The second head starts from the first one's weights, whose columns already point at the
identities; ArcFace from nothing often ends in NaN or stays where it is.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from faceflow.components.common.errors import DatasetError, TrainingError
from faceflow.components.common.logs import progress
from faceflow.components.train import input as pipeline
from faceflow.components.train import mobilefacenet
from faceflow.components.train.checkpoint import Checkpoints, restore
from faceflow.components.train.heads import ArcFaceLoss, CosineHead, SoftmaxHead
from faceflow.components.train.schedule import LearningRate

if TYPE_CHECKING:
    from faceflow.components.train.devices import Devices
    from faceflow.components.train.packed import PackedFaces
    from faceflow.components.train.stage import Settings

log = logging.getLogger("faceflow.train")

CHECK_EVERY = 20
"""Batches between two looks at the loss; each look waits for the device."""


@dataclass(frozen=True)
class Phase:
    """A stretch of epochs, counted from 0, under one head.

    Attributes:
        head: ``softmax`` or ``arcface``.
        first: Its first epoch.
        last: The epoch after its last.
    """

    head: str
    first: int
    last: int


def plan(epochs: int, softmax_fraction: float) -> list[Phase]:
    """The phases of a training, in order; a phase without epochs is left out."""
    warm = max(1, round(softmax_fraction * epochs)) if softmax_fraction else 0
    return [phase for phase in (Phase("softmax", 0, warm), Phase("arcface", warm, epochs)) if phase.last > phase.first]


@dataclass(frozen=True)
class Trained:
    """The outcome of a training.

    Attributes:
        network: From pixels to embeddings, float32 throughout.
        history: One row for each epoch: epoch (from 1), head, loss, accuracy, learning_rate, seconds,
            images_per_second and, where there is validation data, validation_loss and validation_accuracy.
        resumed_from: Epochs that an earlier process had finished.
    """

    network: keras.Model
    history: list[dict[str, Any]]
    resumed_from: int


def train(
    settings: Settings,
    packed: PackedFaces,
    checkpoints: Checkpoints,
    devices: Devices,
    build: Callable[..., keras.Model] = mobilefacenet.build,
) -> Trained:
    """Train an embedding network.

    Args:
        settings: How.
        packed: On what.
        checkpoints: Where an earlier, killed attempt may have left its state, and this one leaves its own.
        devices: On which devices.
        build: Makes the network, called as :func:`mobilefacenet.build` is.

    Raises:
        TrainingError: The loss is not finite, or memory does not suffice.
        DatasetError: A record has no valid label, or an image is damaged or of the wrong size.
    """
    keras.utils.set_random_seed(settings.seed)
    size = packed.input_size(settings.input_size_px)
    stored = (packed.template.height, packed.template.width)
    classes = len(packed.identities)
    reader = pipeline.FaceReader(stored, size, classes)
    batch_size = min(settings.batch_size, packed.train.manifest.images)
    steps = packed.train.manifest.images // batch_size
    validation = None
    if packed.validates_classes:
        validation = pipeline.validation_batches(packed.validation, reader, batch_size)

    with devices.strategy.scope():
        network = build(*size, settings.embedding_size, settings.width, settings.precision)
    state = checkpoints.load()
    history: list[dict[str, Any]] = []
    resumed_from, kernel = 0, None
    for index, phase in enumerate(plan(settings.epochs, settings.softmax_fraction)):
        if state is not None and index < state.phase:
            continue
        with devices.strategy.scope():
            rate = _learning_rate(settings, phase, steps)
            model = phase_model(network, phase, settings, classes, rate, devices.jit_compile)
            if kernel is not None:
                model.layers[-1].kernel.assign(kernel)
            if state is not None and index == state.phase:
                if not restore(model, state.arrays):
                    checkpoints.remove()
                    return train(settings, packed, checkpoints, devices, build)
                history, resumed_from = list(state.history), state.epoch
        checkpoints.reserve(model)
        begin = max(phase.first, resumed_from)
        if begin < phase.last:
            said = "training continues from" if begin == resumed_from > 0 else phase.head + " from"
            log.info("%s epoch %d of %d, %d batches of %d", said, begin + 1, settings.epochs, steps, batch_size)
            batches = pipeline.training_batches(
                packed.train,
                reader,
                batch_size=batch_size,
                epochs=range(begin, phase.last),
                seed=settings.seed,
                variants=packed.online_variants,
                flip=settings.flip,
                shuffle_block=settings.shuffle_block,
            )
            watch = EpochWatch(settings, phase, index, begin, batch_size, steps, rate, history, checkpoints)
            fit_phase(model, batches, validation, begin, phase.last, steps, watch)
        kernel = model.layers[-1].kernel.numpy()
    # mixed precision is for training: inference on a CPU has no use for it
    plain = build(*size, settings.embedding_size, settings.width)
    plain.set_weights(network.get_weights())
    return Trained(plain, history, resumed_from)


def _learning_rate(settings: Settings, phase: Phase, steps: int) -> LearningRate:
    return LearningRate(
        settings.learning_rate,
        total_steps=settings.epochs * steps,
        warmup_steps=round(settings.warmup_epochs * steps),
        decay=settings.decay,
        drops=settings.decay_steps,
        first_step=phase.first * steps,
    )


def phase_model(
    network: keras.Model, phase: Phase, settings: Settings, classes: int, rate: LearningRate, jit_compile: bool
) -> keras.Model:
    """The network under a phase's head, compiled, with every variable made."""
    head: keras.layers.Layer
    loss: keras.losses.Loss
    if phase.head == "softmax":
        head = SoftmaxHead(classes, name="softmax")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    else:
        head = CosineHead(classes, name="cosine")
        loss = ArcFaceLoss(settings.margin, settings.scale)
    model = keras.Model(network.input, head(network.output))
    optimizer: keras.optimizers.Optimizer
    common = {"weight_decay": settings.weight_decay or None, "global_clipnorm": settings.clip_norm or None}
    if settings.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=settings.momentum, **common)
    else:
        optimizer = keras.optimizers.AdamW(rate, beta_1=settings.momentum, **common)
    if settings.weight_decay:
        # decaying what scales and shifts activations only changes what the next layer must undo
        optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias", "alpha"])
    if settings.precision == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(
        optimizer, loss, metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")], jit_compile=jit_compile
    )
    # Variables that come to be inside the first step would make TensorFlow trace it twice, some ten seconds each time
    optimizer.build(model.trainable_variables)
    model.compute_metrics(np.zeros((1,)), np.zeros((1,), np.int32), np.zeros((1, classes), np.float32))
    return model


def fit_phase(
    model: keras.Model,
    batches: tf.data.Dataset,
    validation: tf.data.Dataset | None,
    first: int,
    last: int,
    steps: int,
    watch: EpochWatch,
) -> None:
    """Run a phase's epochs ``first`` to ``last - 1``, with TensorFlow's errors put into our words.

    Raises:
        TrainingError: Memory does not suffice, or the watch stopped the training.
        DatasetError: A record cannot be used.
    """
    try:
        model.fit(
            batches,
            epochs=last,
            initial_epoch=first,
            steps_per_epoch=steps,
            validation_data=validation,
            callbacks=[watch],
            verbose=0,
            shuffle=False,
        )
    except tf.errors.ResourceExhaustedError as error:
        raise TrainingError(
            f"memory does not suffice in epoch {watch.epoch + 1}: lower batch_size, or the network's width or input "
            f"size. TensorFlow says: {_first_line(error)}"
        ) from error
    except tf.errors.InvalidArgumentError as error:
        raise DatasetError(
            f"the packed dataset holds a record that training cannot use: {_first_line(error)} Run pack again."
        ) from error


def _first_line(error: tf.errors.OpError) -> str:
    """What an op said, without the graph that follows."""
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    telling = [line for line in lines if "assertion failed" in line or "decode" in line.lower()]
    return (telling or lines or [type(error).__name__])[0]


class EpochWatch(keras.callbacks.Callback):
    """Shows progress, stops at a loss that is not finite, and at the end of an epoch records, logs and saves."""

    def __init__(
        self,
        settings: Settings,
        phase: Phase,
        index: int,
        begin: int,
        batch_size: int,
        steps: int,
        rate: LearningRate,
        history: list[dict[str, Any]],
        checkpoints: Checkpoints,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.phase = phase
        self.index = index
        self.batch_size = batch_size
        self.steps = steps
        self.history = history
        self.checkpoints = checkpoints
        self.rate = rate
        self.epoch = begin
        self._began = self._trained = 0.0
        left = (phase.last - begin) * steps
        self._bar = progress(range(left), total=left, what="batches", label=phase.head)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Begin to show progress."""
        next(self._bar)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the clock."""
        self.epoch = epoch
        self._began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Look at the loss now and then.

        Raises:
            TrainingError: It is not finite.
        """
        if (batch + 1) % CHECK_EVERY == 0 or batch + 1 == self.steps:
            loss = float((logs or {}).get("loss", math.nan))
            if not math.isfinite(loss):
                raise TrainingError(self._complaint(batch, loss))
        self._trained = time.monotonic()
        next(self._bar, None)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch, log it, and save the state."""
        logs = logs or {}
        row: dict[str, Any] = {"epoch": epoch + 1, "head": self.phase.head}
        names = {"loss": "loss", "accuracy": "accuracy", "val_loss": "validation_loss"}
        names["val_accuracy"] = "validation_accuracy"
        row |= {ours: float(logs[theirs]) for theirs, ours in names.items() if theirs in logs}
        row["learning_rate"] = self._rate_of(self.steps - 1)
        row["seconds"] = round(time.monotonic() - self._began, 3)
        row["images_per_second"] = round(self.steps * self.batch_size / (self._trained - self._began), 1)
        self.history.append(row)
        validated = f", validation {row['validation_accuracy']:.3f}" if "validation_accuracy" in row else ""
        log.info(
            "epoch %d of %d (%s): loss %.3f, accuracy %.3f%s, learning rate %.2g, %.0f images/s",
            *(epoch + 1, self.settings.epochs, self.phase.head, row["loss"], row["accuracy"], validated),
            *(row["learning_rate"], row["images_per_second"]),
        )
        self.checkpoints.save(self.index, epoch + 1, self.history, self.model)

    def _rate_of(self, batch: int) -> float:
        step = (self.epoch - self.phase.first) * self.steps + batch
        return float(np.asarray(self.rate(step)))

    def _complaint(self, batch: int, loss: float) -> str:
        since = batch // CHECK_EVERY * CHECK_EVERY + 1
        remedy = f"lower learning_rate (it is {self.settings.learning_rate:g}) or lengthen warmup_epochs"
        if self.phase.head == "arcface":
            remedy += f", raise softmax_fraction (it is {self.settings.softmax_fraction:g}), or lower margin or scale"
        if self.settings.precision == "mixed_float16":
            remedy += ", or use precision mixed_bfloat16 or float32"
        return (
            f"the loss became {loss} in epoch {self.epoch + 1} ({self.phase.head}), between batches {since} and "
            f"{batch + 1} of {self.steps}, at learning rate {self._rate_of(batch):.3g}: {remedy}."
        )
