"""Aligned faces to augmented faces: one policy line decides, by the number of an identity's images, what becomes of it.

The first pass counts images per identity from keys alone, the plan follows from the counts, and the second pass writes
output shard i from input shard i. Bad settings and data that would leave nothing to train on end the stage before the
second pass. The output's bytes depend on the inputs, the settings and the seed, never on workers or on the order in
which shards are read.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faceflow.components.augment import census, plan, report
from faceflow.components.augment.policy import DEFAULT, Policy
from faceflow.components.augment.shards import STAGE, augment_shard
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import ConservationError, DatasetError
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space

_VARIANT_GROWTH = 3.0  # a noisy JPEG takes up to three times the bytes of the quiet one

log = logging.getLogger("faceflow.augment")


@dataclass(frozen=True)
class Settings(StageSettings):
    """What a person can set; see README.md."""

    policy: str = setting(
        DEFAULT,
        "Rules by n, the images of an identity; the first match wins. A rule is keep, sample(COUNT) or drop, then "
        "operations, each of which adds one changed copy of every kept image: opening, gaussian_noise, salt_pepper.",
    )
    holdout_fraction: float = setting(
        0.0,
        "Fraction of the identities with two images or more to hold out for evaluation, at least 2 of them; "
        "0 holds out none.",
        minimum=0,
        maximum=0.9,
    )
    seed: int = setting(0, "Seed of every random choice.", minimum=0)
    jpeg_quality: int = setting(95, "JPEG quality of augmented copies.", minimum=1, maximum=100)
    workers: int = setting(1, "Worker processes.", minimum=1, affects_output=False)
    runner: str = setting("FnApiRunner", "Beam runner.", affects_output=False)
    runner_options: list[str] = setting([], "Further Beam pipeline options.", affects_output=False)

    def __post_init__(self) -> None:
        """Check the policy too, and keep its canonical text, so that two spellings are one setting.

        Raises:
            SettingsError: A field or the policy is not allowed.
        """
        super().__post_init__()
        object.__setattr__(self, "policy", str(Policy.parse(self.policy)))


@dataclass(frozen=True)
class Inputs:
    """What the stage reads.

    Attributes:
        faces: Aligned-face datasets, one a source.
    """

    faces: tuple[Path, ...]


@dataclass(frozen=True)
class Outputs:
    """What the stage writes.

    Attributes:
        augmented_faces: The faces to train on.
        held_out_faces: The identities held out for evaluation, untouched; an empty dataset where there are none.
        report: HTML.
    """

    augmented_faces: Path
    held_out_faces: Path
    report: Path


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> None:
    """Run the stage.

    Raises:
        DatasetError: The inputs do not go together, or hold fewer than two identities.
        SettingsError: The settings would leave fewer than two identities.
        DiskSpaceError: The outputs would not fit.
    """
    datasets = [Dataset(path) for path in inputs.faces]
    template = _common_template(datasets)
    policy = Policy.parse(settings.policy)
    images_in = sum(dataset.manifest.images for dataset in datasets)
    shards = [(index, str(path)) for index, path in enumerate(path for each in datasets for path in each.shards)]
    engine = Engine(settings.runner, settings.workers, tuple(settings.runner_options))
    with publishing(outputs.augmented_faces) as augmented, publishing(outputs.held_out_faces) as held_out:
        scratch = augmented / "plan"
        scratch.mkdir()
        engine.map(partial(census.count_shard, directory=str(scratch), seed=settings.seed), shards, "count identities")
        decided = plan.make(census.merge(str(scratch), datasets), policy, settings.holdout_fraction, settings.seed)
        log.info("%s images of %s identities in %s shards", f"{images_in:,}", f"{len(decided):,}", len(shards))
        require_free_space(outputs.augmented_faces, _bytes_needed(datasets, decided, policy), "augment")
        holding_out = settings.holdout_fraction > 0
        write = partial(
            augment_shard,
            plan=str(plan.write(decided, scratch)),
            policy=str(policy),
            seed=settings.seed,
            jpeg_quality=settings.jpeg_quality,
            augmented=str(augmented),
            held_out=str(held_out) if holding_out else "",
        )
        engine.map(write, shards, "augment")
        shutil.rmtree(scratch)
        images_held_out = sum(each.images for each in decided.values() if each.rule == plan.HELD_OUT)
        common: dict[str, Any] = {
            "stage": STAGE,
            "settings": settings.for_manifest(),
            "template": template,
            "inputs": {f"faces[{index}]": dataset.fingerprint for index, dataset in enumerate(datasets)},
            "licences": [licence for dataset in datasets for licence in dataset.manifest.licences],
        }
        finish(held_out, images_in=images_held_out, **common)
        manifest = finish(augmented, images_in=images_in, **common)
        _check_against_plan(manifest, decided, policy)
    log.info("%s images of %s identities", f"{manifest.images:,}", f"{manifest.identities:,}")
    report.write(
        outputs.report,
        decided,
        policy,
        Dataset(outputs.augmented_faces),
        Dataset(outputs.held_out_faces),
        settings.seed,
    )


def _common_template(datasets: Sequence[Dataset]) -> str:
    """The one alignment template of all inputs.

    Raises:
        DatasetError: There is no input, an input is not aligned, or two are aligned differently.
    """
    if not datasets:
        raise DatasetError("augment was given no dataset: give at least one that align wrote (--faces DIR).")
    for dataset in datasets:
        if dataset.manifest.template is None:
            raise DatasetError(
                f"{dataset.path} holds faces that are not aligned (stage '{dataset.manifest.stage}'): run align on it."
            )
    templates = {dataset.manifest.template: dataset for dataset in reversed(datasets)}
    if len(templates) > 1:
        told = ", ".join(f"'{template}' ({dataset.path})" for template, dataset in sorted(templates.items(), key=str))
        raise DatasetError(
            f"the inputs were aligned to different templates: {told}. Align every source to the same template."
        )
    return str(datasets[0].manifest.template)


def _bytes_needed(datasets: Sequence[Dataset], decided: plan.Plan, policy: Policy) -> int:
    images_in = sum(each.images for each in decided.values())
    bytes_in = sum(shard.bytes for dataset in datasets for shard in dataset.manifest.shards)
    weight = 0.0
    for each in decided.values():
        if each.rule == plan.HELD_OUT:
            weight += each.images
        else:
            rule = policy.rules[each.rule]
            weight += rule.kept(each.images) * (1 + _VARIANT_GROWTH * len(rule.variants))
    return int(bytes_in / max(1, images_in) * weight)


def _check_against_plan(manifest: Manifest, decided: plan.Plan, policy: Policy) -> None:
    """Refuse an output with other counts than the plan's.

    Raises:
        ConservationError: The second pass did not do what the first one planned.
    """
    planned = sum(
        policy.rules[each.rule].images_out(each.images) for each in decided.values() if each.rule != plan.HELD_OUT
    )
    if manifest.images != planned:
        raise ConservationError(
            f"augment planned {planned:,} images and wrote {manifest.images:,}. "
            "This is a defect of the stage: please report it with the log."
        )
