import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from faceflow.components.common.errors import FaceflowError, SettingsError
from faceflow.pipelines import clean
from faceflow.pipelines.runs import Root, Run, RunRecord

WIDE = {"keep": 1, "everything": False, "dry_run": False, "yes": True}


def add_run(root, name, artifacts, status="finished"):
    """A run that made or used artifacts, each `<run>/<output>`."""
    run = Run(root.path / name)
    run.artifacts.mkdir(parents=True)
    used = []
    for artifact in artifacts:
        of_run, output = artifact.split("/")
        path = root.path / of_run / "artifacts" / output
        path.write_text("x" * 1000)
        used.append(str(path))
        value = {output: {"__kfp_artifact__": True, "schema_title": "system.Model", "uri": str(path)}}
        (root.cache / f"{of_run}-{output}.json").write_text(json.dumps(value))
    run.write(RunRecord(name, "demo", "p", f"2026-01-0{name[-1]}T00:00:00+00:00", {}, status, artifacts=used))
    return run


@pytest.fixture
def root(tmp_path):
    root = Root(tmp_path / "runs")
    root.prepare()
    add_run(root, "run1", ["run1/model"])
    add_run(root, "run2", ["run2/model"])
    add_run(root, "run3", ["run1/model", "run3/report"])
    (root.scratch / "download").mkdir()
    (root.scratch / "download" / "part").write_text("x" * 500)
    return root


def cleaned(root, **options):
    console = Console(file=io.StringIO(), width=200)
    clean.clean(root.path, console, **(WIDE | options))
    return console.file.getvalue()


def left(root):
    return sorted(path.name for path in root.path.iterdir() if not path.name.startswith("."))


def test_a_run_stays_with_the_runs_that_it_leans_on(root):
    said = cleaned(root)
    assert left(root) == ["cache", "run1", "run3"]
    assert "run3 uses its stages" in said and "among the newest" in said and "goes" in said
    assert "1 of 3 finished stages in the cache go with them" in said
    assert sorted(path.stem for path in root.cache.iterdir()) == ["run1-model", "run3-report"]
    assert "Removed 1.8 kB." in said or "Removed 1.7 kB." in said


def test_dry_run_only_lists(root):
    said = cleaned(root, dry_run=True)
    assert left(root) == ["cache", "run1", "run2", "run3", "scratch"]
    assert "run2" in said and "kB" in said


def test_keep_none_and_all(root):
    cleaned(root, keep=0)
    assert left(root) == ["cache"] and list(root.cache.iterdir()) == []
    add_run(root, "run4", ["run4/model"], status="failed")
    said = cleaned(root, everything=True)
    assert "1 of 1 finished stages" in said and not root.path.exists()


def test_all_leaves_nothing(root):
    cleaned(root, everything=True)
    assert not root.path.exists()


@pytest.mark.parametrize("status", ["failed", "interrupted", "running"])
def test_scratch_stays_for_a_run_that_did_not_finish(root, status):
    add_run(root, "run4", [], status)
    said = cleaned(root)
    assert left(root) == ["cache", "run4", "scratch"]
    assert "may go on from it" in said
    assert ("run, interrupted" in said) == (status != "failed")


def test_dead_entries_of_the_cache_go(root):
    (root.path / "run3" / "artifacts" / "report").unlink()
    cleaned(root)
    assert [path.stem for path in root.cache.iterdir()] == ["run1-model"]


def test_what_is_not_a_run_is_left_alone(root, tmp_path):
    (root.path / "photos").mkdir()
    outside = tmp_path / "outside"
    (outside / "artifacts").mkdir(parents=True)
    Run(outside).write(RunRecord("outside", "demo", "p", "2025-01-01T00:00:00+00:00", {}))
    (root.path / "link").symlink_to(outside)
    cleaned(root, everything=True)
    assert left(root) == ["link", "photos"] and outside.exists()


def test_a_removal_that_was_cut_short_is_finished(root):
    (root.path / ".removing-run0").mkdir()
    cleaned(root, dry_run=True)
    assert not (root.path / ".removing-run0").exists()


def test_no_root_and_a_wrong_root(tmp_path):
    assert "Nothing to remove" in cleaned(Root(tmp_path / "none"))
    (tmp_path / "cache").mkdir()
    with pytest.raises(SettingsError, match="is not a folder of faceflow runs: nothing was touched"):
        cleaned(Root(tmp_path), everything=True)
    assert (tmp_path / "cache").exists()


def test_nothing_is_removed_under_a_run(root):
    with root.locked(), pytest.raises(FaceflowError, match="another faceflow command is at work"):
        cleaned(root)


def test_the_answer_decides(root, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert "Nothing was removed." in cleaned(root, yes=False)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(FaceflowError, match="answer y, or give --yes"):
        cleaned(root, yes=False)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    cleaned(root, yes=False)
    assert left(root) == ["cache", "run1", "run3"]


def test_after_cleaning_a_run_works_out_what_went(small, run, tmp_path):
    first = run(small)
    run(small, rerun_join="2")
    cleaned(Root(tmp_path / "runs"))
    assert first.run.folder.exists()  # the second run found its stage there
    cleaned(Root(tmp_path / "runs"), keep=0)
    assert not first.run.folder.exists()
    third = run(small)
    assert [row.state for row in third.board.rows.values()] == ["done", "done", "done"]
    assert Path(third.board.rows["join"].outputs[0]["joined"]).read_text() == "ada bob"
