"""Small real pipelines, compiled and run on kfp.local."""

import io
from pathlib import Path
from typing import Any

import pytest
from kfp import compiler, dsl
from rich.console import Console

from faceflow.pipelines import local, parameters, spec
from faceflow.pipelines.runs import Root

IMAGE = "localhost/tests/python:1"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def name_of(source: dict) -> str:
    return str(source["name"])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def write(
    made: dsl.Output[dsl.Artifact],
    text: str = "",
    fail: str = "",
    seconds: float = 0.0,
    scratch: str = "",
    rerun: str = "",
):
    import sys
    import time
    from pathlib import Path

    sys.stdout.write(f"writing {text}\n")
    sys.stdout.flush()
    if scratch:
        Path(scratch).mkdir(parents=True, exist_ok=True)
        (Path(scratch) / "begun").write_text(text)
    try:
        time.sleep(seconds)
    except KeyboardInterrupt:
        if scratch:
            (Path(scratch) / "tidied").write_text(text)
        raise
    if fail == "typed":
        from faceflow.components.common.errors import SourceError

        raise SourceError(f"{text} is not there. Look for it\nelsewhere.")
    if fail == "bug":
        raise ZeroDivisionError("by nothing")
    if fail.startswith("/"):
        Path(fail).write_text(text)
    if fail == "killed":
        import os

        os.kill(os.getpid(), 9)
    Path(made.path).write_text(text)


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def join(parts: dsl.Input[list[dsl.Artifact]], joined: dsl.Output[dsl.Artifact], rerun: str = ""):
    from pathlib import Path

    Path(joined.path).write_text(" ".join(Path(part.path).read_text() for part in parts))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def count_without_a_file(joined: dsl.Input[dsl.Artifact], numbers: dsl.Output[dsl.Metrics]):
    numbers.log_metric("parts", 2.0)


def make_pipeline(image: str = IMAGE, with_metrics: bool = False, every: str = "") -> Any:
    @dsl.pipeline(name="small")
    def small(
        sources: list = [{"name": "ada"}, {"name": "bob"}],  # noqa: B006 - kfp's default
        fail: str = "",
        seconds: float = 0.0,
        scratch_dir: str = "",
        rerun_write: str = "",
        rerun_join: str = "",
    ):
        with dsl.ParallelFor(sources, name="sources") as source:
            named = name_of(source=source).set_caching_options(False).set_container_image(every or IMAGE)
            written = write(text=named.output, fail=fail, seconds=seconds, scratch=scratch_dir, rerun=rerun_write)
            written.set_display_name("Write source").set_container_image(every or image)
        joined = join(parts=dsl.Collected(written.outputs["made"]), rerun=rerun_join).set_display_name("Join")
        joined.set_container_image(every or IMAGE)
        if with_metrics:
            count_without_a_file(joined=joined.outputs["joined"])

    return small


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiles a pipeline to a file of its own."""

    def compile_one(pipeline: Any) -> Path:
        path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path

    return compile_one


@pytest.fixture(scope="session")
def small(compiled: Any) -> Path:
    """The small pipeline, compiled."""
    return compiled(make_pipeline())


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Runs a compiled pipeline under a root of the test's own."""

    def run_one(path: Path, **given: Any) -> local.Outcome:
        console = Console(file=io.StringIO(), width=200)
        root = Root(given.pop("root", tmp_path / "runs"))
        options = {key: given.pop(key) for key in ("in_containers", "verbose", "name", "reads") if key in given}
        arguments = parameters.arguments(given, spec.read(path))
        outcome = local.run_compiled(path, arguments, root=root, console=console, **{"name": "test", **options})
        outcome.shown = console.file.getvalue()
        return outcome

    return run_one


@pytest.fixture(scope="session")
def small_pipeline() -> Any:
    """Makes variants of the small pipeline."""
    return make_pipeline
