"""How the engine drives Beam's runners: in this process, in processes beside it, or on a job server elsewhere."""

from __future__ import annotations

import argparse
import copy
import difflib
import re
import shlex
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn
from weakref import WeakSet

from faceflow.components.common.errors import EngineError, SettingsError
from faceflow.components.common.logs import import_beam

Call = Callable[[tuple[int, Any]], int]
Todo = Sequence[tuple[int, Any]]

_POOL = "--environment_config"
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.2
_UNWIND_SECONDS = 10.0


def _parser() -> argparse.ArgumentParser:
    """Beam's parser of all its options, raising where argparse would end the process."""
    import_beam()
    from apache_beam.options import pipeline_options

    class Parser(pipeline_options._BeamArgumentParser):  # Beam has no public one
        def error(self, message: str) -> NoReturn:
            raise SettingsError(f"setting 'runner_options': {message}.")

    parser = Parser(allow_abbrev=False)
    for group in pipeline_options.PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    return parser


def check(runner: str, options: Sequence[str]) -> None:
    """Check pipeline options before any work is done: Beam itself drops those that it does not know.

    Raises:
        SettingsError: An option is unknown or its value does not fit, or one that the runner needs is missing.
        EngineError: The job server cannot be reached.
    """
    parser = _parser()
    known, rest = parser.parse_known_args(list(options))
    unknown = [each for each in rest if each.startswith("--")]
    endpoint = known.job_endpoint
    if runner == "PortableRunner":
        if not endpoint:
            raise SettingsError(
                "setting 'runner' is PortableRunner, which needs the address of a job server: add "
                '"--job_endpoint=HOST:PORT" to \'runner_options\'.'
            )
        theirs = _options_of(endpoint) if endpoint != "embed" else set()
        unknown = [each for each in unknown if each[2:].partition("=")[0] not in theirs]
    elif runner in ("FlinkRunner", "SparkRunner"):
        unknown = []  # their job server, which is started with the job, knows more options
    if unknown:
        name = unknown[0].partition("=")[0]
        flags = [flag for action in parser._actions for flag in action.option_strings]
        near = difflib.get_close_matches(name, flags, n=1)
        hint = f"did you mean {near[0]}?" if near else "see docs/scaling.md for those of each runner."
        raise SettingsError(f"setting 'runner_options' holds {name}, which Beam does not know: {hint}")
    if len(_pools(options)) > 1 and (runner != "PortableRunner" or known.environment_type != "EXTERNAL"):
        raise SettingsError(
            f"setting 'runner_options' holds {_POOL} more than once: several worker pools take the runner "
            "PortableRunner and --environment_type=EXTERNAL."
        )


def _options_of(endpoint: str) -> set[str]:
    """The options that a job server knows beside Beam's own; asking shows that it is there."""
    import grpc
    from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal():
        raise SettingsError(f"setting 'runner_options': --job_endpoint is {endpoint!r}, but must be HOST:PORT.")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS):
            pass
        with grpc.insecure_channel(endpoint) as channel:
            asked = beam_job_api_pb2.DescribePipelineOptionsRequest()
            service = beam_job_api_pb2_grpc.JobServiceStub(channel)
            return {option.name for option in service.DescribePipelineOptions(asked, timeout=_CONNECT_SECONDS).options}
    except (OSError, grpc.RpcError) as error:
        told = error.details() if isinstance(error, grpc.Call) else error
        raise EngineError(
            f"no Beam job server answers at {endpoint} ({told}): start it, or correct --job_endpoint in "
            "'runner_options'."
        ) from error


def _pools(options: Sequence[str]) -> list[str]:
    """The worker pools that the options name."""
    return [option.partition("=")[2] for option in options if option.startswith(f"{_POOL}=")]


def _pipeline(call: Call, todo: Todo, label: str, runner: Any, options: Sequence[str], pools: int = 1) -> Any:
    """A pipeline that makes the calls, dealt to so many worker pools."""
    beam = import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    pipeline = beam.Pipeline(runner=runner, options=PipelineOptions(list(options)))
    for pool in range(min(pools, len(todo))):
        # Shuffling first lets the runner spread the elements over its workers.
        _ = (
            pipeline
            | f"{label}: shards {_mark(pool)}" >> beam.Create(todo[pool::pools])
            | f"{label}: spread {_mark(pool)}" >> beam.Reshuffle()
            | f"{label} {_mark(pool)}" >> beam.Map(call)
        )
    return pipeline


def _mark(pool: int) -> str:
    return f"pool-{pool}"


def run_here(call: Call, todo: Todo, label: str, options: Sequence[str]) -> None:
    """Make the calls in this process."""
    import_beam()
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner

    _pipeline(call, todo, label, FnApiRunner(), options).run()


def run_in_processes(call: Call, todo: Todo, label: str, workers: int, options: Sequence[str]) -> None:
    """Make the calls in processes on this machine.

    Beam waits for this thread, which so stays free to notice Ctrl-C, a termination, or the loss of a worker.

    Raises:
        EngineError: A worker was killed or crashed.
    """
    import_beam()
    from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    with tempfile.TemporaryDirectory(prefix="faceflow-workers-") as folder, _supervision() as supervisor:
        alive = Path(folder, "alive")
        alive.touch()
        command = shlex.join([sys.executable, "-m", "faceflow.components.common.worker", str(alive)])
        environment = SubprocessSDKEnvironment.from_command_string(f"exec {command}")
        pipeline = _pipeline(call, todo, label, FnApiRunner(environment), [*options, f"--direct_num_workers={workers}"])
        failures: list[BaseException] = []

        def run() -> None:
            try:
                pipeline.run()
            except BaseException as error:
                failures.append(error)

        running = threading.Thread(target=run, name="beam", daemon=True)
        running.start()
        try:
            while running.is_alive() and not supervisor.lost:
                running.join(_POLL_SECONDS)
        finally:
            alive.unlink()  # what still works stops
            supervisor.give_up(running)
        if supervisor.lost and (failures or running.is_alive()):
            raise EngineError(
                f"a worker process of step '{label}' was lost ({supervisor.lost}): killed, perhaps because memory "
                "ran out. Nothing was published. Run the stage again, with fewer 'workers' or more memory."
            )
        if failures:
            raise failures[0]


class _Supervisor:
    """Notices that a worker process is gone, and ends the waiting for its answers.

    Beam 2.77 waits for ever for a worker that was killed between two messages: its thread ends with an exception, and
    nobody tells those who wait.

    Attributes:
        lost: What is known of the worker that was lost; empty as long as none was.
    """

    def __init__(self) -> None:
        self.lost = ""
        self.connections: WeakSet[Any] = WeakSet()

    def thread_failed(self, told: Any) -> None:
        """Note the failure of the thread that waits for a worker's end."""
        name = told.thread.name if told.thread else ""
        if name == "run_worker" and not self.lost:
            self.lost = re.sub(r"^Worker subprocess exited with return code", "exit status", str(told.exc_value))

    def give_up(self, running: threading.Thread) -> None:
        """Let a thread that waits for workers come to an end."""
        waited = 0.0
        while running.is_alive() and waited < _UNWIND_SECONDS:
            for connection in list(self.connections):
                connection.abort(RuntimeError("a worker was lost"))
            running.join(_POLL_SECONDS)
            waited += _POLL_SECONDS


@contextmanager
def _supervision() -> Iterator[_Supervisor]:
    """Watch over the worker processes that Beam starts inside the block."""
    from apache_beam.runners.portability.fn_api_runner import worker_handlers

    supervisor = _Supervisor()
    class Connection(worker_handlers.ControlConnection):
        """One that can be found when it must be aborted."""

        def __init__(self) -> None:
            super().__init__()
            supervisor.connections.add(self)

    original = worker_handlers.ControlConnection
    setattr(worker_handlers, "ControlConnection", Connection)  # noqa: B010 - to mypy a class is no variable
    try:
        with _instead_of_tracebacks(supervisor.thread_failed):
            yield supervisor
    finally:
        setattr(worker_handlers, "ControlConnection", original)  # noqa: B010


@contextmanager
def _instead_of_tracebacks(told: Callable[[Any], None]) -> Iterator[None]:
    """Be told of the threads that fail inside the block: Beam's do when a server or a worker is lost."""
    hook = threading.excepthook
    threading.excepthook = told
    try:
        yield
    finally:
        threading.excepthook = hook


def run_elsewhere(call: Call, todo: Todo, label: str, runner: str, options: Sequence[str]) -> None:
    """Make the calls on the workers of a job server; a job that is interrupted here is cancelled there.

    Raises:
        EngineError: The job server went away.
    """
    import grpc

    pools = _pools(options)[: len(todo)]
    options = [option for option in options if not option.startswith(f"{_POOL}=") or option.partition("=")[2] in pools]
    where = _spreading_runner(pools) if runner == "PortableRunner" else runner
    try:
        with _instead_of_tracebacks(lambda _: None):
            result = _pipeline(call, todo, label, where, options, max(1, len(pools))).run()
            try:
                result.wait_until_finish()
            except (KeyboardInterrupt, SystemExit):
                result.cancel()
                raise
    except grpc.RpcError as error:
        told = error.details() if isinstance(error, grpc.Call) else str(error)
        raise EngineError(
            f"the job server of {runner} does not answer any more ({told}). Nothing was published: run the stage "
            "again once it is back; what is finished is kept under 'work_uri'."
        ) from error


def _spreading_runner(pools: Sequence[str]) -> Any:
    """Beam's portable runner, with an environment of its own for every worker pool.

    A job server may start one worker an environment, and an environment has one address; so the steps that are marked
    for a pool get a copy of the default environment with that pool's address. The default environment has the address
    that is given last: a job server may start a worker for it even if no step needs one.
    """
    import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions
    from apache_beam.portability.api import beam_runner_api_pb2
    from apache_beam.runners.pipeline_context import PipelineContext
    from apache_beam.runners.portability.portable_runner import PortableRunner
    from apache_beam.transforms.environments import ExternalEnvironment

    def environment(pool: int, options: PipelineOptions) -> beam_runner_api_pb2.Environment:
        told = copy.deepcopy(options.view_as(PortableOptions))
        told.environment_config = pools[pool]
        return ExternalEnvironment.from_options(told).to_runner_api(PipelineContext())

    class Runner(PortableRunner):
        def run_portable_pipeline(self, pipeline: beam_runner_api_pb2.Pipeline, options: PipelineOptions) -> Any:
            """Give every worker pool its steps, and submit."""
            environments = pipeline.components.environments
            for transform in pipeline.components.transforms.values():
                found = re.search(r"pool-(\d+)", transform.unique_name)
                if found and transform.environment_id and int(found.group(1)) < len(pools) - 1:
                    name = f"{transform.environment_id}-{found.group()}"
                    if name not in environments:
                        environments[name].CopyFrom(environment(int(found.group(1)), options))
                    transform.environment_id = name
            return super().run_portable_pipeline(pipeline, options)

    made: Callable[[], Any] = Runner  # Beam's own constructor has no types
    return made()
