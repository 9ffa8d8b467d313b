"""Train an embedding network on packed faces: MobileFaceNet under a softmax head, then under ArcFace."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.hashing import fingerprint
from faceflow.components.common.logs import holding_back_native_chatter
from faceflow.components.common.model import ModelContract
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import publishing, require_free_space, write_atomically
from faceflow.components.train.packed import PackedFaces

log = logging.getLogger("faceflow.train")

_MODEL_ROOM = 200 << 20


@dataclass(frozen=True)
class Settings(StageSettings):
    """How to train; see the README's table."""

    epochs: int = setting(20, "Epochs in all, the softmax ones among them.", minimum=1)
    batch_size: int = setting(128, "Images of a batch, over all devices.", minimum=2)
    learning_rate: float = setting(0.1, "Learning rate after the warm-up.", minimum=1e-8, maximum=10)
    width: float = setting(1.0, "Factor on MobileFaceNet's channels.", minimum=0.05, maximum=4)
    input_size_px: int = setting(
        112, "Rows of the network's input; its columns follow the template's proportions.", minimum=16, maximum=448
    )
    embedding_size: int = setting(128, "Values of an embedding.", minimum=2, maximum=4096)
    seed: int = setting(0, "Seeds the weights, the order of the images and their mirroring.", minimum=0)
    softmax_fraction: float = setting(
        0.1,
        "Fraction of the epochs, rounded but at least one, under a plain softmax before ArcFace; 0 for none.",
        minimum=0,
        maximum=1,
    )
    margin: float = setting(0.5, "ArcFace's angular margin, radians.", minimum=0, maximum=1.5)
    scale: float = setting(64.0, "ArcFace's factor on the cosines; less suits few identities.", minimum=1, maximum=256)
    optimizer: str = setting("sgd", "sgd (with momentum) or adamw.", choices=("sgd", "adamw"))
    momentum: float = setting(0.9, "SGD's momentum, AdamW's beta 1.", minimum=0, maximum=0.999)
    weight_decay: float = setting(
        5e-4, "Decoupled weight decay, times the learning rate each step; 0 for none.", minimum=0, maximum=1
    )
    clip_norm: float = setting(5.0, "Largest norm of all gradients together; 0 for no limit.", minimum=0)
    warmup_epochs: float = setting(1.0, "Epochs over which the learning rate grows to its peak.", minimum=0)
    decay: str = setting(
        "cosine",
        "How the learning rate falls: cosine to 0, or a tenth at each of decay_steps.",
        choices=("cosine", "step"),
    )
    decay_steps: list[float] = setting([0.6, 0.87, 0.97], "Where decay 'step' falls, as fractions of the training.")
    flip: bool = setting(True, "Mirror half the images.")
    shuffle_block: int = setting(20_000, "Records shuffled together; two such blocks are in memory.", minimum=1)
    precision: str = setting(
        "float32", "Arithmetic of the network while training.", choices=("float32", "mixed_float16", "mixed_bfloat16")
    )
    jit_compile: str = setting("auto", "XLA: auto is on for a single GPU only.", choices=("auto", "on", "off"))

    def __post_init__(self) -> None:
        """Check what spans several settings.

        Raises:
            SettingsError: A value is not allowed.
        """
        super().__post_init__()
        if self.warmup_epochs > self.epochs:
            raise SettingsError(
                f"setting 'warmup_epochs' is {self.warmup_epochs:g}, but must be at most epochs, {self.epochs}."
            )
        steps = self.decay_steps
        if not all(0 < step < 1 for step in steps) or sorted(set(steps)) != steps:
            raise SettingsError(f"setting 'decay_steps' is {steps!r}, but must be rising fractions between 0 and 1.")


@dataclass(frozen=True)
class Inputs:
    """What to learn from.

    Attributes:
        packed: Directory that the pack stage wrote.
    """

    packed: Path


@dataclass(frozen=True)
class Outputs:
    """Where to write.

    Attributes:
        model: Directory of the model artifact.
        metrics: JSON file with the results of each epoch.
        report: HTML page.
        scratch: Directory for checkpoints, which outlives the process; None keeps none, so that a killed training
            begins anew.
    """

    model: Path
    metrics: Path
    report: Path
    scratch: Path | None = None


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> dict[str, float]:
    """Train a model, or go on with a training that was killed.

    Returns:
        The main numbers, by name.

    Raises:
        DatasetError: The packed dataset is incomplete or damaged.
        TrainingError: Nothing can be learnt from it, the loss is not finite, or memory does not suffice.
        DiskSpaceError: The volume has too little room for the model or the checkpoints.
    """
    packed = PackedFaces.open(inputs.packed)
    require_free_space(outputs.model, _MODEL_ROOM, "The model")
    key = fingerprint({"packed": packed.fingerprint, "settings": settings.for_manifest()})

    # TensorFlow takes seconds to import; wrong settings and missing inputs are told before
    with holding_back_native_chatter():
        from faceflow.components.train import devices, report
        from faceflow.components.train.checkpoint import Checkpoints
        from faceflow.components.train.mobilefacenet import cost
        from faceflow.components.train.training import train

        chosen = devices.choose(settings.jit_compile, settings.batch_size)
    log.info(
        "training on %s: %s images of %s identities",
        *(chosen.description, f"{packed.train.manifest.images:,}", f"{len(packed.identities):,}"),
    )
    checkpoints = Checkpoints(outputs.scratch, key)
    height, width = packed.input_size(settings.input_size_px)
    contract = ModelContract(
        network="mobilefacenet",
        height_px=height,
        width_px=width,
        template=packed.template.name,
        interpolation=packed.template.interpolation,
        embedding_size=settings.embedding_size,
        identities=len(packed.identities),
        training={"fingerprint": key, "packed": packed.fingerprint, "settings": settings.for_manifest()},
    )
    with publishing(outputs.model) as directory:
        with _explained_interruption(checkpoints.path):
            trained = train(settings, packed, checkpoints, chosen)
        trained.network.save(directory / contract.model_file)
        shutil.copyfile(packed.labels, directory / contract.labels_file)
        contract.write(directory)
        numbers = _numbers(trained.history, packed, cost(trained.network).parameters)
        write_atomically(outputs.metrics, json.dumps({"final": numbers, "epochs": trained.history}, indent=1) + "\n")
        report.write(outputs.report, settings, packed, contract, trained, numbers, chosen.description)
    checkpoints.remove()
    return numbers


def _numbers(history: list[dict[str, Any]], packed: PackedFaces, parameters: int) -> dict[str, float]:
    last = history[-1]
    seconds = sum(row["seconds"] for row in history)
    results: dict[str, float] = {
        name: last[name] for name in ("loss", "accuracy", "validation_loss", "validation_accuracy") if name in last
    }
    return {
        **results,
        "epochs": len(history),
        "identities": len(packed.identities),
        "images": packed.train.manifest.images,
        "parameters": parameters,
        "training_seconds": round(seconds, 1),
        "images_per_second": max(row["images_per_second"] for row in history),
    }


@contextmanager
def _explained_interruption(checkpoint: Path | None) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        if checkpoint is not None and checkpoint.is_file():
            log.warning("training was interrupted; its finished epochs are kept and the same run goes on from there")
        else:
            log.warning("training was interrupted before an epoch was kept: the same run begins anew")
        raise
