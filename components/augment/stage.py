"""Aligned faces to augmented faces: one policy line decides, by the number of an identity's images, what becomes of it.

The images of an identity are counted from the ledgers alone, the plan follows from the counts, and one pass over the
pictures writes output shard i from input shard i. Bad settings and data that would leave nothing to train on end the
stage before the pass. The output's bytes depend on the inputs, the settings and the seed, never on workers or on the
order in which shards are read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from faceflow.components.augment import census, cleaning, plan, report
from faceflow.components.augment.cleaning import NOTHING_CLEANED
from faceflow.components.augment.policy import DEFAULT, Policy
from faceflow.components.augment.references import References
from faceflow.components.augment.shards import STAGE, augment_shard
from faceflow.components.common import contents
from faceflow.components.common.alignment import one_template
from faceflow.components.common.beside import is_core_free
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.engine import check_settings, runner_options_setting, runner_setting, work_uri_setting
from faceflow.components.common.errors import ConservationError, DatasetError, SettingsError
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import require_free_space
from faceflow.components.common.workplace import Workplace

_VARIANT_GROWTH = 3.0  # a noisy JPEG takes up to three times the bytes of the quiet one

log = logging.getLogger("faceflow.augment")


@dataclass(frozen=True)
class Settings(StageSettings):
    """What a person can set; see README.md."""

    policy: str = setting(
        DEFAULT,
        "Rules by n, the images of an identity; the first match wins. A rule is keep, sample(COUNT) or drop, then "
        "operations, each of which adds one changed copy of every kept image; docs/operations.md shows them all.",
    )
    materialize: bool = setting(
        True,
        "Whether to write the changed copies. Otherwise each image is written once with the names of its operations, "
        "and training applies them as it reads, with new noise in every epoch: the same counts on a fraction of the "
        "disk.",
    )
    holdout_fraction: float = setting(
        0.0,
        "Fraction of the identities with two images or more to hold out for evaluation, at least 2 of them; "
        "0 holds out none.",
        minimum=0,
        maximum=0.9,
    )
    seed: int = setting(0, "Seed of every random choice.", minimum=0)
    duplicate_distance: int = setting(
        -1,
        "Largest distance of the perceptual hashes of two images of one identity, of 256 bits, at which only one of "
        "them stays: 28 finds recompressed, resized and slightly cropped copies. -1 keeps duplicates.",
        minimum=-1,
        maximum=100,
    )
    overlap_names: str = setting(
        "",
        "Path or URI of a text file with an identity a line that evaluation also holds: those are dropped. "
        "Letter case, spaces, dots, hyphens and underscores do not count.",
        affects_output=False,
    )
    cleaning_model: str = setting(
        "",
        "Path or URI of a model that train wrote, by which identities that overlap evaluation faces and outliers are "
        "found.",
        affects_output=False,
    )
    overlap_faces: list[str] = setting(
        [],
        "Paths or URIs of evaluation faces that align wrote: identities with a centre like one of theirs are dropped.",
        affects_output=False,
    )
    overlap_cosine: float = setting(
        0.4, "Cosine of two identities' centres above which they are one.", minimum=-1, maximum=1
    )
    outlier_cosine: float = setting(
        -1.0,
        "Cosine to the centre of its identity below which an image is dropped as an outlier; -1 keeps all.",
        minimum=-1,
        maximum=1,
    )
    jpeg_quality: int = setting(95, "JPEG quality of augmented copies.", minimum=1, maximum=100)
    workers: int = setting(1, "Worker processes.", minimum=1, affects_output=False)
    runner: str = runner_setting()
    runner_options: list[str] = runner_options_setting()
    work_uri: str = work_uri_setting()

    def __post_init__(self) -> None:
        """Check the policy too, and keep its canonical text, so that two spellings are one setting.

        Raises:
            SettingsError: A field or the policy is not allowed.
        """
        super().__post_init__()
        check_settings(self)
        if (self.overlap_faces or self.outlier_cosine > -1) and not self.cleaning_model:
            which = "overlap_faces" if self.overlap_faces else "outlier_cosine"
            raise SettingsError(
                f"setting '{which}' is {getattr(self, which)!r}, but faces are compared by a model: "
                "set cleaning_model to the path or URI of a model that train wrote."
            )
        if self.cleaning_model and not self.overlap_faces and self.outlier_cosine == -1:
            raise SettingsError(
                f"setting 'cleaning_model' is {self.cleaning_model!r}, but nothing uses it: "
                "set overlap_faces or outlier_cosine, or leave it out."
            )
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
    shards = [path for dataset in datasets for path in dataset.shards]
    inputs_told = {f"faces[{index}]": dataset.fingerprint for index, dataset in enumerate(datasets)}
    references = References.open(settings.overlap_names, settings.overlap_faces, settings.cleaning_model, template)
    rules = _cleaning_rules(settings, references, images_in)
    with (
        publishing(outputs.augmented_faces) as augmented,
        publishing(outputs.held_out_faces) as held_out,
        Workplace(STAGE, settings, [*inputs_told.values(), *references.fingerprints.values()]) as place,
    ):
        located = place.shards(shards)
        cleaned, cleaning_told = NOTHING_CLEANED, None
        if rules is not None:
            folder = place.folder(augmented / "cleaning")
            cleaned, cleaning_told = cleaning.clean(place, located, rules, references.evaluation, folder)
            told = [f"{count:,} {reason}" for reason, count in sorted(cleaning_told.images.items())]
            log.info("cleaning drops %s", ", ".join(told) or "nothing")
        sample = max((rule.sample or 0 for rule in policy.rules), default=0)
        counted = census.count(datasets, seed=settings.seed, sample=sample, without=cleaned.keys())
        if cleaning_told is not None and len(counted) < 2:
            raise SettingsError(
                f"cleaning leaves {len(counted)} of the identities ({', '.join(told) or 'it drops nothing'}): "
                "make its settings (duplicate_distance, overlap_cosine, outlier_cosine, overlap_names) less strict."
            )
        decided = plan.make(counted, policy, settings.holdout_fraction, settings.seed)
        log.info("%s images of %s identities in %s shards", f"{images_in:,}", f"{len(decided):,}", len(shards))
        needed = _bytes_needed(datasets, decided, policy, settings.materialize)
        require_free_space(outputs.augmented_faces, needed, "augment")
        scratch = place.folder(augmented / "plan")
        contents.cut(datasets, scratch)
        parts = [place.folder(augmented), *([place.folder(held_out)] if settings.holdout_fraction > 0 else [])]
        write = partial(
            augment_shard,
            plan=plan.write(decided, scratch),
            scratch=scratch,
            policy=str(policy),
            seed=settings.seed,
            jpeg_quality=settings.jpeg_quality,
            materialize=settings.materialize,
            augmented=parts[0],
            held_out=parts[1] if len(parts) > 1 else "",
            core_free=is_core_free(settings),
            cleaned=cleaned,
        )
        place.map(write, located, "augment")
        for each in parts:
            place.collect(each)
        place.clear(scratch)
        if rules is not None:
            place.clear(folder)
        images_held_out = int(decided.images[decided.rules == plan.HELD_OUT].sum())
        common: dict[str, Any] = {
            "stage": STAGE,
            "settings": settings.for_manifest(),
            "template": template,
            "inputs": inputs_told | references.fingerprints,
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
        cleaning_told,
        shards,
    )


def _cleaning_rules(settings: Settings, references: References, images: int) -> cleaning.Rules | None:
    """What is cleaned away; None where nothing is asked for."""
    if not (references.names or settings.cleaning_model or settings.duplicate_distance >= 0):
        return None
    return cleaning.Rules(
        seed=settings.seed,
        names=references.names,
        duplicate_distance=settings.duplicate_distance if settings.duplicate_distance >= 0 else None,
        model=settings.cleaning_model,
        overlap_cosine=settings.overlap_cosine,
        outlier_cosine=settings.outlier_cosine if settings.outlier_cosine > -1 else None,
        files=max(1, round(images / cleaning.IMAGES_A_FILE)),
    )


def _common_template(datasets: Sequence[Dataset]) -> str:
    """The one alignment template of all inputs.

    Raises:
        DatasetError: There is no input, an input is not aligned, or two are aligned differently.
    """
    if not datasets:
        raise DatasetError("augment was given no dataset: give at least one that align wrote (--faces DIR).")
    return one_template(datasets)


def _bytes_needed(datasets: Sequence[Dataset], decided: plan.Plan, policy: Policy, materialize: bool) -> int:
    growth = _VARIANT_GROWTH if materialize else 0.0
    images_in = sum(each.images for each in decided.values())
    bytes_in = sum(shard.bytes for dataset in datasets for shard in dataset.manifest.shards)
    weight = 0.0
    for each in decided.values():
        if each.rule == plan.HELD_OUT:
            weight += each.images
        else:
            rule = policy.rules[each.rule]
            weight += rule.kept(each.images) * (1 + growth * len(rule.variants))
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
