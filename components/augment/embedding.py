"""Faces to embeddings, by the model that cleaning is given."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import files
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.model import (
    CONTRACT_NAME,
    ModelContract,
    embed,
    load_model,
    load_model_contract,
    normalise,
    resize,
)


@dataclass(frozen=True)
class Embedder:
    """A loaded model.

    Attributes:
        contract: What the model says of itself.
        network: The ``keras.Model``.
    """

    contract: ModelContract
    network: Any

    @property
    def size(self) -> int:
        """Values of an embedding."""
        return self.contract.embedding_size

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Embed aligned faces of one size, (N, size), each row of length 1."""
        if not images:
            return np.empty((0, self.size), np.float32)
        pixels = np.stack(images)
        wanted = (self.contract.height_px, self.contract.width_px)
        if pixels.shape[1:3] != wanted:
            pixels = np.asarray(resize(pixels, *wanted))
        return embed(self.network, pixels)


@lru_cache(maxsize=1)
def embedder(location: str) -> Embedder:
    """Load a model from a folder or a URI; a worker keeps the last one that it loaded.

    Raises:
        DatasetError: It is no faceflow model, or is damaged.
        StorageError: The object store cannot be reached.
    """
    if not files.is_remote(location):
        return Embedder(load_model_contract(Path(location)), load_model(Path(location)))
    folder = Path(tempfile.mkdtemp(prefix="faceflow-model-"))
    try:
        fetch(location, folder)
        return Embedder(load_model_contract(folder), load_model(folder))
    finally:
        shutil.rmtree(folder)


def contract_of(location: str) -> tuple[ModelContract, dict[str, str]]:
    """A model's contract, and the digests of what decides its embeddings.

    Raises:
        DatasetError: It is no faceflow model.
        StorageError: The object store cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="faceflow-model-") as kept:
        folder = Path(location)
        if files.is_remote(location):
            folder = Path(kept)
            fetch(location, folder)
        contract = load_model_contract(folder)
        return contract, {name: file_sha256(folder / name) for name in (CONTRACT_NAME, contract.model_file)}


def fetch(location: str, folder: Path) -> None:
    """Copy the files of a folder of an object store."""
    for name in files.listing(location):
        files.copy_in(files.join(location, name), folder / name)


def centre(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """The direction of the mean of (N, D) embeddings of length 1; zero where they cancel out."""
    return np.asarray(normalise(embeddings.astype(np.float64).mean(0, keepdims=True))[0])
