"""The pack stage's report: what is in the shards, as tfx-bsl reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.images import decode
from faceflow.components.common.record import Record
from faceflow.components.common.reports import PALETTE, Report, figure
from faceflow.components.common.storage import readable_bytes
from faceflow.components.pack.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FACES = 20
_COLUMNS, _WIDTH_PX = 10, 78  # five columns in the KFP run page's side panel


def write(
    path: Path,
    packed: Dataset,
    train: Dataset,
    validation: Dataset,
    statistics: Mapping[str, Statistics],
    left_out: int,
) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        packed: The stage's output.
        train: Its training side.
        validation: Its validation side.
        statistics: What tfx-bsl counted, by side.
        left_out: Augmented copies of validation images, which are on neither side.
    """
    sides = {"train": train, "validation": validation}
    report = Report("Packed shards", "Labelled, split and shuffled; counted by tfx-bsl through the checked-in schema.")
    report.facts(
        {
            "identities": packed.manifest.identities,
            "training images": train.manifest.images,
            "validation images": validation.manifest.images,
            "shards": f"{len(train.shards):,} + {len(validation.shards):,}",
            "layout": ", ".join(
                [str(packed.manifest.settings["layout"])]
                + ["gzip"] * (packed.manifest.settings["compression"] == "gzip")
            ),
            "size": readable_bytes(sum(shard.bytes for shard in packed.manifest.shards)),
            "variants left out": left_out,
        }
    )
    report.figure(
        "Images per label",
        _images_per_label(statistics),
        "Labels by their number of images, augmented copies included; validation holds no augmented copy.",
    )
    report.images(
        "Faces as packed",
        [(decode(record.image), _caption(record.label, record.identity, record.variant)) for record in _faces(train)],
        columns=_COLUMNS,
        width_px=_WIDTH_PX,
        note="The first records of the first training shard, with label and identity.",
    )
    report.table("Split", ["", *sides], _split_rows([statistics[side] for side in sides]))
    report.figure("Size of the encoded images", _kilobytes_per_image(statistics))
    report.table(
        "Fields",
        ["field", *(f"{side}: absent" for side in sides)],
        [[name, *(statistics[side].missing[name] for side in sides)] for name in statistics["train"].missing],
        "Records without the field; online variants, landmarks, score, gender and age are optional, and only raw faces "
        "have a box.",
    )
    report.write(path)


def _split_rows(found: Sequence[Statistics]) -> list[list[object]]:
    variants = sorted({variant for each in found for variant in each.variants} - {""})
    sizes = sorted({size for each in found for size in each.image_sizes})
    return [
        ["source images", *(each.variants.get("", 0) for each in found)],
        *([f"copies: {name}", *(each.variants.get(name, 0) for each in found)] for name in variants),
        *([f"of {size} px", *(each.image_sizes.get(size, 0) for each in found)] for size in sizes),
        ["labels with images", *(sum(count > 0 for count in each.images_per_label) for each in found)],
        ["fewest images of a label", *(min(each.images_per_label, default=0) for each in found)],
        ["most images of a label", *(max(each.images_per_label, default=0) for each in found)],
        ["records that do not fit the schema", *(each.unreadable + sum(each.misfits.values()) for each in found)],
    ]


def _images_per_label(statistics: Mapping[str, Statistics]) -> Figure:
    from matplotlib.ticker import MaxNLocator

    drawn, axes = figure(6.4, 3.0)
    counts = np.array(statistics["train"].images_per_label)
    top = int(counts.max())
    steps = np.arange(0, top + 2) if top < 40 else np.unique(np.linspace(0, top + 1, 40).round())
    edges = [float(step) - 0.5 for step in steps]
    axes.hist(counts, edges, color=PALETTE[0], label="train")
    held = np.array(statistics["validation"].images_per_label)
    if held.any():
        axes.hist(held, edges, histtype="step", linewidth=1.6, color=PALETTE[1], label="validation")
    axes.set_xlabel("images per label")
    axes.set_ylabel("labels")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawn


def _kilobytes_per_image(statistics: Mapping[str, Statistics]) -> Figure:
    drawn, axes = figure(6.4, 2.4)
    counts = statistics["train"].image_kilobytes
    axes.bar([int(low) + 0.5 for low in counts], list(counts.values()), width=0.92, color=PALETTE[0])
    axes.set_xlabel("kB per image")
    axes.set_ylabel("training images")
    return drawn


def _faces(train: Dataset) -> list[Record]:
    faces = []
    for record in train.records(0):
        faces.append(record)
        if len(faces) == _FACES:
            break
    return faces


def _caption(label: int | None, identity: str, variant: str) -> str:
    return " ".join(part for part in (f"{label}: {identity}", variant.replace("_", " ")) if part)
