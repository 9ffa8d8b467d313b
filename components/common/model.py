"""The model artifact: an embedding network and the contract that says how to feed it.

``model.json`` travels beside the network, so that whoever uses the model prepares images as the training did.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.layout import LABELS_NAME
from faceflow.components.common.logs import holding_back_native_chatter
from faceflow.components.common.storage import write_atomically

CONTRACT_NAME = "model.json"
SCHEMA_VERSION = 1
SCALING = "inside the model: (x - 127.5) / 127.5"
RESIZING = "bilinear, antialiased, rounded to integers"


@dataclass(frozen=True)
class ModelContract:
    """The contents of ``model.json``; it has no timestamp and no path.

    Attributes:
        network: Name of the architecture.
        height_px: Rows of the input.
        width_px: Columns of the input.
        template: Name of the alignment template, of the input's proportions.
        interpolation: How the faces were drawn on it.
        embedding_size: Values of an embedding.
        identities: Number of identities that the training knew.
        training: What the model was made from: fingerprint of data and settings, and the settings.
        channels: Order of the input's channels.
        pixel_range: Smallest and largest value of an input channel.
        scaling: Where pixels are scaled, and how.
        resizing: How an aligned image of another size becomes the input.
        normalised: Whether the model's output is already of length 1.
        model_file: The Keras model, a file of the same directory.
        labels_file: The label map (columns label, identity), likewise.
        schema_version: Version of this layout.
    """

    network: str
    height_px: int
    width_px: int
    template: str
    embedding_size: int
    identities: int
    training: dict[str, Any]
    interpolation: str = "bilinear"
    channels: str = "RGB"
    pixel_range: list[int] = field(default_factory=lambda: [0, 255])
    scaling: str = SCALING
    resizing: str = RESIZING
    normalised: bool = False
    model_file: str = "model.keras"
    labels_file: str = LABELS_NAME
    schema_version: int = SCHEMA_VERSION

    def write(self, directory: Path) -> None:
        """Write ``model.json`` into a model directory."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_atomically(directory / CONTRACT_NAME, text + "\n")


def load_model_contract(directory: Path) -> ModelContract:
    """Read a model directory's contract.

    Raises:
        DatasetError: It is missing, damaged, of another version, or names a file that is not there.
    """
    path = directory / CONTRACT_NAME
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(
            f"{directory} is not a faceflow model: it has no {CONTRACT_NAME}. Give the model that train wrote."
        ) from error
    except ValueError as error:
        raise DatasetError(f"{path} is damaged ({error}): run train again.") from error
    version = data.get("schema_version") if isinstance(data, dict) else None
    if version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path} has schema version {version!r}, this faceflow reads {SCHEMA_VERSION}: run train again."
        )
    try:
        contract = ModelContract(**data)
    except TypeError as error:
        raise DatasetError(f"{path} lacks or adds a field ({error}): run train again.") from error
    if (contract.channels, contract.scaling, contract.resizing) != ("RGB", SCALING, RESIZING):
        raise DatasetError(
            f"{path} asks for channels {contract.channels!r}, scaling {contract.scaling!r} and resizing "
            f"{contract.resizing!r}, which this faceflow cannot do: run train again."
        )
    for name in (contract.model_file, contract.labels_file):
        if not (directory / name).is_file():
            raise DatasetError(f"{directory / name} is missing: run train again.")
    return contract


def load_model(directory: Path) -> Any:
    """Load a model directory's network, a ``keras.Model`` from pixels to embeddings, for inference.

    Raises:
        DatasetError: The directory is no faceflow model, or the network's shapes are not those of the contract.
    """
    contract = load_model_contract(directory)
    path = directory / contract.model_file
    try:
        with holding_back_native_chatter():
            import keras

            model = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DatasetError(f"{path} cannot be loaded ({error}): run train again.") from error
    wanted = ((None, contract.height_px, contract.width_px, 3), (None, contract.embedding_size))
    found = (tuple(model.input_shape), tuple(model.output_shape))
    if found != wanted:
        raise DatasetError(f"{path} maps {found} where {CONTRACT_NAME} says {wanted}: run train again.")
    return model


def resize(images: Any, height_px: int, width_px: int) -> Any:
    """Resize images the one way that training and evaluation share; usable in ``tf.data`` and eagerly.

    Args:
        images: (..., H, W, 3) uint8 tensor or array.
        height_px: Rows wanted.
        width_px: Columns wanted.

    Returns:
        (..., height_px, width_px, 3) uint8 tensor.
    """
    import tensorflow as tf

    resized = tf.image.resize(images, (height_px, width_px), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def embed(
    model: Any, images: Iterable[NDArray[np.uint8]], *, flip: bool = True, batch_size: int = 128
) -> NDArray[np.float32]:
    """Embed images of the model's input size.

    Args:
        model: From :func:`load_model`.
        images: Each (H, W, 3) uint8 RGB; they may be generated, only a batch is held at a time.
        flip: Whether an embedding is the sum of those of the image and of its mirror image.
        batch_size: Images of a batch.

    Returns:
        (N, embedding size), each row of length 1.
    """
    rows = [_embed_batch(model, np.stack(batch), flip) for batch in _batched(images, batch_size)]
    if not rows:
        return np.empty((0, model.output_shape[-1]), np.float32)
    return normalise(np.concatenate(rows))


def _embed_batch(model: Any, batch: NDArray[np.uint8], flip: bool) -> NDArray[np.float32]:
    count = len(batch)
    embeddings = np.asarray(model.predict_on_batch(batch), np.float32)
    if flip:
        embeddings = embeddings + np.asarray(model.predict_on_batch(batch[:, :, ::-1]), np.float32)
    return embeddings[:count]


def _batched(images: Iterable[NDArray[np.uint8]], size: int) -> Iterator[list[NDArray[np.uint8]]]:
    batch: list[NDArray[np.uint8]] = []
    for image in images:
        batch.append(image)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def normalise(rows: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale each row of (N, D) to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), np.float32)
