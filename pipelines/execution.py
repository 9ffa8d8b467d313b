"""The process that runs a compiled pipeline on kfp.local, and says what happens in it.

kfp 2.17.0 tells what it does only through the root logger, whose handlers and level its threads swap under each other's
feet, and through ``print``. So this process observes both at their source: a filter on the root logger sees every
record in the thread that runs the task, and standard output is an object that knows each thread's task.

Events go to the parent as JSON lines:

    started, said(line), done(outputs), failed, cached(outputs), retrying     of a stage, with the thread it runs in
    problem(message)                                                          of the pipeline
    ended(ok)                                                                 always the last
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import pickle
import re
import shlex
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

_COLOUR = re.compile(r"\x1b\[\d+m")
_STARTED = re.compile(r"^Executing task '(?P<stage>.+)'$")
_FINISHED = re.compile(r"^Task '(?P<stage>.+)' finished with status (?P<status>SUCCESS|FAILURE)$")
_OUTPUTS = re.compile(r"^Task '(?P<stage>.+)' (?:outputs:\n(?P<outputs>.*)|has no outputs)$", re.DOTALL)
_ARTIFACT = re.compile(r"^ {4}(?P<name>[\w-]+): \w+\( name='.*',\n +uri='(?P<uri>.*)',$", re.MULTILINE)
_CACHED = re.compile(r"^Task (?P<stage>.+) cache hit \(key=(?P<key>[0-9a-f]+)\); skipping execution\.$")
_RETRYING = re.compile(r"^Task (?P<stage>.+) failed \(attempt \d+/\d+\)\. Retrying in ")
_BROKEN = re.compile(r"^Task (?P<stage>.+) failed with exception: (?P<message>.*)$", re.DOTALL)
_EXECUTOR = re.compile(r"^\[KFP Executor [^\]]*\]: ")
_CHATTER = ("Looking for component ", "Loading KFP component ", "Got executor_input:", "Wrote executor output file ")
_INDENT = " " * 4


@dataclass(frozen=True)
class Containers:
    """How stages run in containers.

    Attributes:
        user: ``uid:gid`` to run as; '' for the image's own user.
        mounts: Folders and files of this machine, each at its own path, and whether it is read-only.
        label: Marks the containers of this run.
        environment: Environment variables.
    """

    user: str
    mounts: tuple[tuple[str, bool], ...]
    label: str
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A pipeline to run.

    Attributes:
        pipeline: The compiled YAML.
        arguments: Every parameter.
        artifacts: Where stages write.
        cache: kfp.local's cache.
        log: Where everything that is said goes.
        temporary: A folder for temporary files; the parent removes it.
        containers: Run the stages in containers, so; None for processes of this environment.
    """

    pipeline: Path
    arguments: dict[str, Any]
    artifacts: Path
    cache: Path
    log: Path
    temporary: Path
    containers: Containers | None = None


class _Events:
    """Sends events and writes the log."""

    def __init__(self, channel: int, log: Path) -> None:
        self._channel = channel
        self._log = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - lives as long as the process
        self._lock = threading.Lock()
        self.local = threading.local()
        self.stopping = False

    @property
    def stage(self) -> str | None:
        """The stage that the calling thread runs."""
        return getattr(self.local, "stage", None)

    def send(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, "thread": threading.get_ident(), **content}) + "\n"
        with self._lock:
            data = line.encode()
            while data:
                data = data[os.write(self._channel, data) :]

    def log(self, line: str) -> None:
        stage = self.stage
        with self._lock:
            self._log.write(f"[{stage}] {line}\n" if stage else f"{line}\n")


class _Observer(logging.Filter):
    """Reads what kfp.local logs; lets nothing through, as kfp would print it on standard output."""

    def __init__(self, events: _Events, cache: Path) -> None:
        super().__init__()
        self._events = events
        self._cache = cache

    def filter(self, record: logging.LogRecord) -> bool:
        message = _COLOUR.sub("", record.getMessage())
        self._events.log(f"{record.levelname} {message}")
        if found := _STARTED.match(message):
            if self._events.stopping:
                raise KeyboardInterrupt  # a loop's threads would go on to their next items
            self._events.local.stage = found["stage"]
            self._events.send("started", stage=found["stage"])
        elif found := _FINISHED.match(message):
            if found["status"] == "FAILURE":
                self._events.send("failed", stage=found["stage"])
                self._events.local.stage = None
        elif found := _OUTPUTS.match(message):
            outputs = {each["name"]: each["uri"] for each in _ARTIFACT.finditer(found["outputs"] or "")}
            self._events.send("done", stage=found["stage"], outputs=outputs)
            self._events.local.stage = None
        elif found := _CACHED.match(message):
            self._events.send("cached", stage=found["stage"], outputs=self._cached(found["key"]))
        elif found := _RETRYING.match(message):
            self._events.send("retrying", stage=found["stage"])
        elif found := _BROKEN.match(message):
            self._events.send("problem", message=f"{found['stage']}: {found['message']}")
        return False

    def _cached(self, key: str) -> dict[str, str]:
        """The artifacts that a cache entry stands for; kfp logs the first digits of its name."""
        outputs: dict[str, str] = {}
        for file in self._cache.glob(f"{key}*.json"):
            for name, value in json.loads(file.read_text(encoding="utf-8")).items():
                if isinstance(value, dict) and "uri" in value:
                    outputs[name] = value["uri"]
        return outputs


class _Output(io.TextIOBase):
    """Standard output of this process: what kfp.local prints of a stage, line by line, thread by thread."""

    def __init__(self, events: _Events) -> None:
        super().__init__()
        self._events = events

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if text == _INDENT:  # kfp's own, and never taken back where threads overlap
            return len(text)
        local = self._events.local
        *lines, local.rest = (getattr(local, "rest", "") + text).split("\n")
        for line in lines:
            self._line(line.rstrip("\r"))
        return len(text)

    def _line(self, line: str) -> None:
        stage = self._events.stage
        if stage is None:
            return  # the rules that kfp draws between tasks
        self._events.log(line)
        local = self._events.local
        if getattr(local, "in_input", False):
            local.in_input = line != "}"
            return
        if line.startswith("Found image '"):  # DockerRunner's
            return
        if executor := _EXECUTOR.match(line):
            line = line[executor.end() :]
            local.in_input = line.startswith("Got executor_input:")
            if line.startswith(_CHATTER):
                return
        self._events.send("said", stage=stage, line=line)


def main() -> None:
    """The child process: it is told what to do on standard input, by the parent that started it."""
    execute(*pickle.load(sys.stdin.buffer))


def execute(job: Job, channel: int, alive: int) -> None:
    """Run a pipeline to its end, in a process and a session of its own.

    Args:
        job: The pipeline.
        channel: File descriptor that events are written to.
        alive: File descriptor that reads end-of-file when the parent is gone.
    """
    os.chdir(job.artifacts)
    events = _Events(channel, job.log)

    def stop(*_: object) -> None:
        events.stopping = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with open(os.devnull) as nothing, open(job.log, "a") as log:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stdout = _Output(events)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115 - lives as long as the process
    threading.Thread(target=_end_with_parent, args=(alive,), daemon=True).start()
    os.environ |= {"TMPDIR": str(job.temporary), "PYTHONUNBUFFERED": "1"}
    tempfile.tempdir = None
    warnings.filterwarnings("ignore", module=r"kfp\.local\.")
    sys.executable = _plain_interpreter(job.temporary)
    root = logging.getLogger()
    root.setLevel(logging.INFO)  # kfp logs cache hits at INFO, at the level it found
    root.addFilter(_Observer(events, job.cache))
    ok = False
    try:
        _run(job)
        ok = True
    except KeyboardInterrupt:
        events.log("interrupted")
    except BaseException as error:
        message = _COLOUR.sub("", str(error))
        events.log(traceback.format_exc())
        if not (isinstance(error, RuntimeError) and "Inner task failed" in message):
            events.send("problem", message=f"{type(error).__name__}: {message}")
    events.send("ended", ok=ok)


def _run(job: Job) -> None:
    from kfp import components, local

    runner = local.SubprocessRunner(use_venv=False) if job.containers is None else _container_runner(job.containers)
    # No workspace_root: kfp deletes whatever folder it is given there, and makes a fresh one in TMPDIR without it.
    local.init(
        runner=runner,
        pipeline_root=str(job.artifacts),
        raise_on_error=True,
        enable_caching=True,
        cache_root=str(job.cache),
    )
    components.load_component_from_file(str(job.pipeline))(**job.arguments)


def _container_runner(containers: Containers) -> Any:
    from kfp import local

    ContainerCollection = importlib.import_module("docker.models.containers").ContainerCollection
    Mount = importlib.import_module("docker.types").Mount
    # kfp starts containers with auto_remove and takes one that is gone before it looks for one that succeeded, without
    # its log. So they stay until the run is over; the parent removes them by their label.
    start = ContainerCollection.run

    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        return start(self, *arguments, **{**options, "auto_remove": False})

    ContainerCollection.run = run
    options: Mapping[str, Any] = {"user": containers.user} if containers.user else {}
    return local.DockerRunner(
        mounts=[Mount(path, path, type="bind", read_only=read_only) for path, read_only in containers.mounts],
        labels={"faceflow.run": containers.label},
        environment=containers.environment,
        **options,
    )


def _plain_interpreter(temporary: Path) -> str:
    """An interpreter whose path a shell takes as one word: kfp puts it into a script without quotes."""
    if shlex.quote(sys.executable) == sys.executable:
        return sys.executable
    plain = temporary / "python"
    plain.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    plain.chmod(0o755)
    return str(plain)


def _end_with_parent(alive: int) -> None:
    """Wait for the parent to be gone, then end with everything that this process started."""
    stream: TextIO
    with open(alive) as stream:
        stream.read()
    os.killpg(0, signal.SIGTERM)
