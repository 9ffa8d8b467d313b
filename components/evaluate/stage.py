"""Evaluate an embedding network: verification in ten folds on pairs of faces, beside what raw pixels score."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import SettingsError
from faceflow.components.common.model import ModelContract, load_model, load_model_contract
from faceflow.components.common.reports import publish_metrics, publish_roc
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.storage import write_atomically
from faceflow.components.evaluate import report
from faceflow.components.evaluate.scoring import Scored, score
from faceflow.components.evaluate.sets import FaceSet, Unscored, check_template, prepare, source_name

log = logging.getLogger("faceflow.evaluate")


@dataclass(frozen=True)
class Settings(StageSettings):
    """How to evaluate; see the README's table."""

    seed: int = setting(0, "Seeds the pairs of sets that come without any.", minimum=0)
    flip: bool = setting(True, "Add the embedding of the mirror image to that of the image.")
    max_missing_pairs_fraction: float = setting(
        0.05, "Fraction of a set's pairs that may lack an image; more fails the stage.", minimum=0, maximum=1
    )
    folds: int = setting(10, "Most folds for pairs that are made here.", minimum=2, maximum=100)
    pairs_per_fold: int = setting(
        300, "Most pairs of one identity in a fold that is made here; as many again of two.", minimum=1
    )
    fars: list[float] = setting(
        [0.1, 0.01, 0.001, 0.0001, 0.00001, 0.000001], "False accept rates to state the TAR for."
    )
    hardest: int = setting(8, "Hardest pairs of each kind that the report shows.", minimum=0, maximum=100)
    batch_size: int = setting(128, "Images embedded at once.", minimum=1, affects_output=False)

    def __post_init__(self) -> None:
        """Check the false accept rates.

        Raises:
            SettingsError: A value is not allowed.
        """
        super().__post_init__()
        if not all(0 < far < 1 for far in self.fars):
            raise SettingsError(f"setting 'fars' is {self.fars!r}, but must be rates between 0 and 1.")


@dataclass(frozen=True)
class Inputs:
    """What to evaluate, and on what.

    Attributes:
        model: Directory that the train stage wrote.
        faces: Aligned evaluation sets; each is scored on its attachment pairs.csv, or on pairs made from it.
        held_out_faces: Identities that augment held out; None or an empty dataset if there are none.
    """

    model: Path
    faces: tuple[Path, ...] = ()
    held_out_faces: Path | None = None


@dataclass(frozen=True)
class Outputs:
    """Where to write.

    Attributes:
        scores: JSON file with every result.
        roc: JSON file with each set's curve.
        report: HTML page.
    """

    scores: Path
    roc: Path
    report: Path


@dataclass(frozen=True)
class Summary:
    """What the run page shows.

    Attributes:
        numbers: Main numbers, each named ``<set>_<measure>``.
        curve: False accept rates, true accept rates and thresholds of the first set; None if nothing was scored.
    """

    numbers: dict[str, float] = field(default_factory=dict)
    curve: tuple[Sequence[float], Sequence[float], Sequence[float]] | None = None

    def publish(self, scores: Any, roc: Any) -> None:
        """Log to KFP's Metrics and ClassificationMetrics artifacts."""
        publish_metrics(scores, self.numbers)
        if self.curve is not None:
            publish_roc(roc, *self.curve)


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> Summary:
    """Score a model on every set that has faces. With nothing to score it says so, and does not fail.

    Raises:
        DatasetError: The model or a dataset is damaged, their templates differ, or too many pairs lack an image.
    """
    contract = load_model_contract(inputs.model)
    sets, unscored = _prepared(settings, inputs, contract)
    scored: list[Scored] = []
    if sets:
        model = load_model(inputs.model)
        for faces in sets:
            scored.append(score(faces, model, contract, flip=settings.flip, batch_size=settings.batch_size))
            _log(scored[-1].for_json(settings.fars))
    results = [each.for_json(settings.fars) for each in scored]
    for skipped in unscored:
        log.warning("'%s' is not scored: %s", skipped.name, skipped.reason)
    if not results:
        log.warning("nothing was scored: give evaluation sets, or let augment hold out identities (holdout_fraction)")
    document = {
        "model": contract.training["fingerprint"],
        "flip": settings.flip,
        "sets": results,
        "unscored": [{"name": skipped.name, "reason": skipped.reason} for skipped in unscored],
    }
    report.write(outputs.report, contract, scored, results, unscored, settings.hardest)
    curves = [{"name": each.faces.name, **_curve(each)} for each in scored]
    write_atomically(outputs.roc, json.dumps({"sets": curves}, allow_nan=False) + "\n")
    write_atomically(outputs.scores, json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    first = scored[0].roc if scored else None
    return Summary(
        {name: value for result in results for name, value in _numbers(result).items()},
        None if first is None else (first.far.tolist(), first.tar.tolist(), first.thresholds.tolist()),
    )


def _prepared(settings: Settings, inputs: Inputs, contract: ModelContract) -> tuple[list[FaceSet], list[Unscored]]:
    """Every dataset that has faces, checked before anything is embedded."""
    datasets = [(Dataset(path), "") for path in inputs.faces]
    if inputs.held_out_faces is not None:
        datasets.append((Dataset(inputs.held_out_faces), "held_out"))
    sets: list[FaceSet] = []
    unscored: list[Unscored] = []
    names: set[str] = set()
    for dataset, given in datasets:
        if not dataset.manifest.images:
            continue
        stem = name = given or source_name(dataset)
        while name in names:
            name = f"{stem}_{sum(each == stem or each.startswith(f'{stem}_') for each in names) + 1}"
        names.add(name)
        check_template(dataset, name, contract.template, contract.interpolation)
        prepared = prepare(
            dataset,
            name,
            seed=settings.seed,
            most_folds=settings.folds,
            pairs_per_fold=settings.pairs_per_fold,
            max_missing_fraction=settings.max_missing_pairs_fraction,
        )
        if isinstance(prepared, Unscored):
            unscored.append(prepared)
        else:
            sets.append(prepared)
    return sets, unscored


def _log(result: dict[str, Any]) -> None:
    log.info(
        "%s: accuracy %.2f %% +- %.2f over %d folds (raw pixels %.2f %%, centred %.2f %%), %s pairs of %s images",
        result["name"],
        100 * result["accuracy"],
        100 * result["accuracy_std"],
        result["folds"],
        100 * result["baselines"]["raw_pixels"],
        100 * result["baselines"]["raw_pixels_centred"],
        f"{result['pairs']:,}",
        f"{result['images']:,}",
    )


def _numbers(result: dict[str, Any]) -> dict[str, float]:
    name = result["name"]
    numbers = {f"{name}_{measure}": result[measure] for measure in ("accuracy", "accuracy_std", "auc", "eer", "pairs")}
    numbers |= {f"{name}_{baseline}_accuracy": value for baseline, value in result["baselines"].items()}
    for entry in result["tar_at_far"]:
        numbers[f"{name}_tar_at_far_{entry['far']:g}"] = entry["tar"]
    return numbers


def _curve(scored: Scored) -> dict[str, list[float]]:
    """The curve's corners; the first threshold, infinity, which JSON cannot hold, becomes more than any cosine."""
    far, tar, thresholds = scored.roc.corners()
    return {"far": far.tolist(), "tar": tar.tolist(), "thresholds": [min(value, 2.0) for value in thresholds.tolist()]}
