import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record
from faceflow.components.common.reports import Report
from faceflow.pipelines import summary
from faceflow.pipelines.board import Board
from faceflow.pipelines.local import Outcome
from faceflow.pipelines.runs import Run, RunRecord
from faceflow.pipelines.spec import Pipeline, Stage

PIPELINE = Pipeline(
    "training",
    {},
    (
        Stage("download", "Download source", "", {"raw_faces": "system.Dataset"}, (), over="sources"),
        Stage("align", "Align source", "", {"faces": "system.Dataset", "report": "system.HTML"}, (), over="sources"),
        Stage(
            "augment",
            "Augment by identity",
            "",
            {"augmented_faces": "system.Dataset", "held_out_faces": "system.Dataset"},
            (),
        ),
        Stage("evaluate", "Evaluate", "", {"scores": "system.Metrics", "report": "system.HTML"}, ()),
    ),
)


def dataset(path, stage, keys, inputs, dropped=()):
    with publishing(path) as folder:
        with ShardWriter(folder, 0, stage=stage) as out:
            for key in keys:
                identity = key.rpartition("/")[0]
                out.write(Record(key, identity, b"jpeg", 2, 2))
                out.kept(key, identity)
            for key, reason in dropped:
                out.dropped(key, "x", reason)
        finish(folder, stage=stage, settings={}, template=None, inputs=inputs, images_in=len(keys) + len(dropped))
    return str(path)


@pytest.fixture
def outcome(tmp_path):
    made = {"download": [], "align": [], "augment": [], "evaluate": []}
    for name in ("lab", "street"):
        keys = [f"{name}/ada/1.jpg", f"{name}/ada/2.jpg", f"{name}/bob/1.jpg"]
        raw = dataset(
            tmp_path / f"raw-{name}", "download", keys, {"source": {"kind": "folder", "name": name}, "sha256": {}}
        )
        drops = [("c", Reason.NO_FACE), ("d", Reason.NO_FACE), ("e", Reason.UNDECODABLE)] if name == "street" else []
        inputs = {"raw_faces": Dataset(Path(raw)).fingerprint}
        faces = dataset(tmp_path / f"faces-{name}", "align", keys[:2], inputs, drops)
        report = tmp_path / f"align-{name}.html"
        Report("Alignment", f"Of {name}").write(report)
        made["download"].append({"raw_faces": raw})
        made["align"].insert(0, {"faces": faces, "report": str(report)})  # loops end in any order
    augmented = dataset(tmp_path / "augmented", "augment", ["lab/ada/1.jpg"], {"faces": ["a", "b"]})
    held_out = dataset(tmp_path / "held", "augment", [], {"faces": ["a", "b"]})
    made["augment"].append({"augmented_faces": augmented, "held_out_faces": held_out})
    scores = {"name": "lfw", "pairs": 6000, "folds": 10, "accuracy": 0.9123, "accuracy_std": 0.0121}
    scores |= {"tar_at_far": [{"far": 0.1, "tar": 0.95}, {"far": 0.01, "tar": 0.7012}]}
    scores |= {"baselines": {"raw_pixels": 0.61, "raw_pixels_centred": 0.633}}
    (tmp_path / "scores").write_text(
        json.dumps({"sets": [scores], "unscored": [{"name": "orl", "reason": "one face"}]})
    )
    Report("Evaluation", "Ten folds").write(tmp_path / "evaluate.html")
    made["evaluate"].append({"scores": str(tmp_path / "scores"), "report": str(tmp_path / "evaluate.html")})
    board = Board(PIPELINE, {"sources": [{}, {}]})
    for name, runs in made.items():
        for outputs in runs:
            board.apply({"event": "cached", "stage": name, "outputs": outputs}, 0.0)
    folder = tmp_path / "run"
    folder.mkdir()
    record = RunRecord("20260101-demo", "demo", "training", "2026-01-01T10:00:00", {"seed": 1}, "finished", 75.0)
    record.stages = [{"name": "evaluate", "title": "Evaluate", "state": "cached", "seconds": 0.0}]
    return Outcome(Run(folder), record, board, [], 0)


def test_the_numbers_are_those_of_the_artifacts(outcome):
    read = summary.read(outcome.board)
    assert read.datasets == [
        ("Download source: lab", 2, 3, 3, {}),
        ("Download source: street", 2, 3, 3, {}),
        ("Align source: street", 1, 5, 2, {"no_face": 2, "undecodable": 1}),
        ("Align source: lab", 1, 2, 2, {}),
        ("Augment by identity (augmented faces)", 1, 1, 1, {}),
    ]
    assert [heading for heading, _ in read.reports] == ["Align source: street", "Align source: lab", "Evaluate"]
    assert [each["name"] for each in read.scores] == ["lfw"]
    assert read.unscored == [("orl", "one face")]


def test_the_table_and_the_report(outcome):
    console = Console(file=io.StringIO(), width=160)
    summary.show(outcome, console)
    said = console.file.getvalue()
    assert "no face 2, undecodable 1" in said
    assert "91.2 ± 1.2 %" in said and "6,000" in said and "TAR@FAR=0.01" in said and "70.1 %" in said
    assert "raw pixels centred" in said and "63.3 %" in said
    assert "Not scored: orl: one face" in said
    assert f"Report: {outcome.run.report}" in said
    assert "Finished in 1 min 15 s, 4 of 4 stages from the cache." in said
    page = outcome.run.report.read_text()
    order = ("Accuracy, ± 1.2", "91.2 ± 1.2 %", "Of street", "Of lab", "Ten folds", "The run")
    assert sorted(order, key=page.index) == list(order)
    assert "<td>seed</td>" in page


def test_a_pipeline_without_datasets_and_scores_still_ends_well(small, run):
    console = Console(file=io.StringIO(), width=160)
    summary.show(run(small, sources=[{"name": "ada"}]), console)
    assert console.file.getvalue().startswith("Finished in ")
