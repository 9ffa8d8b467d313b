"""Faces to training shards: dense labels, a train/validation split, a global shuffle, and statistics.

The output directory holds two datasets, ``train`` and ``validation``, and is itself a dataset of all their shards.
``labels.csv`` beside them names the identity of every label, ``schema.pbtxt`` describes the records, and
``statistics.json`` says what tfx-bsl counted in them. The bytes depend on the input's records, the settings and the
seed, never on workers or on how the input is sharded.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from faceflow.components.common import ledger
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import ConservationError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.layout import LABELS_NAME, TRAIN, VALIDATION
from faceflow.components.common.ledger import LEDGER_NAME
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.record import SCHEMA_PATH
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space
from faceflow.components.pack import plan, report, shuffle, statistics, survey
from faceflow.components.pack.shuffle import STAGE

STATISTICS_NAME = "statistics.json"
_MEGABYTE = 1_000_000

log = logging.getLogger("faceflow.pack")


@dataclass(frozen=True)
class Settings(StageSettings):
    """What a person can set; see README.md."""

    validation_fraction: float = setting(
        0.005,
        "Fraction of the images to validate on, taken evenly over the identities; an identity always keeps images to "
        "learn from. 0 for none.",
        minimum=0,
        maximum=0.5,
    )
    seed: int = setting(0, "Seed of split and shuffle.", minimum=0)
    shard_mb: int = setting(64, "Size that a shard should have, in megabytes.", minimum=1, maximum=4096)
    workers: int = setting(1, "Worker processes.", minimum=1, affects_output=False)
    runner: str = setting("FnApiRunner", "Beam runner.", affects_output=False)
    runner_options: list[str] = setting([], "Further Beam pipeline options.", affects_output=False)


@dataclass(frozen=True)
class Inputs:
    """What the stage reads.

    Attributes:
        faces: The faces to train on, as augment wrote them.
    """

    faces: Path


@dataclass(frozen=True)
class Outputs:
    """What the stage writes.

    Attributes:
        packed: The packed dataset.
        report: HTML.
    """

    packed: Path
    report: Path


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> None:
    """Run the stage.

    Raises:
        DatasetError: The faces are of fewer than two identities, or the dataset is damaged.
        DiskSpaceError: Shards and spill files would not fit.
        ConservationError: The shards do not hold what went in.
    """
    faces = Dataset(inputs.faces)
    shards = shuffle.numbered(faces.shards)
    engine = Engine(settings.runner, settings.workers, tuple(settings.runner_options))
    size = sum(shard.bytes for shard in faces.manifest.shards)
    # Spill files stay until their records are in shards, so for a while there are two copies.
    require_free_space(outputs.packed, int(2.2 * size), "pack")
    with publishing(outputs.packed) as directory:
        spill = directory / "spill"
        for folder in (spill, directory / TRAIN, directory / VALIDATION):
            folder.mkdir()
        engine.map(partial(survey.survey_shard, directory=str(spill), seed=settings.seed), shards, "survey")
        surveyed = survey.merge(str(spill), len(shards))
        decided = plan.make(surveyed, settings.validation_fraction, settings.shard_mb * _MEGABYTE, settings.seed)
        log.info(
            "%s identities; %s source images to learn from, %s to validate on; %s shards",
            *(f"{n:,}" for n in (len(surveyed), decided.train_images, decided.validation_images, decided.buckets)),
        )
        places: dict[str, Any] = {
            "plan": str(plan.write(decided, spill)),
            "spill": str(spill),
            "output": str(directory),
        }
        scatter = partial(shuffle.scatter_shard, seed=settings.seed, **places)
        engine.map(scatter, shards, "scatter")
        left_out = shuffle.index_spills(str(spill), len(shards))
        engine.map(partial(shuffle.gather_shard, **places), range(decided.buckets), "gather")
        shutil.rmtree(spill)
        counted = _finish(directory, settings, faces, decided, left_out)
    packed = Dataset(outputs.packed)
    log.info("%s records in %s shards", f"{packed.manifest.images:,}", f"{len(packed.shards):,}")
    sides = (Dataset(outputs.packed / TRAIN), Dataset(outputs.packed / VALIDATION))
    report.write(outputs.report, packed, *sides, counted, left_out)


def _finish(
    directory: Path, settings: Settings, faces: Dataset, decided: plan.Plan, left_out: int
) -> dict[str, statistics.Statistics]:
    """Turn the parts into the two datasets and the directory into a dataset of both.

    Returns:
        What tfx-bsl counted, by side.

    Raises:
        ConservationError: What went in and what is in the shards, by our own count or by tfx-bsl's, differ.
    """
    labels = directory / LABELS_NAME
    plan.write_labels(decided, labels)
    shutil.copyfile(SCHEMA_PATH, directory / SCHEMA_PATH.name)
    manifests = {}
    counted = {}
    for side, images in ((TRAIN, decided.train_images), (VALIDATION, decided.validation_images)):
        manifests[side] = finish(
            directory / side,
            stage=STAGE,
            settings=settings.for_manifest(),
            template=faces.manifest.template,
            inputs={"faces": faces.fingerprint},
            images_in=images,
            licences=faces.manifest.licences,
        )
        counted[side] = statistics.measure(Dataset(directory / side).shards, len(decided.places))
        _check(side, manifests[side], counted[side])
    images = sum(manifest.images for manifest in manifests.values())
    if images + left_out != faces.manifest.images:
        raise ConservationError(
            f"pack was given {faces.manifest.images:,} images, but wrote {images:,} and left {left_out:,} copies of "
            "validation images out. This is a defect of the stage: please report it with the log."
        )
    summary = json.dumps(statistics.summary(counted), indent=1, sort_keys=True)
    (directory / STATISTICS_NAME).write_text(summary + "\n", encoding="utf-8")
    ledger.merge((directory / side / LEDGER_NAME for side in manifests), directory / LEDGER_NAME)
    names = (LABELS_NAME, SCHEMA_PATH.name, STATISTICS_NAME)
    variants = sum((Counter(manifest.variants) for manifest in manifests.values()), Counter())
    Manifest(
        stage=STAGE,
        settings=settings.for_manifest(),
        template=faces.manifest.template,
        identities=len(decided.places),
        images=images,
        images_in=decided.train_images + decided.validation_images,
        variants=dict(sorted(variants.items())),
        shards=[
            replace(shard, name=f"{side}/{shard.name}")
            for side, manifest in manifests.items()
            for shard in manifest.shards
        ],
        inputs={"faces": faces.fingerprint},
        attachments={name: file_sha256(directory / name) for name in names},
        licences=faces.manifest.licences,
    ).write(directory)
    return counted


def _check(side: str, manifest: Manifest, counted: statistics.Statistics) -> None:
    faults = dict(counted.faults)
    if counted.records != manifest.images or counted.variants != manifest.variants:
        faults[f"records, where {manifest.images:,} were written"] = counted.records
    if side == TRAIN and 0 in counted.records_per_label:
        faults["labels without an image to learn from"] = counted.records_per_label.count(0)
    if faults:
        told = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise ConservationError(
            f"tfx-bsl found {told} in the {side} shards. This is a defect of the stage: please report it with the log."
        )
