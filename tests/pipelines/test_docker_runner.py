"""DockerRunner with a real engine, and what it gets wrong."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faceflow.components.common.errors import FaceflowError
from faceflow.pipelines import containers, images
from faceflow.pipelines.runs import Root

pytestmark = pytest.mark.containers


@pytest.fixture(scope="module")
def contained(compiled, small_pipeline):
    """The small pipeline in a real image: probe's, as every image has kfp and nothing else matters here."""
    options = os.environ.get("BUILD_OPTIONS", "").split()
    (name,) = images.build(["probe"], engine=images.find_engine(os.environ.get("ENGINE") or None), options=options)
    return compiled(small_pipeline(every=name))


def left_over():
    return containers.connect().containers.list(all=True, filters={"label": "faceflow.run"})


def test_stages_run_in_containers_and_a_second_run_is_cached(contained, run):
    first = run(contained, in_containers=True)
    assert (first.status, first.problems) == (0, [])
    made = Path(first.board.rows["join"].outputs[0]["joined"])
    assert made.read_text() == "ada bob"
    assert made.stat().st_uid == (10001 if os.getuid() == 0 else os.getuid())
    second = run(contained, in_containers=True)
    assert [row.state for row in second.board.rows.values()] == ["done", "cached", "cached"]
    assert left_over() == []


def test_a_failed_container_is_a_failed_stage_and_its_error_is_shown(contained, run, tmp_path):
    for fail, message in (("typed", "ada is not there. Look for it elsewhere."), ("killed", "it was killed, perhaps")):
        outcome = run(contained, in_containers=True, sources=[{"name": "ada"}], fail=fail)
        assert outcome.status == 1
        assert outcome.problems[0].startswith(f"Write source: {message}")
        assert outcome.board.rows["join"].state == "not reached"
        assert f"--volume {tmp_path}/runs:{tmp_path}/runs:rw" in outcome.look_inside
    assert all(entry.outputs for entry in Root(tmp_path / "runs").entries())
    assert left_over() == []


def test_sources_are_mounted_read_only_at_their_own_path(contained, run, tmp_path):
    faces = tmp_path / "faces"
    faces.mkdir()
    outcome = run(contained, in_containers=True, reads=[faces], sources=[{"name": "ada"}], fail=f"{faces}/x")
    assert outcome.problems == [f"Write source: OSError: [Errno 30] Read-only file system: '{faces}/x'"]


def test_a_missing_image_is_said_before_any_work(small, run, tmp_path):
    with pytest.raises(FaceflowError, match="localhost/tests/python:1. Run `make images`"):
        run(small, in_containers=True)
    assert list(tmp_path.iterdir()) == []


DRIVER = """
import sys
from pathlib import Path
from rich.console import Console
from faceflow.pipelines import local, parameters, spec
from faceflow.pipelines.runs import Root
compiled, root = map(Path, sys.argv[1:])
given = {"sources": [{"name": str(n)} for n in range(4)], "seconds": 60.0, "scratch_dir": str(root / "scratch" / "x")}
arguments = parameters.arguments(given, spec.read(compiled))
outcome = local.run_compiled(compiled, arguments, root=Root(root), name="t", console=Console(), in_containers=True)
sys.exit(outcome.status)
"""


def test_an_interrupted_run_leaves_no_container(contained, tmp_path):
    command = [sys.executable, "-c", DRIVER, str(contained), str(tmp_path / "runs")]
    process = subprocess.Popen(command, start_new_session=True)
    until = time.monotonic() + 120
    while not (tmp_path / "runs" / "scratch" / "x" / "begun").exists() and time.monotonic() < until:
        time.sleep(0.2)
    assert left_over()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert left_over() == []
