"""Beam as the engine of the data stages: one function, mapped over shards.

The elements are shards, never images: per-record overhead would cost more than the copy of a record. What a function
finds it writes to a file, so nothing large travels through the runner, and any runner gives the same bytes.
"""

from __future__ import annotations

import base64
import json
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

from faceflow.components.common import errors, files, runners
from faceflow.components.common.errors import EngineError, SettingsError
from faceflow.components.common.logs import is_verbose, watching
from faceflow.components.common.settings import setting

LOCAL = "FnApiRunner"
PORTABLE = "PortableRunner"
RUNNERS = (LOCAL, PORTABLE, "FlinkRunner", "SparkRunner", "DataflowRunner")

_SCHEMES = ("s3", "gs", "hdfs", "azfs")
_MARK = "faceflow-error:"
_MARKED = re.compile(re.escape(_MARK) + r"([\w=-]+):end")
# What job servers say when a worker is gone, or never came.
_LOST = re.compile(
    r"worker.{0,120}(disconnect|lost|terminated|not connected|get control connection)|(channel|socket) closed",
    re.IGNORECASE,
)


class EngineSettings(Protocol):
    """The settings of a stage that say where it runs."""

    @property
    def runner(self) -> str:
        """A Beam runner's name."""

    @property
    def runner_options(self) -> list[str]:
        """Further Beam pipeline options."""

    @property
    def workers(self) -> int:
        """Processes on this machine."""

    @property
    def work_uri(self) -> str:
        """Where remote workers read and write; empty for this machine's disk."""


def runner_setting() -> Any:
    """The field ``runner`` of a stage's settings."""
    return setting(
        LOCAL,
        "Beam runner: FnApiRunner works on this machine, PortableRunner on the job server of --job_endpoint.",
        choices=RUNNERS,
        affects_output=False,
    )


def runner_options_setting() -> Any:
    """The field ``runner_options`` of a stage's settings."""
    return setting(
        [],
        'Further Beam pipeline options, such as ["--job_endpoint=host:8099"]; docs/scaling.md lists those of each '
        "runner.",
        affects_output=False,
    )


def work_uri_setting() -> Any:
    """The field ``work_uri`` of a stage's settings."""
    return setting(
        "",
        "Where the workers read and write: s3://..., gs://... or a folder that all of them mount. Needed by every "
        "runner but FnApiRunner, whose workers see this machine's disk.",
        affects_output=False,
    )


def check_settings(settings: EngineSettings) -> None:
    """Check the settings that say where a stage runs, without importing Beam.

    Raises:
        SettingsError: One is not allowed, or they do not go together.
    """
    for option in settings.runner_options:
        name = option.partition("=")[0]
        if not re.fullmatch(r"--[A-Za-z][\w-]*", name):
            raise SettingsError(f"setting 'runner_options' holds {option!r}, but an option is --name=value or --name.")
        if name == "--runner":
            raise SettingsError("setting 'runner_options' holds --runner: give the setting 'runner' instead.")
    if settings.runner != LOCAL and not settings.work_uri:
        raise SettingsError(
            f"setting 'work_uri' is empty, but workers of {settings.runner} do not see this machine's disk: give a "
            "place that they and this process can read and write, such as s3://bucket/folder, or a mounted folder."
        )
    if settings.work_uri:
        scheme, mark, _ = settings.work_uri.partition("://")
        if mark and scheme not in _SCHEMES:
            allowed = ", ".join(f"{each}://" for each in _SCHEMES)
            raise SettingsError(f"setting 'work_uri' begins with {scheme}://, but must be a path or one of {allowed}.")
        if not mark and not settings.work_uri.startswith("/"):
            raise SettingsError(f"setting 'work_uri' is {settings.work_uri!r}, but a path must begin with '/'.")
        if re.search(r"[*?\[\]{}\s]", settings.work_uri):
            raise SettingsError(
                f"setting 'work_uri' is {settings.work_uri!r}, but may hold no space and none of * ? [ ] {{ }}."
            )


@dataclass(frozen=True)
class Engine:
    """Where and how wide a data stage runs.

    Attributes:
        runner: A Beam runner's name. ``FnApiRunner`` works in this process and needs no network.
        workers: Processes, for ``FnApiRunner``; other runners take theirs from their options.
        options: Further Beam pipeline options, such as ``--job_endpoint=host:8099``. With ``PortableRunner``,
            ``--environment_config`` may be given several times: the shards are dealt to all these worker pools.
    """

    runner: str = LOCAL
    workers: int = 1
    options: tuple[str, ...] = ()

    @classmethod
    def of(cls, settings: EngineSettings) -> Self:
        """The engine that a stage's settings ask for.

        Raises:
            SettingsError: The options are not known to Beam, or a value does not fit.
            EngineError: The job server cannot be reached.
        """
        engine = cls(settings.runner, settings.workers, tuple(settings.runner_options))
        if engine.options or engine.runner != LOCAL:
            runners.check(engine.runner, engine.options)
        return engine

    def map(self, function: Callable[[Any], None], elements: Iterable[Any], label: str, *, done: str = "") -> None:
        """Call a function on every element.

        Args:
            function: An importable function, or a ``functools.partial`` of one, that leaves its results in files.
            elements: Picklable values, one a shard.
            label: The step's name.
            done: A location for notes of what is done, where the results outlive a failed run: elements that an
                earlier run with the same elements has done are left out.

        Raises:
            FaceflowError: The function raised one; its type and message are kept.
            EngineError: A worker was lost, or the job server.
            RuntimeError: Anything else that went wrong, as the runner tells it.
            KeyboardInterrupt: Ctrl-C was pressed; likewise SystemExit for a termination.
        """
        _require_importable(function)
        numbered = list(enumerate(elements))
        with _notes(done) as notes:
            before = files.listing(notes)
            todo = [(number, element) for number, element in numbered if _note(number) not in before]
            if not todo:
                return
            call = _Guarded(function, notes, self.options)
            count = partial(_count, notes)
            with _quiet(), watching(count, len(numbered), "shards", label):
                try:
                    self._run(call, todo, label)
                except Exception as error:
                    raise _interruption(error) or _typed(error) or _lost(error, self.runner) or error from error

    def _run(self, call: Callable[[tuple[int, Any]], int], todo: Sequence[tuple[int, Any]], label: str) -> None:
        if self.runner != LOCAL:
            runners.run_elsewhere(call, todo, label, self.runner, self.options)
        elif self.workers > 1:
            runners.run_in_processes(call, todo, label, min(self.workers, len(todo)), self.options)
        else:
            runners.run_here(call, todo, label, self.options)


@dataclass(frozen=True)
class _Guarded:
    """Calls a function on one element, notes that it is done, and marks a typed error to survive the runner's wrapping.

    Attributes:
        function: The function.
        notes: Where the note goes.
        options: Pipeline options by which a worker reaches object stores: not every runner hands them on.
    """

    function: Callable[[Any], None]
    notes: str
    options: tuple[str, ...]

    def __call__(self, numbered: tuple[int, Any]) -> int:
        number, element = numbered
        files.configure(self.options)
        try:
            self.function(element)
            files.write_bytes(files.join(self.notes, _note(number)), b"done")
        except errors.FaceflowError as error:
            # Runners show an error inside reprs and logs of their own; base64 comes through all of them unescaped.
            told = json.dumps({"kind": type(error).__name__, "message": str(error)}).encode()
            raise RuntimeError(f"{_MARK}{base64.urlsafe_b64encode(told).decode()}:end") from error
        return 1


def _note(number: int) -> str:
    return f"{number:06d}"


def _count(notes: str) -> int:
    return sum(name.isdigit() for name in files.listing(notes))


@contextmanager
def _notes(done: str) -> Iterator[str]:
    """Where notes of what is done go: the given location, or a folder for this run alone."""
    if done:
        files.make_folder(done)
        yield done
        return
    with tempfile.TemporaryDirectory(prefix="faceflow-notes-") as folder:
        yield folder


def _require_importable(function: Callable[..., Any]) -> None:
    """Refuse what another process could not import: workers get a function by its name."""
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    if getattr(inner, "__module__", "__main__") == "__main__" or "<" in getattr(inner, "__qualname__", "<"):
        raise TypeError(f"{inner!r} cannot be imported by a worker: move it to the top of a module.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Beam's own lines out of the log inside the block, unless the log is verbose; what fails is raised anyway."""
    if is_verbose():
        yield
        return

    def own(record: logging.LogRecord) -> bool:
        return "apache_beam" not in record.pathname

    beam, root = logging.getLogger("apache_beam"), logging.getLogger()
    level = beam.level
    beam.setLevel(logging.CRITICAL)
    root.addFilter(own)
    try:
        yield
    finally:
        root.removeFilter(own)
        beam.setLevel(level)


def _interruption(error: BaseException | None) -> BaseException | None:
    """The Ctrl-C or termination that an in-process runner has wrapped like any failure of the function."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__cause__ or error.__context__
    return error


def _typed(error: Exception) -> Exception | None:
    """The typed error that a worker marked, if it did, or that the engine itself raised."""
    if isinstance(error, errors.FaceflowError):
        return error
    found = _MARKED.search(str(error))
    if not found:
        return None
    told = json.loads(base64.urlsafe_b64decode(found.group(1)))
    kind = getattr(errors, told["kind"], errors.FaceflowError)
    typed: Exception = kind(told["message"])
    return typed


def _lost(error: Exception, runner: str) -> EngineError | None:
    """The error for a lost worker, if that is what the runner tells."""
    if not _LOST.search(str(error)):
        return None
    (first, *_) = str(error).strip().splitlines() or [""]
    return EngineError(
        f"{runner} lost a worker: {first[:500]}. Nothing was published; what other workers finished is kept under "
        "'work_uri'. See the worker's own log (killed for memory, perhaps), then run the stage again."
    )
