"""Runs on the real kfp.local: states, the cache, failures, and a guard for each thing that it gets wrong."""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from kfp import dsl

from faceflow.components.common.errors import DiskSpaceError, FaceflowError, SettingsError
from faceflow.pipelines.runs import Root


def states(outcome):
    return {name: row.state for name, row in outcome.board.rows.items()}


def joined(outcome):
    return Path(outcome.board.rows["join"].outputs[0]["joined"]).read_text()


def test_a_run_shows_every_stage_and_its_second_run_is_cached(small, run):
    first = run(small)
    assert (first.status, first.problems) == (0, [])
    assert states(first) == {"name-of": "done", "write": "done", "join": "done"}
    assert joined(first) == "ada bob"
    assert first.board.rows["write"].latest in ("writing ada", "writing bob")

    second = run(small)
    assert states(second) == {"name-of": "done", "write": "cached", "join": "cached"}
    assert (second.board.rows["write"].cached, second.board.rows["write"].expected) == (2, 2)
    assert second.board.rows["join"].outputs == first.board.rows["join"].outputs
    assert "Write source: cached 2/2" in second.shown

    record = second.run.record()
    assert record.status == "finished"
    assert first.run.folder in Path(record.artifacts[0]).parents


def test_a_changed_parameter_reruns_its_stage_and_what_follows(small, run):
    run(small)
    assert states(run(small, rerun_join="2")) == {"name-of": "done", "write": "cached", "join": "done"}
    assert states(run(small, rerun_write="2")) == {"name-of": "done", "write": "done", "join": "done"}
    added = run(small, sources=[{"name": "ada"}, {"name": "eve"}, {"name": "bob"}])
    assert joined(added) == "ada eve bob"
    assert (added.board.rows["write"].done, added.board.rows["write"].cached) == (1, 2)


def test_a_changed_image_tag_is_a_cache_miss_and_the_same_tag_a_hit(compiled, small, small_pipeline, run):
    run(small)
    changed = compiled(small_pipeline(image="localhost/tests/python:2"))
    assert states(run(changed)) == {"name-of": "done", "write": "done", "join": "done"}
    assert states(run(changed)) == {"name-of": "done", "write": "cached", "join": "cached"}


def test_a_vanished_artifact_is_made_again(small, run):
    first = run(small)
    Path(first.board.rows["join"].outputs[0]["joined"]).unlink()
    assert states(run(small)) == {"name-of": "done", "write": "cached", "join": "done"}


def test_a_cache_entry_without_outputs_is_never_used(small, run, tmp_path):
    first = run(small)
    entries = {entry.file: entry for entry in Root(tmp_path / "runs").entries()}
    of_join = next(file for file, entry in entries.items() if "joined" in entry.outputs)
    of_join.write_text("{}")  # what kfp.local keeps of a container that failed
    again = run(small)
    assert states(again)["join"] == "done"
    assert joined(again) == joined(first)


def test_a_truncated_dataset_is_not_taken_from_the_cache(tmp_path):
    root = Root(tmp_path)
    root.prepare()
    faces = tmp_path / "faces"
    faces.mkdir()
    manifest = {"stage": "align", "settings": {}, "template": None, "identities": 1, "images": 1, "images_in": 1}
    manifest |= {"shards": [{"name": "a.tfrecord", "records": 1, "bytes": 4, "sha256": ""}], "schema_version": 1}
    (faces / "manifest.json").write_text(json.dumps(manifest))
    (faces / "a.tfrecord").write_bytes(b"1234")
    output = {"__kfp_artifact__": True, "schema_title": "system.Dataset", "uri": str(faces)}
    (root.cache / "k.json").write_text(json.dumps({"faces": output}))
    assert [entry.defect for entry in root.entries()] == [""]
    (faces / "a.tfrecord").write_bytes(b"12")
    assert "a.tfrecord is missing or truncated" in next(root.entries()).defect
    assert (root.remove_dead_entries(), list(root.entries())) == (1, [])


@pytest.mark.parametrize(
    ("fail", "message", "expected"),
    [
        ("typed", "ada is not there. Look for it elsewhere.", True),
        ("bug", "ZeroDivisionError: by nothing", False),
        ("killed", "it was killed, perhaps for want of memory", False),
    ],
)
def test_a_failing_stage_is_named_with_its_error(small, run, fail, message, expected):
    outcome = run(small, sources=[{"name": "ada"}], fail=fail)
    assert outcome.status == 1
    assert outcome.problems == [f"Write source: {message}"]
    assert states(outcome) == {"name-of": "done", "write": "failed", "join": "not reached"}
    assert [failure.expected for failure in outcome.board.failures] == [expected]
    assert "[write] writing ada" in outcome.run.log.read_text()
    assert outcome.run.record().status == "failed"


def test_a_rerun_goes_on_from_the_finished_stages(small, run):
    run(small, sources=[{"name": "ada"}])
    outcome = run(small, sources=[{"name": "ada"}, {"name": "bob"}], rerun_join="x")
    assert (outcome.board.rows["write"].cached, outcome.board.rows["write"].done) == (1, 1)


def test_an_output_without_a_file_is_a_failure(compiled, small_pipeline, run):
    outcome = run(compiled(small_pipeline(with_metrics=True)))
    assert outcome.status == 1
    assert "its output 'numbers' is not at" in outcome.problems[0]
    assert states(outcome)["count-without-a-file"] == "failed"


def test_stages_run_in_this_environment_and_not_in_a_fresh_one(compiled, run):
    @dsl.component(base_image="localhost/tests/python:1", install_kfp_package=False)
    def where(made: dsl.Output[dsl.Artifact]):
        import sys
        from pathlib import Path

        Path(made.path).write_text(sys.prefix)

    @dsl.pipeline(name="where")
    def pipeline():
        where()

    outcome = run(compiled(pipeline))
    assert Path(outcome.board.rows["where"].outputs[0]["made"]).read_text() == sys.prefix


def test_an_interpreter_in_a_folder_with_a_space(small, run, tmp_path, monkeypatch):
    interpreter = tmp_path / "my folder" / "python"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(interpreter.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    assert run(small, root=tmp_path / "some runs").status == 0


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"root": "in_python3"}, "--root"),
        ({"name": "python3.11"}, "preset's name"),
        ({"sources": [{"name": "a", "path": "/data/python3/faces"}]}, "parameter 'sources'"),
        ({"rerun_write": "{{$.inputs.parameters['x']}}"}, "parameter 'rerun_write'"),
        ({"rerun_write": "/kfp-workspace/x"}, "parameter 'rerun_write'"),
    ],
)
def test_texts_that_kfp_would_replace_are_refused_before_the_start(small, run, tmp_path, given, where):
    if "root" in given:
        given = {"root": tmp_path / given["root"]}
    with pytest.raises(SettingsError, match=where):
        run(small, **given)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_noticed_before_the_start(small, run, tmp_path):
    faces = tmp_path / "faces.tar"
    with open(faces, "wb") as file:
        file.truncate(8 << 40)
    with pytest.raises(DiskSpaceError, match="run .test. needs about 35"):
        run(small, reads=[faces])
    assert not (tmp_path / "runs").exists()


def test_a_folder_of_something_else_is_no_root(small, run, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    with pytest.raises(SettingsError, match="holds other files"):
        run(small, root=tmp_path / "photos")
    assert os.listdir(tmp_path / "photos") == ["me.jpg"]


def test_two_runs_do_not_share_a_root_at_once(small, run, tmp_path):
    root = Root(tmp_path / "runs")
    root.prepare()
    with root.locked(), pytest.raises(FaceflowError, match="another faceflow command is at work"):
        run(small)


def test_kfps_workspace_is_a_fresh_folder_and_nothing_else_is_removed(small, run, tmp_path, monkeypatch):
    theirs = tmp_path / "tmp"
    theirs.mkdir()
    (theirs / "mine.txt").write_text("keep")
    monkeypatch.setenv("TMPDIR", str(theirs))
    monkeypatch.setattr("tempfile.tempdir", None)
    outcome = run(small)
    assert "Cleaned up workspace: " in outcome.run.log.read_text()
    assert os.listdir(theirs) == ["mine.txt"]


DRIVER = """
import json, sys
from pathlib import Path
from rich.console import Console
from faceflow.pipelines import local, parameters, spec
from faceflow.pipelines.runs import Root
compiled, root, scratch = map(Path, sys.argv[1:])
given = {"sources": [{"name": "ada"}, {"name": "bob"}, {"name": "eve"}], "seconds": 60.0, "scratch_dir": str(scratch)}
arguments = parameters.arguments(given, spec.read(compiled))
outcome = local.run_compiled(compiled, arguments, root=Root(root), name="test", console=Console())
local._tell_failure(outcome, Console())
sys.exit(outcome.status)
"""


def start(small, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(small), str(tmp_path / "runs"), str(tmp_path / "scratch")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    until = time.monotonic() + 60
    while not (tmp_path / "scratch" / "begun").exists() and time.monotonic() < until:
        time.sleep(0.1)
    time.sleep(0.3)
    return process


def sleeping(tmp_path):
    """Command lines of stages that still run for this test."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "kfp.dsl.executor_main" in line and str(tmp_path) in line:
            found.append(line)
    return found


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_lets_stages_tidy_up_and_leaves_no_process(small, tmp_path, number, status):
    process = start(small, tmp_path)
    assert sleeping(tmp_path)
    begun = time.monotonic()
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == status
    assert time.monotonic() - begun < 8
    assert "Interrupted after" in said and "the same command goes on from there" in said
    assert (tmp_path / "scratch" / "tidied").exists()
    assert sleeping(tmp_path) == []
    (run,) = Root(tmp_path / "runs").runs()
    assert run.record().status == "interrupted"
    assert {row["name"]: row["state"] for row in run.record().stages}["join"] == "not reached"


def test_stages_do_not_outlive_a_killed_run(small, tmp_path):
    process = start(small, tmp_path)
    process.kill()
    process.communicate()
    until = time.monotonic() + 10
    while sleeping(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert sleeping(tmp_path) == []


def test_a_lock_that_another_thread_holds_does_not_stop_a_run(small, run):
    """A forked process would wait for this lock for ever: the thread that could free it is not in the fork."""
    tempfile.gettempdir()
    with tempfile._once_lock:
        assert run(small).status == 0
