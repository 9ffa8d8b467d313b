"""The packed dataset that training reads: two datasets of labelled records and the list of labels."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from faceflow.components.common.alignment import one_template
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, TrainingError
from faceflow.components.common.geometry import TEMPLATES, Template
from faceflow.components.common.hashing import fingerprint
from faceflow.components.common.layout import LABELS_NAME, TRAIN, VALIDATION
from faceflow.components.common.operations import Variant


@dataclass(frozen=True)
class PackedFaces:
    """A packed dataset, checked for what training needs of it.

    Attributes:
        train: Records to learn from.
        validation: Records that are never learnt from; may be empty. See ``validates_classes``.
        identities: The identity of each label.
        labels: The file that lists them.
        template: What the faces were aligned to.
        online_variants: What training makes of images as it reads them; empty where augment wrote the copies.
    """

    train: Dataset
    validation: Dataset
    identities: list[str]
    labels: Path
    template: Template
    online_variants: tuple[Variant, ...] = ()

    @classmethod
    def open(cls, path: Path) -> PackedFaces:
        """Open the directory that the pack stage wrote.

        Raises:
            DatasetError: It is incomplete, or its faces are not aligned to one template that we know.
            TrainingError: It holds nothing that a classifier could learn.
        """
        train, validation = Dataset(path / TRAIN), Dataset(path / VALIDATION)
        identities = _read_labels(path / LABELS_NAME)
        name = train.manifest.template
        if name not in TEMPLATES:
            raise DatasetError(
                f"{path} holds faces of template {name!r}, but training needs one of {', '.join(TEMPLATES)}: "
                "run align before pack."
            )
        one_template([train, validation])
        if len(identities) < 2:
            raise TrainingError(
                f"{path} has {len(identities)} identity to learn from and a classifier needs at least 2: add "
                "identities, or loosen the augmentation policy that dropped them (its report says why)."
            )
        if not train.manifest.images:
            raise TrainingError(
                f"{path / TRAIN} has no images: give more sources, or lower the validation fraction of pack."
            )
        return cls(train, validation, identities, path / LABELS_NAME, TEMPLATES[name], _online_variants(train))

    @property
    def validates_classes(self) -> bool:
        """Whether there are validation records of the classes; those of identities held back whole have no label."""
        by_identity = self.validation.manifest.settings.get("validation_by") == "identity"
        return self.validation.manifest.images > 0 and not by_identity

    @property
    def fingerprint(self) -> str:
        """A digest of all that training reads."""
        return fingerprint([self.train.fingerprint, self.validation.fingerprint, self.identities])

    def input_size(self, height_px: int) -> tuple[int, int]:
        """Rows and columns of the network's input for a number of rows, the template's proportions kept."""
        return height_px, round(height_px * self.template.width / self.template.height)


def _online_variants(train: Dataset) -> tuple[Variant, ...]:
    """The variants that the records carry.

    Raises:
        DatasetError: This version knows one of them not.
    """
    manifest = train.manifest
    if manifest.images == manifest.records:
        return ()
    try:
        return tuple(Variant.parse(name) for name in sorted(manifest.variants) if name)
    except ValueError as error:
        raise DatasetError(f"{train.path} asks for augmentation that this faceflow cannot do: {error}.") from error


def _read_labels(path: Path) -> list[str]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        labels = {int(row["label"]): row["identity"] for row in rows}
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is missing: give train the output directory of pack.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} is damaged, it needs the columns label and identity ({error!r}): run pack again."
        ) from error
    if sorted(labels) != list(range(len(rows))):
        raise DatasetError(
            f"{path} lists {len(rows):,} labels that are not 0 to {len(rows) - 1:,}, each once: run pack again."
        )
    return [labels[label] for label in range(len(rows))]
