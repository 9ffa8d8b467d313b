"""Beam as the engine of the data stages: one function, mapped over shards.

The elements are shards, never images: per-record overhead would cost more than the copy of a record. What a function
finds it writes to a file, so nothing large travels through the runner, and any runner gives the same bytes.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from faceflow.components.common import errors

_MARK = "faceflow-error:"
_MARKED = re.compile(re.escape(_MARK) + r"(\{.*?\}):end")


@dataclass(frozen=True)
class _Guarded:
    """Calls a function on one element, and marks a typed error so that it survives the runner's own wrapping."""

    function: Callable[[Any], None]

    def __call__(self, element: Any) -> int:
        try:
            self.function(element)
        except errors.FaceflowError as error:
            told = json.dumps({"kind": type(error).__name__, "message": str(error)})
            raise RuntimeError(f"{_MARK}{told}:end") from error
        return 1


@dataclass(frozen=True)
class Engine:
    """Where and how wide a data stage runs.

    Attributes:
        runner: A Beam runner's name. ``FnApiRunner`` works in this process and needs no network.
        workers: Processes, for ``FnApiRunner``; other runners take theirs from their options.
        options: Further Beam pipeline options, such as ``--job_endpoint=host:8099``.
    """

    runner: str = "FnApiRunner"
    workers: int = 1
    options: tuple[str, ...] = ()

    def map(self, function: Callable[[Any], None], elements: Iterable[Any], label: str) -> None:
        """Call a function on every element.

        Args:
            function: An importable function, or a ``functools.partial`` of one, that leaves its results in files.
            elements: Picklable values, one a shard.
            label: The step's name.

        Raises:
            FaceflowError: The function raised one; its type and message are kept.
            RuntimeError: Anything else that went wrong, as the runner tells it.
            KeyboardInterrupt: Ctrl-C was pressed; likewise SystemExit for a termination.
        """
        # Beam logs the traceback of whatever fails and raises it as well: once is enough.
        logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
        beam = _import_beam()
        from apache_beam.options.pipeline_options import PipelineOptions

        todo = list(elements)
        if not todo:
            return
        flags = [f"--runner={self.runner}", *self.options]
        if self.runner == "FnApiRunner" and self.workers > 1:
            width = min(self.workers, len(todo))
            flags += ["--direct_running_mode=multi_processing", f"--direct_num_workers={width}"]
        try:
            with beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
                # Shuffling first lets the runner spread the elements over its workers.
                _ = (
                    pipeline
                    | f"{label}: shards" >> beam.Create(todo)
                    | f"{label}: spread" >> beam.Reshuffle()
                    | label >> beam.Map(_Guarded(function))
                )
        except Exception as error:
            raise _interruption(error) or _typed(error) from error


def _import_beam() -> Any:
    """Import Beam, without its notices that Google Cloud clients are not installed: nothing here needs them."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")

    logging.getLogger().addFilter(other)
    try:
        return importlib.import_module("apache_beam")
    finally:
        logging.getLogger().removeFilter(other)


def _interruption(error: BaseException | None) -> BaseException | None:
    """The Ctrl-C or termination that an in-process runner has wrapped like any failure of the function."""
    while error is not None and not isinstance(error, KeyboardInterrupt | SystemExit):
        error = error.__cause__ or error.__context__
    return error


def _typed(error: Exception) -> Exception:
    """The typed error that a worker marked, or the error itself."""
    found = _MARKED.search(str(error))
    if not found:
        return error
    try:
        told = json.loads(found.group(1))
    except ValueError:
        # A runner that shows the message inside a repr escapes its quotes and backslashes once more.
        told = json.loads(found.group(1).encode().decode("unicode_escape"))
    kind = getattr(errors, told["kind"], errors.FaceflowError)
    typed: Exception = kind(told["message"])
    return typed
