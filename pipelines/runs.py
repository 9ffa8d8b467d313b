"""The folder that local runs live in: runs, the cache of finished stages, and scratch.

    <root>/.faceflow            marks the folder as ours, and is locked while something runs or cleans
    <root>/<run id>/            run.json, run.log, pipeline.yaml, report.html, artifacts/
    <root>/cache/               kfp.local's entries: a stage's inputs -> the artifacts that some run made of them
    <root>/scratch/             partial downloads and training checkpoints

A run that found stages in the cache leans on the runs that made them: see :mod:`faceflow.pipelines.clean`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import chain, count
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import FaceflowError, SettingsError
from faceflow.components.common.manifest import MANIFEST_NAME, Manifest
from faceflow.components.common.storage import write_atomically

_MARKER = ".faceflow"
_MARKER_TEXT = "Local runs of faceflow, their cache and scratch. `faceflow clean --root <this folder>` removes them.\n"
_RECORD = "run.json"


@dataclass
class RunRecord:
    """What ``run.json`` says about a run.

    Attributes:
        id: The name of the run's folder.
        preset: The preset it was started from.
        pipeline: The pipeline's name.
        started: Local time, ISO 8601.
        arguments: Every parameter of the pipeline.
        status: running, finished, failed or interrupted.
        seconds: How long it took.
        stages: For each stage its name, title, state and seconds.
        artifacts: Every artifact it made or found in the cache.
    """

    id: str
    preset: str
    pipeline: str
    started: str
    arguments: dict[str, Any]
    status: str = "running"
    seconds: float = 0.0
    stages: list[dict[str, Any]] = field(default_factory=list)
    artifacts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One run's folder."""

    folder: Path

    @property
    def log(self) -> Path:
        """Everything that its stages and kfp.local said."""
        return self.folder / "run.log"

    @property
    def pipeline(self) -> Path:
        """The compiled pipeline that it ran."""
        return self.folder / "pipeline.yaml"

    @property
    def report(self) -> Path:
        """The one report over all stages."""
        return self.folder / "report.html"

    @property
    def artifacts(self) -> Path:
        """What its stages made: the pipeline root."""
        return self.folder / "artifacts"

    def write(self, record: RunRecord) -> None:
        """Write ``run.json``."""
        text = json.dumps(asdict(record), indent=1, ensure_ascii=False)
        write_atomically(self.folder / _RECORD, text + "\n")

    def record(self) -> RunRecord:
        """Read ``run.json``."""
        return RunRecord(**json.loads((self.folder / _RECORD).read_text(encoding="utf-8")))


@dataclass(frozen=True)
class CacheEntry:
    """One entry of kfp.local's cache.

    Attributes:
        file: The entry.
        outputs: The stage's output artifacts: name to path.
        defect: Why the entry must not be used again; '' where it may.
    """

    file: Path
    outputs: dict[str, Path]
    defect: str


class Root:
    """The folder that holds the runs.

    Args:
        path: The folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        self.cache = self.path / "cache"
        self.scratch = self.path / "scratch"

    @property
    def exists(self) -> bool:
        """Whether faceflow has used the folder."""
        return (self.path / _MARKER).is_file()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs and ``faceflow clean`` out while the block works.

        Raises:
            FaceflowError: Something else is at work there.
        """
        with open(self.path / _MARKER, "r+", encoding="utf-8") as marker:
            try:
                fcntl.flock(marker, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise FaceflowError(
                    f"another faceflow command is at work in {self.path}. Wait for it to end, or choose another --root."
                ) from error
            yield

    def prepare(self) -> None:
        """Make the folder and mark it.

        Raises:
            SettingsError: It cannot be made, or is a folder of something else.
        """
        if self.path.exists() and not self.exists and (not self.path.is_dir() or any(self.path.iterdir())):
            raise SettingsError(
                f"--root {self.path} holds other files. Choose a new or empty folder: runs and their cache are removed "
                "from it by `faceflow clean`."
            )
        try:
            self.cache.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(exist_ok=True)
            if not self.exists:
                (self.path / _MARKER).write_text(_MARKER_TEXT, encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"--root {self.path} cannot be written ({error}). Choose another folder.") from error

    def new_run(self, preset: str) -> Run:
        """Make the folder of a run, named by the time and its preset."""
        stem = f"{datetime.now():%Y%m%d-%H%M%S}-{preset}"
        for name in chain([stem], (f"{stem}-{n}" for n in count(2))):
            try:
                (self.path / name / "artifacts").mkdir(parents=True)
            except FileExistsError:
                continue
            return Run(self.path / name)
        raise AssertionError("unreachable")

    def runs(self) -> list[Run]:
        """The runs, oldest first; a folder without a readable ``run.json`` is not one."""
        found = []
        for path in sorted(self.path.iterdir()) if self.path.is_dir() else ():
            if path.is_symlink() or not (path / _RECORD).is_file():
                continue
            run = Run(path)
            try:
                found.append((run.record().started, path.name, run))
            except (ValueError, TypeError):
                continue
        return [run for _, _, run in sorted(found, key=lambda each: each[:2])]

    def entries(self) -> Iterator[CacheEntry]:
        """The cache's entries, each with what is wrong with it."""
        for file in sorted(self.cache.glob("*.json")):
            try:
                outputs = json.loads(file.read_text(encoding="utf-8"))
                artifacts = {
                    name: (value.get("schema_title", ""), Path(value["uri"]))
                    for name, value in outputs.items()
                    if isinstance(value, dict) and value.get("__kfp_artifact__")
                }
            except (ValueError, KeyError, AttributeError) as error:
                yield CacheEntry(file, {}, f"it is not readable ({error})")
                continue
            # Of a container that failed kfp.local may keep this: no outputs, and so a hit for ever.
            wrong = "" if outputs else "it holds no outputs"
            for name, (kind, path) in artifacts.items():
                wrong = wrong or defect(name, kind, path)
            yield CacheEntry(file, {name: path for name, (_, path) in artifacts.items()}, wrong)

    def forget(self) -> None:
        """Remove the cache and, where nothing else is left in it, the folder."""
        shutil.rmtree(self.cache, ignore_errors=True)
        shutil.rmtree(self.scratch, ignore_errors=True)
        if [path.name for path in self.path.iterdir()] == [_MARKER]:
            shutil.rmtree(self.path)

    def remove_dead_entries(self) -> int:
        """Remove the entries that must not be used again, and say how many there were."""
        dead = [entry.file for entry in self.entries() if entry.defect]
        for file in dead:
            file.unlink(missing_ok=True)
        for file in self.cache.glob(".kfp_cache_*.tmp"):
            file.unlink(missing_ok=True)
        return len(dead)


def defect(name: str, kind: str, path: Path) -> str:
    """What is wrong with an output artifact of a stage; '' where nothing is.

    Args:
        name: The output's name.
        kind: Its schema title, for instance ``system.Dataset``.
        path: Where it should be.
    """
    if not path.exists():
        return f"its output '{name}' is not at {path}"
    if kind == "system.Dataset" and path.is_dir():
        if not (path / MANIFEST_NAME).is_file():
            return f"its output '{name}' at {path} has no {MANIFEST_NAME}"
        try:
            shards = Manifest.read(path).shards
        except FaceflowError as error:
            return f"its output '{name}' is damaged: {error}"
        for shard in shards:
            file = path / shard.name
            if not file.is_file() or file.stat().st_size != shard.bytes:
                return f"its output '{name}' is damaged: {file} is missing or truncated"
    return ""
