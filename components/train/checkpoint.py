"""Training state that survives a killed process: one file for each training, replaced after every epoch."""

from __future__ import annotations

import json
import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.storage import require_free_space

log = logging.getLogger("faceflow.train")

_PROGRESS = "progress"


@dataclass(frozen=True)
class State:
    """Where a training stands.

    Attributes:
        phase: Index of the phase that it is in.
        epoch: Epochs finished, over all phases.
        history: One row of results for each of them.
        arrays: The values of the phase's variables, in the order of :func:`variables_of`.
    """

    phase: int
    epoch: int
    history: list[dict[str, Any]]
    arrays: list[NDArray[Any]]


def variables_of(model: Any) -> list[Any]:
    """All that a compiled, built Keras model needs to go on: weights, batch statistics, optimizer, step count."""
    return [*model.variables, *model.optimizer.variables]


class Checkpoints:
    """Keeps the latest state of one training.

    Args:
        directory: Scratch space that outlives the process; None keeps nothing.
        key: Fingerprint of the training's inputs and settings: another training never reads this one's state.
    """

    def __init__(self, directory: Path | None, key: str) -> None:
        """Name the file."""
        self.path = None if directory is None else directory / f"train-{key}.npz"

    def reserve(self, model: Any) -> None:
        """Check that the volume has room for two states, the kept one and the one that replaces it.

        Raises:
            DiskSpaceError: It has not.
        """
        if self.path is not None:
            size = sum(int(np.prod(variable.shape)) * 4 for variable in variables_of(model))
            require_free_space(self.path.parent, 2 * size, "The training's checkpoint")

    def save(self, phase: int, epoch: int, history: Sequence[dict[str, Any]], model: Any) -> None:
        """Replace the kept state."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {f"v{index:05d}": v.numpy() for index, v in enumerate(variables_of(model))}
        arrays[_PROGRESS] = np.array(json.dumps({"phase": phase, "epoch": epoch, "history": list(history)}))
        aside = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            with open(aside, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
            os.replace(aside, self.path)
        finally:
            aside.unlink(missing_ok=True)

    def load(self) -> State | None:
        """The kept state; None if there is none, or if it cannot be read, which the log then says."""
        if self.path is None or not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                progress = json.loads(str(file[_PROGRESS]))
                arrays = [file[name] for name in sorted(file.files) if name != _PROGRESS]
            return State(progress["phase"], progress["epoch"], progress["history"], arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            log.warning("the checkpoint %s cannot be read (%s): training starts over", self.path, error)
            return None

    def remove(self) -> None:
        """Forget the state, once its training is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def restore(model: Any, arrays: Sequence[NDArray[Any]]) -> bool:
    """Put saved values into a compiled, built model.

    Returns:
        False, with the model as it was, if the values are those of another network.
    """
    variables = variables_of(model)
    if [tuple(v.shape) for v in variables] != [array.shape for array in arrays]:
        log.warning("the checkpoint is of another version of the network: training starts over")
        return False
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)
    return True
