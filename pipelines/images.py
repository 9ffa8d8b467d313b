"""The stages' container images: what enters them, what they are called, how they are built.

A tag is a hash of everything that goes into the image. So a changed stage is a cache miss for exactly the steps that
run it, and an unchanged one has the same name from any checkout or installation.
"""

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from faceflow.components.common.errors import FaceflowError

STAGES = ("probe", "download", "align", "augment", "pack", "train", "evaluate")
"""Every stage that has an image: a target of docker/Dockerfile."""

GPU_STAGES = ("train", "evaluate")
"""Stages whose image has a flavour with TensorFlow's CUDA libraries."""

LOCAL = "localhost/faceflow"
"""Where images are named when no registry is given; nothing is ever pulled from there."""

# A checkout and an installed wheel hold the same files with these endings (setup.cfg, package_data).
_CONTENT = frozenset({".css", ".html", ".j2", ".pbtxt", ".py", ".yaml"})

# kfp sends a component's source with each task, so component.py is of no use inside.
_LEFT_OUT = frozenset({"component.py"})

_ROOT = Path(__file__).resolve().parent.parent

_LOCKS = {
    "probe": ("base",),
    "download": ("base",),
    "align": ("base", "align"),
    "augment": ("base", "tensorflow", "data"),
    "pack": ("base", "tensorflow", "data"),
    "train": ("base", "tensorflow", "train"),
    "evaluate": ("base", "tensorflow", "train"),
}


class ImageBuildError(FaceflowError):
    """An image cannot be named, built or pushed."""


def context(stage: str, gpu: bool = False) -> dict[str, Path]:
    """List what enters a stage's image.

    Args:
        stage: One of `STAGES`.
        gpu: With TensorFlow's CUDA libraries, for those of `GPU_STAGES`; the others have one flavour.

    Returns:
        The build context: each file's path inside it, in sorted order, and where the file is.

    Raises:
        ImageBuildError: There is no such stage, or the installation lacks a file of it.
    """
    if stage not in STAGES:
        raise ImageBuildError(f"no stage is called {stage!r}; the stages with an image are {', '.join(STAGES)}")
    components = _ROOT / "components"
    files = {"faceflow/components/__init__.py": components / "__init__.py"}
    for folder in ("common", stage):
        for path in _content(components / folder):
            relative = path.relative_to(components)
            # Only download renders faces; the renderer's changes must not rename the other images.
            if stage == "download" or relative.parts[:2] != ("common", "synthetic"):
                files[f"faceflow/components/{relative.as_posix()}"] = path
    files["Dockerfile"] = _ROOT / "docker" / "Dockerfile"
    for lock in _LOCKS[stage]:
        name = f"{lock}-gpu.lock" if _is_gpu(stage, gpu) and lock != "base" else f"{lock}.lock"
        files[name] = _ROOT / "docker" / name
    for path in files.values():
        if not path.is_file():
            raise ImageBuildError(f"the image of {stage} needs {path}, which does not exist: install faceflow anew")
    return dict(sorted(files.items()))


def image_name(stage: str, registry: str | None = None, gpu: bool = False) -> str:
    """Name a stage's image after its content.

    Args:
        stage: One of `STAGES`.
        registry: Registry and path that the name starts with, such as `registry.example.com/team`; none: `LOCAL`.
        gpu: See `context`.

    Returns:
        `<registry>/<stage>:<hash>`, or `<registry>/<stage>-gpu:<hash>` for a flavour with CUDA.

    Raises:
        ImageBuildError: See `context`.
    """
    return _name(stage, registry, gpu, _read(stage, gpu))


def find_engine(engine: str | None = None) -> str:
    """Find podman or docker, podman first: a docker client may be there without its daemon.

    Args:
        engine: The only one that will do.

    Raises:
        ImageBuildError: It is not installed.
    """
    wanted = (engine,) if engine else ("podman", "docker")
    for candidate in wanted:
        if shutil.which(candidate):
            return candidate
    raise ImageBuildError(f"to build images, install {' or '.join(wanted)}: not found on PATH")


def exists(name: str, engine: str) -> bool:
    """Say whether an image of that name is on this machine."""
    return subprocess.run([engine, "image", "inspect", name], capture_output=True, check=False).returncode == 0


def build(
    stages: Sequence[str] = STAGES,
    *,
    registry: str | None = None,
    gpu: bool = False,
    push: bool = False,
    engine: str | None = None,
    options: Sequence[str] = (),
) -> Iterator[str]:
    """Build images, except those that this machine has under their name already, and push them if asked.

    Args:
        stages: Of `STAGES`.
        registry: See `image_name`.
        gpu: See `context`.
        push: Push each image, whether it was built now or before.
        engine: `podman` or `docker`; none: whichever `find_engine` finds.
        options: Passed to `podman build` or `docker build` as they are.

    Yields:
        The name of each image as soon as it is there (and pushed).

    Raises:
        ImageBuildError: There is no registry to push to, no engine, or it failed (its own messages go to stderr).
    """
    if push and not registry:
        raise ImageBuildError(f"to push, name a registry (--registry): {LOCAL} is this machine only")
    engine = find_engine(engine)
    for stage in stages:
        # Read once: what is built is what was named, whatever is edited meanwhile.
        contents = _read(stage, gpu)
        name = _name(stage, registry, gpu, contents)
        if not exists(name, engine):
            with tempfile.TemporaryDirectory(prefix="faceflow-image-") as directory:
                _write(Path(directory), contents)
                flavour = ["--build-arg", "FLAVOUR=-gpu"] if _is_gpu(stage, gpu) else []
                _call([engine, "build", *options, *flavour, "--target", stage, "--tag", name, directory], name)
        if push:
            _call([engine, "push", name], name)
        yield name


def _is_gpu(stage: str, gpu: bool) -> bool:
    return gpu and stage in GPU_STAGES


def _content(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in _CONTENT and path.name not in _LEFT_OUT and not hidden and path.is_file():
            yield path


def _read(stage: str, gpu: bool) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in context(stage, gpu).items()}


def _name(stage: str, registry: str | None, gpu: bool, contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    flavour = "-gpu" if _is_gpu(stage, gpu) else ""
    return f"{(registry or LOCAL).rstrip('/')}/{stage}{flavour}:{digest.hexdigest()[:16]}"


def _write(directory: Path, contents: dict[str, bytes]) -> None:
    for name, content in contents.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        # The image's user is not the owner, and a checkout may be private to its own.
        target.chmod(0o644)
    for folder in directory.rglob("*/"):
        folder.chmod(0o755)


def _call(command: list[str], name: str) -> None:
    # To stderr: stdout carries the names alone, for scripts.
    status = subprocess.run(command, check=False, stdout=2).returncode
    if status:
        raise ImageBuildError(f"{name}: `{' '.join(command[:2])}` ended with status {status}; what it said is above")


@click.command("images")
@click.option("--stage", "stages", multiple=True, type=click.Choice(STAGES), help="Only this one (repeatable).")
@click.option("--registry", help="Registry to name them for, such as registry.example.com/team. Default: this machine.")
@click.option("--gpu", is_flag=True, help="With TensorFlow's CUDA libraries in the images of train and evaluate.")
@click.option("--push", is_flag=True, help="Push them to the registry.")
@click.option("--engine", type=click.Choice(["podman", "docker"]), help="Default: podman if installed, else docker.")
@click.option("--build-option", "options", multiple=True, help="For `podman build` or `docker build` (repeatable).")
@click.option("--list", "only_list", is_flag=True, help="Print the names without building.")
def command(
    stages: tuple[str, ...],
    registry: str | None,
    gpu: bool,
    push: bool,
    engine: str | None,
    options: tuple[str, ...],
    only_list: bool,
) -> None:
    """Build the stages' container images and print their names.

    A name ends in a hash of what the image holds; an image that is there already is not built again.
    """
    try:
        chosen = stages or STAGES
        if only_list:
            names: Iterator[str] = (image_name(stage, registry, gpu) for stage in chosen)
        else:
            names = build(chosen, registry=registry, gpu=gpu, push=push, engine=engine, options=options)
        for name in names:
            click.echo(name)
    except FaceflowError as error:
        raise click.ClickException(str(error)) from None
