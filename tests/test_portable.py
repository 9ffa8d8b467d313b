"""The data stages on a portable job server with separate worker pools. `make test-portable` runs this.

By default the server is Prism, with two worker pools, all on this machine. `--job-endpoint HOST:PORT` takes a server of
your own; its workers must find faceflow, and `--work-uri` must name a place that they and this process can write.
"""

import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import boto3
import cv2
import numpy as np
import pytest

from faceflow.components.align import stage as align
from faceflow.components.augment import stage as augment
from faceflow.components.common import files
from faceflow.components.common.dataset import ShardWriter, finish, publishing
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import EngineError, SettingsError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.record import Record
from faceflow.components.pack import stage as pack

pytestmark = [pytest.mark.portable, pytest.mark.timeout(600)]

POLICY = "n > 20: sample(18), opening | n > 8: keep, gaussian_noise, salt_pepper | drop"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, what):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"{what} ended: see its output above"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError(f"{what} does not listen on port {port}")


@contextmanager
def started(command, port, what):
    """A server in a process group of its own, which is gone afterwards whatever happens."""
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        wait_for(port, process, what)
        yield process
    finally:
        kill(process)


def kill(process):
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def worker_pool(port):
    command = [sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    return started(command, port, "a worker pool")


@contextmanager
def prism():
    program = shutil.which("prism", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if not program:
        pytest.fail("there is no prism: `make test-portable` installs it, or give --job-endpoint HOST:PORT")
    port = free_port()
    command = [program, f"--job_port={port}", "--serve_http=false", "--log_kind=text", "--log_level=error"]
    with started(command, port, "prism"):
        yield [f"--job_endpoint=localhost:{port}", "--environment_type=EXTERNAL"]


@pytest.fixture(scope="module")
def bucket(s3_endpoint):
    """A bucket of an S3 server on this machine, as the environment of this process and of its children tells."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket"


@pytest.fixture(scope="module", params=["folder", "s3"])
def server(request, tmp_path_factory):
    """Runner options of a job server with its worker pools, and the place for the work."""
    endpoint, options = request.config.getoption("--job-endpoint"), request.config.getoption("--runner-option")
    work_uri = request.config.getoption("--work-uri")
    if endpoint or work_uri:
        if request.param == "s3":
            pytest.skip("the work is done where --work-uri says")
    elif request.param == "s3":
        work_uri = files.join(request.getfixturevalue("bucket"), "work")
    work_uri = work_uri or str(tmp_path_factory.mktemp("work"))
    if endpoint:
        yield [f"--job_endpoint={endpoint}", *options], work_uri
        return
    ports = free_port(), free_port()
    with prism() as job_server, worker_pool(ports[0]), worker_pool(ports[1]):
        yield [*job_server, *(f"--environment_config=localhost:{port}" for port in ports), *options], work_uri


def remote(server, work=""):
    options, work_uri = server
    return {"runner": "PortableRunner", "runner_options": options, "work_uri": work or work_uri}


def write_dataset(path, people, *, shards, stage="align", template="arcface_112"):
    """Small faces as a stage leaves them, with the landmarks of the template."""
    points = TEMPLATES["arcface_112"].points.astype(np.float32)
    images = 0
    with publishing(path) as directory:
        for index in range(shards):
            with ShardWriter(directory, index, stage=stage) as part:
                for person, count in people.items():
                    for number in range(index, count, shards):
                        key = f"{path.name}/{person}/{number:04d}.jpg"
                        rng = np.random.default_rng(list(key.encode()))
                        picture = cv2.resize(rng.integers(0, 256, (7, 7, 3), np.uint8), (112, 112))
                        part.write(
                            Record(key, f"{path.name}/{person}", encode_jpeg(picture, 90), 112, 112, landmarks=points)
                        )
                        part.kept(key, f"{path.name}/{person}")
                        images += 1
        finish(directory, stage=stage, settings={}, template=template, inputs={}, images_in=images)
    return path


def contents(folder):
    """The digest of every file of a dataset."""
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def run_all(folder, raw, engine):
    """Align, augment and pack."""
    folder.mkdir()
    settings = align.Settings(landmarks="given", **engine)
    align.run(settings, align.Inputs(raw), align.Outputs(folder / "faces", folder / "align.html"))
    settings = augment.Settings(policy=POLICY, seed=3, holdout_fraction=0.2, **engine)
    outputs = augment.Outputs(folder / "augmented", folder / "held_out", folder / "augment.html")
    augment.run(settings, augment.Inputs((folder / "faces",)), outputs)
    settings = pack.Settings(validation_fraction=0.1, seed=3, shard_mb=1, **engine)
    pack.run(settings, pack.Inputs(folder / "augmented"), pack.Outputs(folder / "packed", folder / "pack.html"))
    return {name: contents(folder / name) for name in ("faces", "augmented", "held_out", "packed")}


def test_every_data_stage_gives_the_same_bytes_as_on_this_machine(server, tmp_path):
    people = {"anna": 25, "bert": 12, "carl": 9, "dora": 4, "emil": 30, "fred": 15, "gina": 11}
    raw = write_dataset(tmp_path / "raw", people, shards=4, stage="download", template=None)
    here = run_all(tmp_path / "here", raw, {})
    there = run_all(tmp_path / "there", raw, remote(server))
    assert len(here["packed"]) > 8 and here == there
    assert files.listing(server[1]) == {}


def leave_a_pid(shard, *, output):
    files.write_bytes(files.join(output, f"{shard}"), str(os.getpid()).encode())


def test_both_worker_pools_work(server, request):
    if request.config.getoption("--job-endpoint"):
        pytest.skip("how a server of your own spreads the work is its own affair")
    output = files.join(server[1], "pids")
    files.make_folder(output)
    Engine("PortableRunner", options=tuple(server[0])).map(partial(leave_a_pid, output=output), range(8), "pids")
    pids = [files.read_bytes(files.join(output, str(shard))).decode() for shard in range(8)]
    files.delete(output)
    assert len(set(pids)) == 2 and set(pids[::2]) != set(pids[1::2]) and str(os.getpid()) not in pids


def test_an_option_that_the_server_does_not_know_is_refused(server, tmp_path):
    options = [*server[0], "--no_such_option=1"]
    with pytest.raises(SettingsError, match="--no_such_option, which Beam does not know"):
        Engine.of(augment.Settings(runner="PortableRunner", runner_options=options, work_uri=str(tmp_path)))


def test_a_killed_worker_pool_ends_the_stage_and_the_rerun_gives_the_same_bytes(request, server, tmp_path):
    if request.config.getoption("--job-endpoint") or server[1].startswith("s3://"):
        pytest.skip("this test kills workers of its own, on a folder of its own")
    people = {f"person-{number}": 60 for number in range(60)}
    faces = write_dataset(tmp_path / "faces", people, shards=24)
    work = tmp_path / "work"
    ports = free_port(), free_port()
    policy = "n > 1: keep, gaussian_noise, salt_pepper, opening | drop"

    def run(name, engine):
        outputs = augment.Outputs(tmp_path / name, tmp_path / f"{name}-held-out", tmp_path / f"{name}.html")
        augment.run(augment.Settings(policy=policy, **engine), augment.Inputs((faces,)), outputs)
        return contents(outputs.augmented_faces)

    killed = []
    with prism() as job_server, worker_pool(ports[0]), worker_pool(ports[1]) as doomed:
        options = [*job_server, *(f"--environment_config=localhost:{port}" for port in ports)]

        def kill_half_way():
            # Pools take turns, so an odd number is the second one's.
            while not any(int(note.name) % 2 for note in work.glob("*/done/augment/*")):
                time.sleep(0.01)
            killed.append(time.monotonic())
            kill(doomed)

        killer = threading.Thread(target=kill_half_way, daemon=True)
        killer.start()
        with pytest.raises(EngineError, match="lost a worker|does not answer any more"):
            run("there", remote((options, str(work))))
        assert time.monotonic() - killed[0] < 30
    assert {path.name for path in tmp_path.iterdir()} == {"faces", "work"}
    done = len(list(work.glob("*/done/augment/*")))
    assert 0 < done < 24
    assert run("there", remote(server, str(work))) == run("here", {})
    assert list(work.iterdir()) == []
