"""What the training runs on. All that differs between a CPU, a GPU and several GPUs is decided here."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import tensorflow as tf

from faceflow.components.common.errors import SettingsError

log = logging.getLogger("faceflow.train")


@dataclass(frozen=True)
class Devices:
    """The devices of a training.

    Attributes:
        strategy: Where variables live and how gradients are joined.
        jit_compile: Whether steps are compiled by XLA.
        description: For the log and the report.
    """

    strategy: tf.distribute.Strategy
    jit_compile: bool
    description: str


def choose(jit_compile: str, batch_size: int) -> Devices:
    """Take every GPU that there is, or else the CPU.

    Args:
        jit_compile: ``on``, ``off``, or ``auto``: on for a single GPU. On a CPU, XLA's depthwise convolutions are about
            five times slower than TensorFlow's own; across GPUs, the joining of gradients is not for XLA to compile.
        batch_size: Images of a batch, over all devices.

    Raises:
        SettingsError: The batch cannot be divided evenly among the GPUs, or XLA is asked for on several.
    """
    gpus = tf.config.list_logical_devices("GPU")
    if len(gpus) > 1:
        return mirrored([gpu.name for gpu in gpus], jit_compile, batch_size)
    compiled = jit_compile == "on" or (jit_compile == "auto" and len(gpus) == 1)
    return Devices(tf.distribute.get_strategy(), compiled, "one GPU" if gpus else "CPU")


def mirrored(names: list[str], jit_compile: str, batch_size: int) -> Devices:
    """Several devices, each with a copy of the network and a share of every batch; see :func:`choose`."""
    if batch_size % len(names):
        raise SettingsError(
            f"setting 'batch_size' is {batch_size}, which {len(names)} devices cannot share evenly: choose a multiple "
            f"of {len(names)}."
        )
    if jit_compile == "on":
        raise SettingsError(f"setting 'jit_compile' is 'on', which {len(names)} devices do not allow: use 'auto'.")
    return Devices(tf.distribute.MirroredStrategy(names), False, f"{len(names)} devices")
