"""The state of every stage of a run, kept from the events that the executing process sends."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from faceflow.pipelines.spec import Pipeline, Stage

_TYPED = re.compile(r"^faceflow\.components\.common\.errors\.\w+: (?P<message>.*)$")
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(: .*)?$")
_TAIL = 400


@dataclass(frozen=True)
class Failure:
    """Why a stage failed.

    Attributes:
        title: The stage.
        message: The error that it ended with.
        expected: Whether the error is one of faceflow's own, which needs no traceback.
        tail: The last lines that the stage said.
    """

    title: str
    message: str
    expected: bool
    tail: tuple[str, ...]


@dataclass
class Row:
    """One stage: how often it should run, and what became of it so far.

    Attributes:
        stage: The stage.
        expected: How often it is to run: once, or once an entry of the list that its loop runs over.
        active: Runs that are going on.
        done: Runs that ended well.
        cached: Runs that were answered from the cache.
        failed: Runs that failed.
        outputs: Output artifacts, name to path, of every run that ended well or was cached.
        latest: The last line that it said.
        failures: What went wrong.
        over: Whether the pipeline has ended.
        interrupted: Whether its end cut runs short.
    """

    stage: Stage
    expected: int
    active: int = 0
    done: int = 0
    cached: int = 0
    failed: int = 0
    outputs: list[dict[str, str]] = field(default_factory=list)
    latest: str = ""
    failures: list[Failure] = field(default_factory=list)
    over: bool = False
    interrupted: bool = False
    _spent: float = 0.0
    _since: float = 0.0
    _tails: dict[int, deque[str]] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """One of waiting, running, cached, done, failed, interrupted and not reached."""
        if self.active:
            return "running"
        if self.failed:
            return "failed"
        if self.interrupted:
            return "interrupted"
        if self.done + self.cached >= self.expected:
            return "done" if self.done else "cached"
        if self.over:
            return "not reached"
        return "running" if self.done + self.cached else "waiting"  # between two entries of a loop

    def seconds(self, now: float) -> float:
        """Seconds during which at least one of its runs was going on."""
        return self._spent + (now - self._since if self.active else 0.0)

    def start(self, now: float, thread: int) -> None:
        """A run begins."""
        if not self.active:
            self._since = now
        self.active += 1
        self._tails[thread] = deque(maxlen=_TAIL)

    def stop(self, now: float) -> None:
        """A run ends, one way or the other."""
        if self.active == 1:
            self._spent += now - self._since
        self.active = max(0, self.active - 1)

    def say(self, line: str, thread: int) -> None:
        """A run said something."""
        self._tails.setdefault(thread, deque(maxlen=_TAIL)).append(line)
        if line.strip():
            self.latest = line.strip()

    def tail(self, thread: int) -> list[str]:
        """The last lines of the run in a thread."""
        return list(self._tails.get(thread, ()))


class Board:
    """Every stage's row.

    Args:
        pipeline: The pipeline.
        arguments: Its parameters, which say how often a loop runs.
    """

    def __init__(self, pipeline: Pipeline, arguments: Mapping[str, Any]) -> None:
        self.rows = {
            stage.name: Row(stage, len(arguments[stage.over]) if stage.over else 1) for stage in pipeline.stages
        }
        self.problems: list[str] = []

    def apply(self, event: Mapping[str, Any], now: float) -> None:
        """Take in one event; see :mod:`faceflow.pipelines.execution` for what there is."""
        if event["event"] == "problem":
            self.problems.append(event["message"])
            return
        row = self.rows.get(event.get("stage", ""))
        if row is None:
            return
        thread = event.get("thread", 0)
        match event["event"]:
            case "started":
                row.start(now, thread)
            case "said":
                row.say(event["line"], thread)
            case "cached":
                row.cached += 1
                row.outputs.append(event["outputs"])
            case "done":
                row.stop(now)
                missing = [name for name in row.stage.artifacts if name not in event["outputs"]]
                if missing:
                    # kfp.local takes a container that is gone for one that succeeded.
                    self._fail(row, thread, f"it ended without writing its output '{missing[0]}'")
                else:
                    row.done += 1
                    row.outputs.append(event["outputs"])
            case "failed":
                row.stop(now)
                self._fail(row, thread, "it ended with an error")
            case "retrying":
                row.failed -= 1
                row.failures.pop()

    def _fail(self, row: Row, thread: int, otherwise: str) -> None:
        row.failed += 1
        tail = row.tail(thread)
        while tail and not tail[-1].strip():
            tail.pop()
        message, expected = error_message(tail)
        row.failures.append(Failure(row.stage.title, message or otherwise, expected, tuple(tail)))

    def end(self, now: float, interrupted: bool) -> None:
        """The pipeline is over: what waits was not reached, and what seems to run was cut short.

        Args:
            now: The time.
            interrupted: Whether a person ended it; otherwise what was cut short has failed.
        """
        for row in self.rows.values():
            row.over = True
            row.interrupted = interrupted and row.active > 0
            while row.active:
                row.stop(now)
                if not interrupted:
                    row.failed += 1
                    message = "; ".join(self.problems) or "the process that ran it ended, perhaps for want of memory"
                    row.failures.append(Failure(row.stage.title, message, False, ()))

    @property
    def failures(self) -> list[Failure]:
        """Every failure, in the order of the stages."""
        return [failure for row in self.rows.values() for failure in row.failures]

    @property
    def running(self) -> list[Row]:
        """The stages that are at work."""
        return [row for row in self.rows.values() if row.active]


def error_message(lines: list[str]) -> tuple[str, bool]:
    """The error in a stage's last lines, and whether it is one of faceflow's own.

    A lightweight component's process ends with a traceback, whose last lines name the error.
    """
    for index in range(len(lines) - 1, -1, -1):
        if found := _TYPED.match(lines[index]):
            more = [line.strip() for line in lines[index + 1 :] if line.strip()]
            return " ".join([found["message"], *more]).strip(), True
    begins = [index for index, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    for index in range(begins[-1] + 1 if begins else len(lines), len(lines)):
        if not lines[index].startswith(" ") and _RAISED.match(lines[index]):
            return " ".join(line.strip() for line in lines[index:] if line.strip()), False
    if lines and lines[-1] == "Killed":  # what the shell says that ran it
        return "it was killed, perhaps for want of memory", False
    return "", False
