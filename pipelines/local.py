"""Runs a pipeline on this machine with kfp.local: checks first, then one process that executes and one that watches.

Nothing here executes a stage itself: kfp.local runs the compiled pipeline as a cluster would. What it does silently
wrong (kfp 2.17.0) is refused before the start, or found out by looking at the outputs afterwards.
"""

from __future__ import annotations

import json
import os
import pickle
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.storage import require_free_space
from faceflow.pipelines import containers, execution, parameters, sources, spec
from faceflow.pipelines.board import Board
from faceflow.pipelines.compilation import compile_pipeline
from faceflow.pipelines.live import View, duration, view_for
from faceflow.pipelines.runs import Root, Run, RunRecord, defect

_TICK_SECONDS = 0.2
_GRACE_SECONDS = 10.0
# Raw faces, aligned, augmented and packed: photographs shrink on the way, copies are added; together about so much.
_TIMES_THE_SOURCES = 4
_KFP_REPLACES = ("{{$", "/kfp-workspace")


@dataclass(frozen=True)
class Options:
    """What a person asked for.

    Attributes:
        preset: A preset's name or path.
        settings: ``name=value`` pairs.
        source_paths: Folders or archives to train on, instead of the preset's sources.
        root: Where runs, cache and scratch live.
        in_containers: Whether stages run in their images.
        verbose: Whether to show what stages say.
    """

    preset: str
    settings: tuple[str, ...] = ()
    source_paths: tuple[str, ...] = ()
    root: Path = Path("runs")
    in_containers: bool = False
    verbose: bool = False


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        run: Its folder.
        record: What was written to its ``run.json``.
        board: The state of every stage.
        problems: What went wrong, a paragraph each; empty where nothing did.
        status: Exit status: 0, 1, or 128 + the signal that interrupted it.
        look_inside: In containers, the command that opens the failed stage's image.
    """

    run: Run
    record: RunRecord
    board: Board
    problems: list[str]
    status: int
    look_inside: str = ""


class _Stopped(BaseException):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run(options: Options, console: Console) -> int:
    """Run a preset, and show how it goes and what came of it.

    Args:
        options: What to run.
        console: Where to show it.

    Returns:
        The exit status: 0; 1 where a stage failed; 130 after Ctrl-C.

    Raises:
        FaceflowError: Something is wrong that can be known before the start.
    """
    preset = parameters.load(parameters.find(options.preset))
    with tempfile.TemporaryDirectory(prefix="faceflow-") as folder:
        compiled = Path(folder) / "pipeline.yaml"
        compile_pipeline(preset.pipeline, compiled)
        pipeline = spec.read(compiled)
        given = preset.parameters | parameters.assignments(options.settings, pipeline)
        if options.source_paths:
            if any(setting.partition("=")[0].strip() == "sources" for setting in options.settings):
                raise SettingsError("--source and --set sources=... say different things: give one of them.")
            given["sources"] = sources.from_paths(options.source_paths)
        arguments = parameters.arguments(given, pipeline)
        if "scratch_dir" in arguments and "scratch_dir" not in given:
            arguments["scratch_dir"] = str(Root(options.root).scratch)
        arguments = sources.resolved(arguments, Path.cwd())
        parameters.check_settings(arguments, installed=not options.in_containers)
        outcome = run_compiled(
            compiled,
            arguments,
            reads=tuple(sources.local_paths(arguments)),
            root=Root(options.root),
            name=preset.name,
            console=console,
            in_containers=options.in_containers,
            verbose=options.verbose,
        )
    if outcome.status:
        _tell_failure(outcome, console)
    else:
        from faceflow.pipelines import summary  # what it needs would only weigh on the process that executes

        summary.show(outcome, console)
    return outcome.status


def run_compiled(
    compiled: Path,
    arguments: Mapping[str, Any],
    *,
    root: Root,
    name: str,
    console: Console,
    reads: Sequence[Path] = (),
    in_containers: bool = False,
    verbose: bool = False,
) -> Outcome:
    """Run a compiled pipeline.

    Args:
        compiled: The YAML.
        arguments: Every parameter, of its type.
        root: Where to run it.
        name: What to call the run.
        console: Where to show how it goes.
        reads: Files and folders of this machine that its stages read.
        in_containers: Whether stages run in their images.
        verbose: Whether to show what stages say.

    Returns:
        What became of it; a failed stage is no exception.

    Raises:
        FaceflowError: Something is wrong that can be known before the start.
    """
    pipeline = spec.read(compiled)
    spec.check(pipeline)
    _refuse_what_kfp_rewrites(arguments, root, name, in_containers)
    client = containers.connect() if in_containers else None
    if client is not None:
        containers.require_images(client, pipeline)
    needed = _TIMES_THE_SOURCES * sum(sources.size(path) for path in reads)
    require_free_space(root.path, needed, f"run '{name}'")
    root.prepare()
    with root.locked():
        root.remove_dead_entries()
        run = root.new_run(name)
        shutil.copyfile(compiled, run.pipeline)
        record = RunRecord(
            id=run.folder.name,
            preset=name,
            pipeline=pipeline.name,
            started=datetime.now().astimezone().isoformat(timespec="seconds"),
            arguments=dict(arguments),
        )
        run.write(record)
        inside = containers.prepare(client, root, run, arguments, reads) if client is not None else None
        board = Board(pipeline, arguments)
        view = view_for(console)
        console.print(Text.assemble(("Run ", "dim"), run.folder.name, (f" in {root.path}", "dim")), soft_wrap=True)
        begun = time.monotonic()
        temporary = Path(tempfile.mkdtemp(prefix="faceflow-"))
        job = execution.Job(run.pipeline, dict(arguments), run.artifacts, root.cache, run.log, temporary, inside)
        stopped, ended_well = 0, False

        def remove_containers() -> None:
            if client is not None:
                containers.remove(client, run)

        try:
            ended_well = _watch(job, board, view, verbose, stop_too=remove_containers)
        except _Stopped as stop:
            stopped = stop.number
        finally:
            remove_containers()
            shutil.rmtree(temporary, ignore_errors=True)
            root.remove_dead_entries()
        now = time.monotonic()
        board.end(now, interrupted=bool(stopped))
        problems = [] if stopped else _problems(board, ended_well)
        view.end(board, now)
        record.seconds = round(now - begun, 1)
        record.status = "interrupted" if stopped else "failed" if problems else "finished"
        for row in board.rows.values():
            stage = {"name": row.stage.name, "title": row.stage.title, "state": row.state}
            record.stages.append({**stage, "seconds": round(row.seconds(now), 1)})
            record.artifacts += [path for outputs in row.outputs for path in outputs.values()]
        run.write(record)
    failed = next((row.stage.image for row in board.rows.values() if row.failed), "")
    return Outcome(
        run=run,
        record=record,
        board=board,
        problems=problems,
        status=128 + stopped if stopped else 1 if problems else 0,
        look_inside=containers.command_to_look_inside(inside, failed) if inside and failed else "",
    )


def _refuse_what_kfp_rewrites(arguments: Mapping[str, Any], root: Root, name: str, in_containers: bool) -> None:
    """Refuse texts that kfp.local would change on their way into a stage.

    Raises:
        SettingsError: There is one.
    """
    texts = {"the folder of the runs, --root,": str(root.path), "the preset's name": name}
    texts |= {f"parameter '{key}'": json.dumps(value, ensure_ascii=False) for key, value in arguments.items()}
    for where, text in texts.items():
        if "python3" in text and not in_containers:
            raise SettingsError(
                f"{where} contains 'python3' ({_around(text, 'python3')}), which kfp.local replaces by the path of the "
                "interpreter. Use another name, for instance through a symbolic link, or run with --docker."
            )
        for special in _KFP_REPLACES:
            if special in text:
                raise SettingsError(
                    f"{where} contains '{special}' ({_around(text, special)}), which KFP replaces by a value of its "
                    "own. Use another name."
                )


def _around(text: str, part: str) -> str:
    begin = text.index(part)
    return text[max(0, begin - 40) : begin + len(part) + 20]


def _watch(job: execution.Job, board: Board, view: View, verbose: bool, stop_too: Callable[[], None]) -> bool:
    """Start the executing process and follow it to its end.

    Args:
        job: What to execute.
        board: Kept up to date.
        view: Shows it.
        verbose: Whether the view is told what stages say.
        stop_too: Called when a signal ends it, for what is not in the process group.

    Returns:
        Whether kfp.local says that the pipeline went well.

    Raises:
        _Stopped: A signal ended it.
    """
    ours, theirs = os.pipe()
    alive, dead = os.pipe()
    # Not a fork, though that would have kfp imported already: libraries' threads hold locks that a fork never frees.
    code = "from faceflow.pipelines import execution; execution.main()"
    with _signals():
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.PIPE,
            pass_fds=(theirs, alive),
            start_new_session=True,
        )
        os.close(theirs)
        os.close(alive)
        view.begin(board)
        try:
            with suppress(BrokenPipeError):  # it ended at once; what it had to say is on standard error
                assert child.stdin is not None
                with child.stdin as told:
                    pickle.dump((job, theirs, alive), told)
            return _follow(ours, board, view, verbose)
        except _Stopped:
            _stop(child.pid, board, view, stop_too)
            raise
        finally:
            os.close(dead)  # without its parent the child ends itself, and all that it started
            with suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)
            os.close(ours)


def _follow(channel: int, board: Board, view: View, verbose: bool) -> bool:
    """Read events until the other side closes."""
    rest, ended_well = b"", False
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK_SECONDS):
                data = os.read(channel, 1 << 16)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    event = json.loads(line)
                    board.apply(event, time.monotonic())
                    if event["event"] == "ended":
                        ended_well = event["ok"]
                    elif event["event"] == "said" and verbose and event["line"].strip():
                        view.said(board.rows[event["stage"]], event["line"])
            view.update(board, time.monotonic())
    return ended_well


@contextmanager
def _signals() -> Iterator[None]:
    def stop(number: int, _: object) -> None:
        raise _Stopped(number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(group: int, board: Board, view: View, stop_too: Callable[[], None]) -> None:
    """End a process group: let stages clean up after themselves, but not for ever; a second signal ends it at once."""
    try:
        for number, patience in ((signal.SIGINT, _GRACE_SECONDS), (signal.SIGTERM, 2.0)):
            _signal_group(group, number)
            stop_too()
            until = time.monotonic() + patience
            while time.monotonic() < until:
                if not _group_alive(group):
                    return
                view.update(board, time.monotonic())
                time.sleep(_TICK_SECONDS / 2)
    except _Stopped:
        pass
    _signal_group(group, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _group_alive(group: int) -> bool:
    """Whether a process of the group still works; one that has ended but was not waited for does not count."""
    processes = Path("/proc")
    if not (processes / "self" / "stat").is_file():
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            return False
        return True
    for entry in processes.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, _, of_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(of_group) == group and state not in "ZX":
            return True
    return False


def _problems(board: Board, ended_well: bool) -> list[str]:
    """Everything that went wrong, also where kfp.local says that nothing did."""
    problems = [f"{failure.title}: {failure.message}" for failure in board.failures]
    for row in board.rows.values():
        for outputs in row.outputs:
            for name, path in outputs.items():
                wrong = defect(name, row.stage.artifacts.get(name, ""), Path(path))
                if wrong:
                    row.failed += 1
                    problems.append(
                        f"{row.stage.title}: it said that it went well, but {wrong}. Without that its work would be "
                        "done again every time. This is a defect of the stage: please report it with the log."
                    )
    if not problems and not ended_well:
        problems = list(board.problems) or ["kfp.local ended without saying why"]
    return list(dict.fromkeys(problems))


def _tell_failure(outcome: Outcome, console: Console) -> None:
    log = _short(outcome.run.log)
    if outcome.record.status == "interrupted":
        console.print(Text.assemble(("Interrupted", "bold yellow"), f" after {duration(outcome.record.seconds)}."))
    for problem in outcome.problems:
        console.print(Text.assemble(("Failed: ", "bold red"), problem), soft_wrap=True)
    unexpected = next((failure for failure in outcome.board.failures if not failure.expected), None)
    for line in unexpected.tail[-15:] if unexpected else ():
        console.print(Text(f"    {line}", "dim"), soft_wrap=True)
    console.print(Text.assemble(("Log: ", "dim"), log), soft_wrap=True)
    if outcome.look_inside:
        console.print(Text.assemble(("To look inside the container: ", "dim"), outcome.look_inside), soft_wrap=True)
    console.print(Text("Finished stages are kept: the same command goes on from there.", "dim"))


def _short(path: Path) -> str:
    """A path as a person would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
