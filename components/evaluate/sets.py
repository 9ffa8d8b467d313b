"""The sets of faces to evaluate on: which pairs each is scored on, and whether they can be scored at all."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.layout import PAIRS_NAME
from faceflow.components.common.record import peek
from faceflow.components.evaluate.pairs import Pairs, make_pairs, read_pairs

log = logging.getLogger("faceflow.evaluate")


@dataclass(frozen=True)
class FaceSet:
    """A set that can be scored.

    Attributes:
        name: What to call it.
        dataset: Its faces.
        pairs: The pairs whose two images are both there.
        missing: Pairs left out because an image is not.
        identities: Distinct identities in the dataset.
    """

    name: str
    dataset: Dataset
    pairs: Pairs
    missing: int
    identities: int


@dataclass(frozen=True)
class Unscored:
    """A set that cannot be scored, and why."""

    name: str
    reason: str


def source_name(dataset: Dataset) -> str:
    """What the keys of a dataset that is not empty begin with: the name of its source."""
    return peek(next(dataset.payloads()))[0].split("/", 1)[0]


def check_template(dataset: Dataset, name: str, template: str, interpolation: str) -> None:
    """Refuse faces that are not aligned as the model's training faces were.

    Raises:
        DatasetError: They are aligned to another template, or to none, or were drawn with another interpolation.
    """
    if dataset.manifest.template != template:
        raise DatasetError(
            f"the model was trained on faces aligned to template {template!r}, but '{name}' ({dataset.path}) is "
            f"aligned to {dataset.manifest.template!r}: align to {template!r} (align's 'template') or train anew."
        )
    if dataset.manifest.interpolation not in (None, interpolation):
        raise DatasetError(
            f"the model was trained on faces drawn with the interpolation '{interpolation}', but '{name}' "
            f"({dataset.path}) with '{dataset.manifest.interpolation}': align both with one version of faceflow."
        )


def prepare(
    dataset: Dataset, name: str, *, seed: int, most_folds: int, pairs_per_fold: int, max_missing_fraction: float
) -> FaceSet | Unscored:
    """Find or make a dataset's pairs.

    Args:
        dataset: Faces, not empty.
        name: What to call the set.
        seed: Of pairs that have to be made.
        most_folds: Likewise, largest number of folds.
        pairs_per_fold: Likewise, largest number of pairs of each kind in a fold.
        max_missing_fraction: Of pairs that came with the set.

    Raises:
        DatasetError: ``pairs.csv`` is damaged, or too many of its pairs lack an image.
    """
    images: dict[str, list[str]] = {}
    for payload in dataset.payloads():
        key, identity, variant = peek(payload)
        if not variant:
            images.setdefault(identity, []).append(key)
    given = dataset.attachment(PAIRS_NAME)
    if given is None:
        made = make_pairs(images, seed, most_folds, pairs_per_fold)
        if isinstance(made, str):
            return Unscored(name, made)
        return FaceSet(name, dataset, made, 0, len(images))
    pairs = read_pairs(given)
    known = {key for keys in images.values() for key in keys}
    there = np.array([one in known and other in known for one, other in pairs.keys], bool)
    missing = int(len(pairs) - there.sum())
    if len(pairs) and missing > max_missing_fraction * len(pairs):
        raise DatasetError(
            f"'{name}' lacks an image for {missing:,} of its {len(pairs):,} pairs, which is more than "
            f"max_missing_pairs_fraction, {max_missing_fraction:g}, allows. {_fates(dataset, pairs, known)}"
        )
    if missing:
        log.warning(
            "'%s' lacks an image for %s of its %s pairs: they are left out", name, f"{missing:,}", f"{len(pairs):,}"
        )
    pairs = pairs.only(there)
    if len(set(pairs.folds.tolist())) < 2 or not 0 < pairs.same.sum() < len(pairs):
        return Unscored(name, "its pairs.csv needs two folds, and pairs of one identity as well as of two")
    return FaceSet(name, dataset, pairs, missing, len(images))


def _fates(dataset: Dataset, pairs: Pairs, known: Iterable[str]) -> str:
    """What the ledger says about the images that are missing."""
    missing = {key for pair in pairs.keys for key in pair} - set(known)
    rows = dataset.ledger()
    dropped = rows.filter(pc.equal(rows["outcome"], "dropped")).select(["key", "reason"]).to_pylist()
    fates = Counter(row["reason"] for row in dropped if row["key"] in missing)
    unknown = len(missing) - fates.total()
    told = [f"{count:,} {reason}" for reason, count in fates.most_common()]
    if unknown:
        told.append(f"{unknown:,} that {dataset.manifest.stage} never saw")
    return (
        f"Of the {len(missing):,} images, its ledger says: {', '.join(told)}. Loosen the alignment's limits, check "
        "that the source is complete, or raise max_missing_pairs_fraction."
    )
