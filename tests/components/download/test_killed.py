"""Killed at random moments by a signal that nothing can catch, with a server that misbehaves in every way meanwhile."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

KILLS = 20
# Imports take most of such a process's time, and leave nothing behind: done once, in a process that forks the others.
FORKS = """
import json, os, sys
try:
    import pandas  # pyarrow takes it along where there is one
except ImportError:
    pass
from faceflow.components.common import command
from faceflow.components.download import stage
print(flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        sys.argv = ["download", *json.loads(line)]
        command.main("download", stage)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture
def forks(tmp_path):
    """Runs the stage's command with arguments in a process of its own, and returns its id and a way to its status."""
    with open(tmp_path / "log", "w") as log:
        parent = subprocess.Popen(
            [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        parent.stdout.readline()  # it is ready

        def start(arguments):
            parent.stdin.write(json.dumps(arguments) + "\n")
            parent.stdin.flush()
            return int(parent.stdout.readline()), lambda: int(parent.stdout.readline())

        yield start
        parent.stdin.close()
        assert parent.wait(30) == 0


def tree(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def moody(server, random_source):
    """Cut, ignore ranges, refuse for a moment and lie about the length, each now and then."""

    def mood(method):
        dice = random_source.random()
        server.ranges = dice > 0.15
        server.head_lies = random_source.choice([0, 0, 0, 777, -777])
        server.statuses = [random_source.choice([503, 429, 500])] if 0.15 < dice < 0.3 else []
        if method == "GET":
            server.lies = [random_source.choice([333, -333])] if 0.3 < dice < 0.4 else []
            server.cut_after = [random_source.randrange(1, 300_000)] if 0.4 < dice < 0.7 else []

    return mood


def test_killed_at_random_moments_the_download_ends_with_the_bytes_of_an_undisturbed_run(
    server, write, picture, tmp_path, forks
):
    chance = random.Random(0)
    versions = [
        {f"p{index % 40:02d}/{index:04d}.jpg": picture(index + 1000 * version, (48, 40)) for index in range(800)}
        for version in range(2)
    ]
    archives = [write(f"v{version}/set.tgz", files) for version, files in enumerate(versions)]
    table = b"path,gender,age\n" + b"".join(f"{name},f,{len(name)}\n".encode() for name in versions[0])
    (tmp_path / "table.csv").write_bytes(table)
    data = [archive.read_bytes() for archive in archives]
    undisturbed = {"kind": "folder", "path": str(archives[1]), "attributes": str(tmp_path / "table.csv")}
    begin = time.monotonic()
    _, status = forks(
        ["--source", json.dumps(undisturbed), "--raw-faces", str(tmp_path / "undisturbed"), "--shard-mb", "1"]
    )
    assert status() == 0
    duration = time.monotonic() - begin

    server.files = {"/set.tgz": data[0], "/table.csv": table}
    server.etags, server.dated, server.retry_after = {"/set.tgz": '"v0"', "/table.csv": '"t"'}, True, "0"
    server.mood = moody(server, chance)
    source = {"kind": "folder", "path": server.url("/set.tgz"), "attributes": server.url("/table.csv")}
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    partial = out.with_name(".out.partial")
    command = ["--source", json.dumps(source), "--raw-faces", str(out), "--scratch", str(scratch), "--shard-mb", "1"]
    command += ["--retries", "50", "--retry-wait-seconds", "0", "--timeout-seconds", "10"]
    killed = {"transfer": 0, "ingest": 0}

    def ingesting(since):
        """Whether the archive is there and the dataset has begun to grow."""
        try:
            grows = partial.stat().st_ctime_ns > since and any(partial.iterdir())
        except FileNotFoundError:
            return False
        return grows and any(scratch.glob("*/*/path/000/set.tgz"))

    while sum(killed.values()) < KILLS:
        in_transfer = killed["transfer"] < KILLS // 2
        server.slowly = 0.001 if in_transfer else 0.0
        if killed["transfer"] == KILLS // 4 and server.files["/set.tgz"] is data[0]:
            server.files["/set.tgz"], server.etags["/set.tgz"] = data[1], '"v1"'
            server.modified = "Thu, 22 Oct 2015 07:28:00 GMT"
        served, since = server.served, time.time_ns()
        enough, patience = chance.randrange(1, len(data[0]) // 4), chance.uniform(0.0, 0.8 * duration)
        process, status = forks([*command, "--connections", str(chance.choice([1, 3]))])
        while not out.exists() and (server.served - served < enough if in_transfer else not ingesting(since)):
            time.sleep(0.001)
        if not in_transfer:
            time.sleep(patience)
        if not out.exists():
            os.kill(process, signal.SIGKILL)
        if status() == -signal.SIGKILL and not out.exists():
            killed["ingest" if ingesting(since) else "transfer"] += 1
        else:
            shutil.rmtree(out)
    subprocess.run([sys.executable, "-m", "faceflow.components.download", *command], check=True, capture_output=True)
    assert tree(out) == tree(tmp_path / "undisturbed")
    assert min(killed.values()) >= KILLS // 4, killed
    assert not partial.exists()
    assert [path.name for path in (scratch / "download").iterdir() if not path.name.startswith(".")] == []
