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

from faceflow.components.common import contents, index, ledger, memory, tfrecord
from faceflow.components.common.alignment import one_template
from faceflow.components.common.beside import is_core_free
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import check_settings, runner_options_setting, runner_setting, work_uri_setting
from faceflow.components.common.errors import ConservationError
from faceflow.components.common.hashing import file_sha256
from faceflow.components.common.layout import LABELS_NAME, TRAIN, VALIDATION
from faceflow.components.common.ledger import LEDGER_NAME
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.record import SCHEMA_PATH
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space
from faceflow.components.common.workplace import Workplace
from faceflow.components.pack import plan, report, shuffle, statistics, survey, tables
from faceflow.components.pack.shuffle import STAGE

STATISTICS_NAME = "statistics.json"
_MEGABYTE = 1_000_000
_VERIFIED_UNASKED = 50_000

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
    validation_by: str = setting(
        "image",
        "image takes some images of every identity; identity takes that fraction of the identities with all their "
        "images, which are then no classes and have no label.",
        choices=plan.SPLITS,
    )
    layout: str = setting(
        "shuffled",
        "shuffled puts the records into one random order over all shards, for softmax heads; grouped keeps the images "
        "of an identity together, for batches of P identities with K images each.",
        choices=plan.LAYOUTS,
    )
    compression: str = setting("none", "Of the shards; JPEGs hardly shrink.", choices=tfrecord.COMPRESSIONS)
    seed: int = setting(0, "Seed of split and shuffle.", minimum=0)
    shard_mb: int = setting(64, "Size that a shard should have, in megabytes.", minimum=1, maximum=4096)
    spill: str = setting(
        "auto",
        "Whether the shuffle first copies the records of each shard-to-be together on the disk: always, never, or "
        "auto, where the input is larger than half of the free memory or the workers are elsewhere. Without a copy "
        "each record is read from where it is, which is faster as long as memory caches the input.",
        choices=("auto", "always", "never"),
        affects_output=False,
    )
    verify_with_tfxio: str = setting(
        "auto",
        "Whether to read every shard once more through TFXIO when all are written, and compare with what was counted "
        f"while they were; imports TensorFlow. auto: where there are at most {_VERIFIED_UNASKED:,} records.",
        choices=("auto", "always", "never"),
        affects_output=False,
    )
    workers: int = setting(1, "Worker processes.", minimum=1, affects_output=False)
    runner: str = runner_setting()
    runner_options: list[str] = runner_options_setting()
    work_uri: str = work_uri_setting()

    def __post_init__(self) -> None:
        """Check the fields, and that those on the engine go together.

        Raises:
            SettingsError: They do not.
        """
        super().__post_init__()
        check_settings(self)


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
        DatasetError: The faces are not aligned or of fewer than two identities, or the dataset is damaged.
        DiskSpaceError: Shards and spill files would not fit.
        ConservationError: The shards do not hold what went in.
    """
    faces = Dataset(inputs.faces)
    one_template([faces])
    size = sum(shard.bytes for shard in faces.manifest.shards)
    copying = _copying(settings, faces, size)
    # Spill files stay until their records are in shards, so for a while there are two copies.
    require_free_space(outputs.packed, int((2.2 if copying else 1.2) * size), "pack")
    with publishing(outputs.packed) as directory, Workplace(STAGE, settings, [faces.fingerprint]) as workplace:
        surveyed = survey.count(faces)
        taken = plan.split(surveyed, settings.validation_fraction, settings.validation_by, settings.seed)
        decided = plan.make(
            surveyed,
            taken,
            survey.thresholds(faces, surveyed, taken, settings.seed),
            shard_bytes=settings.shard_mb * _MEGABYTE,
            grouped=settings.layout == "grouped",
            seed=settings.seed,
        )
        log.info(
            "%s identities; %s source images to learn from, %s to validate on; %s shards",
            *(
                f"{n:,}"
                for n in (len(decided.identities), decided.train_images, decided.validation_images, decided.buckets)
            ),
        )
        spill = workplace.folder(directory / "spill")
        sides = {side: workplace.folder(directory / side) for side in (TRAIN, VALIDATION)}
        places: dict[str, Any] = {"plan": plan.write(decided, spill), "spill": spill, **sides}
        shards = workplace.shards(faces.shards)
        contents.cut([faces], spill)
        scatter = partial(shuffle.scatter_shard, seed=settings.seed, copying=copying, **places)
        # Under another name, so that a try that copies takes nothing over from one that did not.
        workplace.map(scatter, shards, "scatter and copy" if copying else "scatter")
        left_out = tables.index(spill, [path for _, path in shards], decided.buckets, copied=copying)
        gather = partial(
            shuffle.gather_shard, compression=settings.compression, core_free=is_core_free(settings), **places
        )
        workplace.map(gather, range(decided.buckets), "gather")
        for folder in sides.values():
            workplace.collect(folder)
        workplace.clear(spill)
        counted = _finish(directory, settings, faces, decided, left_out)
    packed = Dataset(outputs.packed)
    log.info("%s records in %s shards", f"{packed.manifest.records:,}", f"{len(packed.shards):,}")
    written = (Dataset(outputs.packed / TRAIN), Dataset(outputs.packed / VALIDATION))
    report.write(outputs.report, packed, *written, counted, left_out)


def _copying(settings: Settings, faces: Dataset, size: int) -> bool:
    # In a compressed shard no record can be read without those before it.
    if any(tfrecord.is_gzip(shard.name) for shard in faces.manifest.shards):
        return True
    if settings.spill == "auto":
        return bool(settings.work_uri) or size > memory.available() // 2
    return settings.spill == "always"


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
    classes = len(decided.classes)
    manifests = {}
    counted = {}
    verifying = _verifies(settings, faces.manifest.records)
    for side, images in ((TRAIN, decided.train_images), (VALIDATION, decided.validation_images)):
        folder = directory / side
        parts = (path.read_bytes() for path in sorted(folder.glob("part-*.statistics")))
        counted[side] = statistics.total(parts, classes)
        index.merge(sorted(folder.glob("part-*.index.parquet")), folder / index.INDEX_NAME)
        manifests[side] = finish(
            folder,
            stage=STAGE,
            settings=settings.for_manifest(),
            template=faces.manifest.template,
            inputs={"faces": faces.fingerprint},
            images_in=images,
            attachments=[folder / index.INDEX_NAME],
            licences=faces.manifest.licences,
        )
        labelled = side == TRAIN or settings.validation_by == "image"
        _check(side, manifests[side], counted[side], labelled)
        if verifying:
            _check_again(side, counted[side], statistics.measure(Dataset(folder).shards, classes))
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
        identities=len(decided.identities),
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


def _verifies(settings: Settings, records: int) -> bool:
    if settings.verify_with_tfxio == "auto":
        return records <= _VERIFIED_UNASKED
    return settings.verify_with_tfxio == "always"


def _check_again(side: str, counted: statistics.Statistics, read: statistics.Statistics) -> None:
    if counted != read:
        names = [name for name, value in read.to_json().items() if value != counted.to_json()[name]]
        raise ConservationError(
            f"the {side} shards, read through TFXIO, differ in {', '.join(names)} from what was written. "
            "Check the volume, and run the stage again."
        )


def _check(side: str, manifest: Manifest, counted: statistics.Statistics, labelled: bool) -> None:
    faults = counted.faults(labelled)
    if counted.records != manifest.records or counted.variants != manifest.variants:
        faults[f"records, where {manifest.records:,} were written"] = counted.records
    if side == TRAIN and 0 in counted.images_per_label:
        faults["labels without an image to learn from"] = counted.images_per_label.count(0)
    if faults:
        told = ", ".join(f"{count:,} {what}" for what, count in faults.items())
        raise ConservationError(
            f"tfx-bsl found {told} in the {side} shards. This is a defect of the stage: please report it with the log."
        )
