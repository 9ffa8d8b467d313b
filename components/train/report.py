"""The page about a training: what came out, its curves, and what the network saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from faceflow.components.common.reports import PALETTE, Report, figure
from faceflow.components.train import input as pipeline

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from faceflow.components.common.model import ModelContract
    from faceflow.components.train.packed import PackedFaces
    from faceflow.components.train.stage import Settings
    from faceflow.components.train.training import Trained

_SAMPLES = 24


def write(
    path: Path,
    settings: Settings,
    packed: PackedFaces,
    contract: ModelContract,
    trained: Trained,
    numbers: dict[str, float],
    devices: str,
) -> None:
    """Write the training's report."""
    history = trained.history
    report = Report("Training", _summary(numbers, contract))
    facts: dict[str, Any] = {}
    if "validation_accuracy" in numbers:
        facts["validation accuracy"] = f"{numbers['validation_accuracy']:.1%}"
    facts |= {
        "training accuracy": f"{numbers['accuracy']:.1%}",
        "identities": int(numbers["identities"]),
        "images": int(numbers["images"]),
        "epochs": len(history),
        "time": _duration(numbers["training_seconds"]),
        f"images/s on {devices}": round(numbers["images_per_second"]),
        "parameters": int(numbers["parameters"]),
    }
    report.facts(facts)
    _curves(report, history)
    reader = pipeline.FaceReader(
        (packed.template.height, packed.template.width),
        (contract.height_px, contract.width_px),
        len(packed.identities),
    )
    count = min(_SAMPLES, packed.train.manifest.images)
    pictures = np.asarray(pipeline.sample(packed.train, reader, count, packed.online_variants))
    report.images(
        "What the network sees",
        [(picture, "") for picture in pictures],
        width_px=contract.width_px,
        columns=12,
        note=f"Training images at the input size, {contract.width_px} x {contract.height_px} pixels.",
    )
    report.table("Epochs", *_epochs(history))
    report.table(
        "Settings", ["setting", "value"], [[name, str(value)] for name, value in settings.for_manifest().items()]
    )
    if trained.resumed_from:
        report.text(
            "Resumed", f"An earlier attempt was cut short after epoch {trained.resumed_from}; this one went on."
        )
    report.write(path)


def _summary(numbers: dict[str, float], contract: ModelContract) -> str:
    return (
        f"MobileFaceNet, {contract.width_px} x {contract.height_px} pixels in, {contract.embedding_size} values out. "
        "The accuracies are those of naming a known identity, without the margin; how well it tells strangers apart "
        "is for evaluation to say."
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _curves(report: Report, history: Sequence[dict[str, Any]]) -> None:
    epochs = [row["epoch"] for row in history]
    switch = next((row["epoch"] - 0.5 for row in history if row["head"] == "arcface" and row["epoch"] > 1), None)
    for heading, name, percent in (("Accuracy", "accuracy", True), ("Loss", "loss", False)):
        drawn, axes = figure(6.4, 3.0)
        for series, label, colour in ((name, "training", PALETTE[0]), (f"validation_{name}", "validation", PALETTE[1])):
            if series in history[-1]:
                _by_head(axes, history, series, label, colour, split=not percent)
        if percent:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        else:
            axes.set_yscale("log")  # validation begins far above: batch statistics take an epoch or two to settle
        _finish(axes, epochs, switch, heading.lower())
        axes.legend()
        note = "" if percent else "The two heads' losses are not comparable: ArcFace's has margin and scale in it."
        report.figure(heading, drawn, note)
    drawn, axes = figure(6.4, 2.2)
    axes.plot(epochs, [row["learning_rate"] for row in history], marker=".", color=PALETTE[2])
    axes.set_ylim(bottom=0)
    _finish(axes, epochs, switch, "learning rate")
    report.figure("Learning rate", drawn, "At the last batch of each epoch.")


def _by_head(
    axes: Axes, history: Sequence[dict[str, Any]], series: str, label: str, colour: str, *, split: bool
) -> None:
    """Draw a series, with a gap where the head changes if it means something else on either side."""
    heads = ("softmax", "arcface") if split else (None,)
    for head in heads:
        rows = [row for row in history if head in (None, row["head"])]
        if rows:
            axes.plot(
                [row["epoch"] for row in rows], [row[series] for row in rows], marker=".", color=colour, label=label
            )
            label = "_nolegend_"


def _finish(axes: Axes, epochs: Sequence[int], switch: float | None, label: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if switch is not None:
        axes.axvline(switch, color=PALETTE[5], linewidth=1, linestyle=":")
        axes.annotate(
            "ArcFace",
            (switch, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=PALETTE[5],
            fontsize=8,
        )


def _epochs(history: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    validated = "validation_accuracy" in history[-1]
    columns = ["epoch", "head", "loss", "accuracy", *(["validation"] if validated else []), "rate", "images/s"]
    rows = []
    for row in history:
        accuracies = [f"{row['accuracy']:.1%}"] + ([f"{row['validation_accuracy']:.1%}"] if validated else [])
        rows.append(
            [
                row["epoch"],
                row["head"],
                row["loss"],
                *accuracies,
                f"{row['learning_rate']:.2g}",
                round(row["images_per_second"]),
            ]
        )
    return columns, rows
