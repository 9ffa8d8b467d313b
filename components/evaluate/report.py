"""The page about an evaluation: scores beside the baselines, the ROC, histograms and the hardest pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.images import decode
from faceflow.components.common.model import ModelContract
from faceflow.components.common.reports import PALETTE, Report, figure
from faceflow.components.evaluate.scoring import Scored, wanted_records
from faceflow.components.evaluate.sets import Unscored

_GAP_PX = 4
_BASELINES = {"raw_pixels": "raw pixels", "raw_pixels_centred": "raw pixels, mean-centred"}


def write(
    path: Path,
    contract: ModelContract,
    scored: Sequence[Scored],
    results: Sequence[dict[str, Any]],
    unscored: Sequence[Unscored],
    hardest: int,
) -> None:
    """Write the evaluation's report.

    Args:
        path: The page.
        contract: The model's.
        scored: The sets that were scored.
        results: Their results, as in the scores file.
        unscored: The sets that were not.
        hardest: Pairs of each kind to show.
    """
    report = Report("Evaluation", _summary(results))
    if results:
        report.facts(_facts(results[0]))
        _results(report, results)
        _roc(report, scored)
    else:
        report.text(
            "Nothing was scored",
            "There was nothing to score. Give evaluation sets, or let augment hold out identities (holdout_fraction).",
        )
    for each, result in zip(scored, results, strict=True):
        _set(report, each, result, hardest, f"{each.faces.name}: " if len(scored) > 1 else "")
    if unscored:
        report.table(
            "Sets that were not scored", ["set", "why"], [[skipped.name, skipped.reason] for skipped in unscored]
        )
    report.table(
        "Model",
        ["property", "value"],
        [
            ["network", f"{contract.network}, width {contract.training['settings']['width']:g}"],
            ["input", f"{contract.width_px} x {contract.height_px} pixels, template {contract.template}"],
            ["embedding", f"{contract.embedding_size} values"],
            ["trained on", f"{contract.identities:,} identities"],
            ["fingerprint", contract.training["fingerprint"][:16]],
        ],
    )
    report.write(path)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _summary(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return ""
    first = results[0]
    best = max(first["baselines"].values())
    return (
        f"Are two photographs of one person? On '{first['name']}', {_percent(first['accuracy'])} of the pairs "
        f"are told rightly, where raw pixels manage {_percent(best)} and guessing 50%."
    )


def _facts(first: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {
        f"accuracy on {first['name']}": (f"{_percent(first['accuracy'])} ± {100 * first['accuracy_std']:.1f}")
    }
    facts |= {_BASELINES[name]: _percent(value) for name, value in first["baselines"].items()}
    facts |= {f"TAR at FAR {entry['far']:g}": _percent(entry["tar"]) for entry in first["tar_at_far"][:3]}
    facts |= {"equal error rate": _percent(first["eer"]), "area under the ROC": f"{first['auc']:.4f}"}
    return facts | {"pairs": first["pairs"], "folds": first["folds"]}


def _results(report: Report, results: Sequence[dict[str, Any]]) -> None:
    """One column a set: that stays readable on a narrow page."""
    fars = list(dict.fromkeys(entry["far"] for result in results for entry in result["tar_at_far"]))
    rows: list[list[Any]] = [
        ["accuracy ± std", *(f"{_percent(each['accuracy'])} ± {100 * each['accuracy_std']:.1f}" for each in results)]
    ]
    for name, label in _BASELINES.items():
        rows.append([label, *(_percent(each["baselines"][name]) for each in results)])
    for far in fars:
        tars = [{entry["far"]: entry["tar"] for entry in each["tar_at_far"]} for each in results]
        rows.append(
            [f"TAR at FAR {far:g}", *(_percent(each[far]) if far in each else "too few pairs" for each in tars)]
        )
    rows.append(["equal error rate", *(_percent(each["eer"]) for each in results)])
    rows.append(["area under the ROC", *(f"{each['auc']:.4f}" for each in results)])
    rows.append(["threshold, squared distance", *(f"{each['threshold']:.3f}" for each in results)])
    for name in ("identities", "images", "pairs", "missing_pairs", "folds"):
        rows.append([name.replace("_", " "), *(f"{each[name]:,}" for each in results)])
    report.table("Results", ["", *(each["name"] for each in results)], rows, _notes(results))


def _notes(results: Sequence[dict[str, Any]]) -> str:
    notes = [
        "Each fold is scored with the distance threshold that is best on the other folds; std is the population's over "
        "the folds. TAR, EER and AUC are over all pairs at once."
    ]
    for result in results:
        said = f"{result['name']}: {result['protocol']}"
        said += f"; {result['folds_note']}" if result["folds_note"] else ""
        if result["missing_pairs"]:
            said += f"; {result['missing_pairs']:,} pairs were left out for want of an image"
        if result["fars_without_enough_pairs"]:
            lowest = max(result["fars_without_enough_pairs"])
            said += f"; its pairs are too few for a FAR of {lowest:g} or less"
        notes.append(said + ".")
    return " ".join(notes)


def _roc(report: Report, scored: Sequence[Scored]) -> None:
    drawn, axes = figure(6.4, 3.6)
    for place, each in enumerate(scored):
        far, tar, _ = each.roc.corners()
        label = f"{each.faces.name} (AUC {each.roc.auc:.4f})"
        # a curve may only be trusted from one false accept on, and a logarithm has no zero
        shown = np.maximum(far, 1 / each.roc.negatives)
        axes.plot(shown, tar, color=PALETTE[place % len(PALETTE)], drawstyle="steps-post", label=label)
    left = min(0.1, *(1 / each.roc.negatives for each in scored))
    chance = np.geomspace(left, 1)
    axes.plot(chance, chance, color=PALETTE[5], linestyle=":", linewidth=1, label="chance")
    axes.set_xscale("log")
    axes.set_xlim(left, 1)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("false accept rate (different people taken for one), log scale")
    axes.set_ylabel("true accept rate")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.legend(loc="lower right")
    report.figure("ROC", drawn, "The further left and up, the better. It begins where the pairs show one false accept.")


def _set(report: Report, scored: Scored, result: dict[str, Any], hardest: int, prefix: str) -> None:
    same = scored.faces.pairs.same
    drawn, axes = figure(6.4, 2.8)
    bins = np.linspace(float(min(0.0, scored.cosines.min())), 1.0, 61).tolist()
    for mask, label, colour in ((same, "same person", PALETTE[0]), (~same, "different people", PALETTE[1])):
        axes.hist(scored.cosines[mask], bins=bins, alpha=0.65, color=colour, label=label)
    threshold = 1 - result["threshold"] / 2
    axes.axvline(threshold, color=PALETTE[5], linestyle="--", linewidth=1, label=f"threshold {threshold:.2f}")
    axes.set_xlabel("cosine of the two embeddings")
    axes.set_ylabel("pairs")
    axes.legend(loc="upper left")
    report.figure(f"{prefix}Scores of the pairs", drawn, "The less the two overlap, the better.")
    if hardest:
        _hardest(report, scored, hardest, prefix)
    report.table(
        f"{prefix}Folds",
        ["fold", "pairs", "accuracy", "threshold (squared distance)"],
        [[fold["fold"], fold["pairs"], _percent(fold["accuracy"]), fold["threshold"]] for fold in result["per_fold"]],
    )


def _hardest(report: Report, scored: Scored, count: int, prefix: str) -> None:
    same = scored.faces.pairs.same
    order = np.argsort(scored.cosines, kind="stable")
    alike = _one_each(scored, [int(place) for place in order if same[place]], count)
    unlike = _one_each(scored, [int(place) for place in order[::-1] if not same[place]], count)
    chosen = {key for place in (*alike, *unlike) for key in scored.faces.pairs.keys[place]}
    pictures = {record.key: decode(record.image) for record in wanted_records(scored.faces.dataset, chosen)}
    for heading, note, places in (
        (
            "Hardest pairs of one person",
            "Each is one person twice, with the lowest cosine of that person's pairs.",
            alike,
        ),
        ("Hardest pairs of different people", "Each is two people, with the highest cosine of those two.", unlike),
    ):
        cells = [_cell(scored, place, pictures) for place in places]
        report.images(prefix + heading, cells, columns=4, note=note, width_px=210)


def _one_each(scored: Scored, places: Sequence[int], count: int) -> list[int]:
    """The first pair of each person, or of each two: a single hard one would fill the page."""
    seen: set[frozenset[str]] = set()
    chosen: list[int] = []
    for place in places:
        people = frozenset(_short(key) for key in scored.faces.pairs.keys[place])
        if people not in seen and len(chosen) < count:
            seen.add(people)
            chosen.append(place)
    return chosen


def _cell(scored: Scored, place: int, pictures: dict[str, NDArray[np.uint8]]) -> tuple[NDArray[np.uint8], str]:
    keys = scored.faces.pairs.keys[place]
    one, other = (pictures[key] for key in keys)
    gap = np.full((one.shape[0], _GAP_PX, 3), 255, np.uint8)
    names = [_short(key) for key in keys] if not scored.faces.pairs.same[place] else [_short(keys[0])]
    return np.hstack([one, gap, other]), f"{scored.cosines[place]:.2f} · {' / '.join(names)}"


def _short(key: str) -> str:
    """The identity's own name, out of ``<source>/<identity>/<file>``."""
    parts = key.split("/")
    return parts[-2] if len(parts) > 1 else key
