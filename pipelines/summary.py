"""What came of a run: a short table on the terminal, and one report over all its stages.

Everything is read from the artifacts, whichever run made them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.reports import Report, combine
from faceflow.pipelines.live import duration

if TYPE_CHECKING:
    from faceflow.pipelines.board import Board
    from faceflow.pipelines.local import Outcome

_FAR_SHOWN = 3


@dataclass(frozen=True)
class Summary:
    """The numbers of a run.

    Attributes:
        datasets: For each dataset: what made it, identities, images in, images out, images dropped by reason.
        scores: One evaluation set each, as the evaluate stage wrote it.
        unscored: Evaluation sets that could not be scored, and why.
        reports: The stages' reports with the heading that each gets.
    """

    datasets: list[tuple[str, int, int, int, dict[str, int]]] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)
    unscored: list[tuple[str, str]] = field(default_factory=list)
    reports: list[tuple[str, Path]] = field(default_factory=list)


def read(board: Board) -> Summary:
    """Read a finished run's artifacts."""
    summary = Summary()
    origins: dict[str, str] = {}
    for row in board.rows.values():
        for outputs in row.outputs:
            datasets = [
                (name, Dataset(Path(path)))
                for name, path in outputs.items()
                if row.stage.artifacts.get(name) == "system.Dataset" and Path(path).is_dir()
            ]
            if datasets and not any(dataset.manifest.images_in for _, dataset in datasets):
                continue  # nothing went through: the place of identities that augment holds out
            source = _source([dataset for _, dataset in datasets], origins) if row.expected > 1 else ""
            title = f"{row.stage.title}: {source}" if source else row.stage.title
            for name, dataset in datasets:
                manifest = dataset.manifest
                if len(datasets) > 1 and not manifest.images:
                    continue
                shown = f"{title} ({name.replace('_', ' ')})" if len(datasets) > 1 else title
                drops = dict(sorted(manifest.drops.items(), key=lambda item: (-item[1], item[0])))
                summary.datasets.append((shown, manifest.identities, manifest.images_in, manifest.images, drops))
            for name, path in outputs.items():
                if row.stage.artifacts.get(name) == "system.HTML":
                    summary.reports.append((title, Path(path)))
                elif name == "scores":
                    scores = json.loads(Path(path).read_text(encoding="utf-8"))
                    summary.scores.extend(scores["sets"])
                    summary.unscored.extend((each["name"], each["reason"]) for each in scores.get("unscored", []))
    return summary


def _source(datasets: Sequence[Dataset], origins: dict[str, str]) -> str:
    """The name of the source that datasets come from; remembered by fingerprint for the stages behind."""
    for dataset in datasets:
        name = ""
        for given in dataset.manifest.inputs.values():
            if isinstance(given, Mapping):
                name = name or str(given.get("name", ""))
            elif isinstance(given, str):
                name = name or origins.get(given, "")
        if name:
            origins[dataset.fingerprint] = name
            return name
    return ""


def show(outcome: Outcome, console: Console) -> None:
    """Print a finished run's tables, write its report, and say where that is.

    Args:
        outcome: The run.
        console: Where to print.
    """
    summary = read(outcome.board)
    if summary.datasets:
        console.print(_dataset_table(summary), "")
    if summary.scores:
        console.print(_score_table(summary), "")
    for name, reason in summary.unscored:
        console.print(Text.assemble(("Not scored: ", "yellow"), f"{name}: {reason}"), soft_wrap=True)
    if summary.reports:
        write_report(outcome, summary)
        console.print(Text.assemble(("Report: ", "bold"), _as_typed(outcome.run.report)), soft_wrap=True)
    states = [row.state for row in outcome.board.rows.values()]
    cached = f", {states.count('cached')} of {len(states)} stages from the cache" if "cached" in states else ""
    console.print(Text(f"Finished in {duration(outcome.record.seconds)}{cached}.", "dim"))


def _dataset_rows(summary: Summary) -> Iterator[tuple[str, int, int, int, str]]:
    for title, identities, images_in, images, drops in summary.datasets:
        reasons = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in drops.items())
        yield title, identities, images_in, images, reasons


def _dataset_table(summary: Summary) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, title_justify="left")
    table.add_column("Data")
    for heading in ("Identities", "Images in", "Images out"):
        table.add_column(heading, justify="right", no_wrap=True)
    for title, *counts, reasons in _dataset_rows(summary):
        table.add_row(Text(str(title)), *(f"{count:,}" for count in counts))
        if reasons:  # on a line of its own: beside the counts it would not fit a narrow terminal
            table.add_row(Text(f"  dropped: {reasons}", "yellow"))
    return table


def _fars(summary: Summary) -> list[float]:
    """The false accept rates to show: those that every set has enough pairs for, the largest first."""
    of_each = [{point["far"] for point in each["tar_at_far"]} for each in summary.scores]
    return sorted(set.intersection(*of_each), reverse=True)[:_FAR_SHOWN] if of_each else []


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _score_rows(summary: Summary) -> tuple[list[str], list[list[str]]]:
    fars = _fars(summary)
    baselines = sorted({name for each in summary.scores for name in each["baselines"]})
    columns = ["Evaluation set", "Pairs", "Folds", "Accuracy"]
    columns += [f"TAR@FAR={far:g}" for far in fars] + [name.replace("_", " ") for name in baselines]
    rows = []
    for each in summary.scores:
        tar = {point["far"]: point["tar"] for point in each["tar_at_far"]}
        accuracy = f"{100 * each['accuracy']:.1f} ± {100 * each['accuracy_std']:.1f} %"
        row = [each["name"], f"{each['pairs']:,}", str(each["folds"]), accuracy]
        row += [_percent(tar[far]) for far in fars]
        rows.append(
            row + [_percent(each["baselines"][name]) if name in each["baselines"] else "" for name in baselines]
        )
    return columns, rows


def _score_table(summary: Summary) -> Table:
    columns, rows = _score_rows(summary)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    table.add_column(columns[0])
    for name, *_ in rows:
        table.add_column(name, justify="right")
    for index, column in enumerate(columns[1:], start=1):
        table.add_row(column, *(Text(row[index]) for row in rows), style="bold green" if column == "Accuracy" else "")
    return table


def write_report(outcome: Outcome, summary: Summary) -> None:
    """Join the stages' reports into the run's one page, headline numbers first."""
    columns, rows = _score_rows(summary)
    facts: dict[str, Any] = {}
    for each in summary.scores[:2]:
        of_set = f" on {each['name']}" if len(summary.scores) > 1 else ""
        facts[f"Accuracy{of_set}, ± {100 * each['accuracy_std']:.1f}"] = _percent(each["accuracy"])
    if summary.scores and (fars := _fars(summary)):
        facts[f"TAR@FAR={fars[-1]:g}"] = rows[0][4 + len(fars) - 1]
    if summary.datasets:
        facts["Identities"], facts["Images"] = summary.datasets[0][1], summary.datasets[0][3]
    tables: list[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = []
    if rows:
        tables.append(("Scores", columns, rows))
    if summary.datasets:
        headings = ("Data", "Identities", "Images in", "Images out", "Dropped")
        tables.append(("Images", headings, list(_dataset_rows(summary))))
    with tempfile.TemporaryDirectory(prefix="faceflow-") as folder:
        last = Path(folder) / "run.html"
        _about(outcome).write(last)
        combine(
            [*summary.reports, ("Run", last)],
            title=f"{outcome.record.preset}: {outcome.record.pipeline}",
            path=outcome.run.report,
            summary=f"Run {outcome.record.id}, took {duration(outcome.record.seconds)}.",
            facts=facts,
            tables=tables,
        )


def _about(outcome: Outcome) -> Report:
    """The last chapter: how the run went, and what it was told."""
    record = outcome.record
    about = Report("The run", f"Started {record.started.replace('T', ' ')}.")
    stages = [(each["title"], each["state"], duration(each["seconds"])) for each in record.stages]
    about.table("Stages", ("Stage", "State", "Time"), stages)
    told = [
        (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for name, value in record.arguments.items()
        if value not in ("", {})
    ]
    about.table("Parameters", ("Parameter", "Value"), told, note="Empty ones are left out.")
    return about


def _as_typed(path: Path) -> str:
    """A path as a person would type it from here."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
