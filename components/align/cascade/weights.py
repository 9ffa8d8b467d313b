"""The weights of the three networks, as the wheel of the ``mtcnn`` package carries them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import joblib
import numpy as np
from numpy.typing import NDArray

NAMES = ("pnet", "rnet", "onet")


def load(name: str) -> list[NDArray[np.float32]]:
    """Read one network's weights.

    The package is looked up, not imported: importing it would load TensorFlow.

    Args:
        name: ``pnet``, ``rnet`` or ``onet``.

    Returns:
        The arrays layer by layer: convolution kernels (rows, columns, in, out) and dense ones (in, out), each followed
        by its bias (out,), and in hidden layers by the slopes of the parametric ReLU (1, 1, out) or (out,).

    Raises:
        ModuleNotFoundError: The package is not installed.
    """
    found = importlib.util.find_spec("mtcnn")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the networks' weights come with the package mtcnn: pip install 'mtcnn>=1.0,<2'")
    path = Path(found.submodule_search_locations[0]) / "assets" / "weights" / f"{name}.lz4"
    return [np.asarray(array, np.float32) for array in joblib.load(path)]
