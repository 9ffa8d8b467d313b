"""Scoring a model on one set of faces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, ImageError
from faceflow.components.common.images import decode
from faceflow.components.common.logs import progress
from faceflow.components.common.model import ModelContract, embed, resize
from faceflow.components.common.record import Record, peek
from faceflow.components.evaluate import baselines
from faceflow.components.evaluate.sets import FaceSet
from faceflow.components.evaluate.verification import Fold, Roc, cross_validate, mean_and_std, roc, squared_distances


@dataclass(frozen=True)
class Scored:
    """A model's results on a set.

    Attributes:
        faces: The set.
        images: Distinct images among its pairs.
        cosines: (N,) cosine of each pair's embeddings.
        folds: Results by fold.
        roc: Over all pairs.
        baselines: Mean accuracy over the same folds, by baseline.
    """

    faces: FaceSet
    images: int
    cosines: NDArray[np.float64]
    folds: list[Fold]
    roc: Roc
    baselines: dict[str, float]

    def for_json(self, fars: Sequence[float]) -> dict[str, Any]:
        """The results as the scores file has them."""
        accuracy, std = mean_and_std(self.folds)
        pairs = self.faces.pairs
        return {
            "name": self.faces.name,
            "protocol": pairs.protocol,
            "identities": self.faces.identities,
            "images": self.images,
            "pairs": len(pairs),
            "missing_pairs": self.faces.missing,
            "folds": len(self.folds),
            "folds_note": pairs.note,
            "accuracy": accuracy,
            "accuracy_std": std,
            "threshold": float(np.mean([fold.threshold for fold in self.folds])),
            "auc": self.roc.auc,
            "eer": self.roc.eer,
            "tar_at_far": [{"far": far, "tar": self.roc.tar_at(far)} for far in fars if self.roc.supports(far)],
            "fars_without_enough_pairs": [far for far in fars if not self.roc.supports(far)],
            "baselines": self.baselines,
            "per_fold": [
                {"fold": fold.fold, "pairs": fold.pairs, "accuracy": fold.accuracy, "threshold": fold.threshold}
                for fold in self.folds
            ],
        }


def score(faces: FaceSet, model: Any, contract: ModelContract, *, flip: bool, batch_size: int) -> Scored:
    """Embed the images of a set's pairs and score them, beside the baselines on the same folds.

    The images are held in memory at the network's input size.

    Args:
        faces: The set.
        model: The network.
        contract: Its contract.
        flip: Whether an embedding is the sum of those of an image and its mirror image.
        batch_size: Images of a batch.

    Raises:
        DatasetError: An image cannot be decoded.
    """
    places = {key: place for place, key in enumerate(dict.fromkeys(key for pair in faces.pairs.keys for key in pair))}
    pairs = np.array([[places[one], places[other]] for one, other in faces.pairs.keys], np.int64)
    pixels = np.zeros((len(places), contract.height_px, contract.width_px, 3), np.uint8)
    order: list[int] = []

    def images() -> Iterator[NDArray[np.uint8]]:
        wanted = progress(wanted_records(faces.dataset, places), len(places), label=f"embedding {faces.name}")
        for record in wanted:
            place = places[record.key]
            pixels[place] = _pixels(record, faces.dataset, contract)
            order.append(place)
            yield pixels[place]

    rows = embed(model, images(), flip=flip, batch_size=batch_size)
    embeddings = np.empty_like(rows)
    embeddings[order] = rows
    distances = squared_distances(embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
    same, folds = faces.pairs.same, faces.pairs.folds
    plain = {
        "raw_pixels": baselines.raw_pixels(pixels, pairs),
        "raw_pixels_centred": baselines.raw_pixels_centred(pixels, pairs),
    }
    return Scored(
        faces,
        len(places),
        1 - distances / 2,
        cross_validate(distances, same, folds),
        roc(1 - distances / 2, same),
        {name: mean_and_std(cross_validate(values, same, folds))[0] for name, values in plain.items()},
    )


def wanted_records(dataset: Dataset, keys: Any) -> Iterator[Record]:
    """The records of a dataset whose key is among those given (anything with ``in``)."""
    for payload in dataset.payloads():
        if peek(payload)[0] in keys:
            yield Record.decode(payload)


def _pixels(record: Record, dataset: Dataset, contract: ModelContract) -> NDArray[np.uint8]:
    try:
        image = decode(record.image)
    except ImageError as error:
        raise DatasetError(
            f"{dataset.path}: image {record.key!r} cannot be used ({error}): run {dataset.manifest.stage} again."
        ) from error
    if image.shape[:2] == (contract.height_px, contract.width_px):
        return image
    return np.asarray(resize(image, contract.height_px, contract.width_px))
