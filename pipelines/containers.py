"""Running stages in containers on this machine: what is checked before, how they are started, and how they are removed.

kfp's DockerRunner speaks the Docker API, which podman serves too (``DOCKER_HOST``). What it gets wrong is mended in
:mod:`faceflow.pipelines.execution`.
"""

from __future__ import annotations

import importlib
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import FaceflowError
from faceflow.components.common.objects import VARIABLES
from faceflow.pipelines.execution import Containers
from faceflow.pipelines.runs import Root, Run
from faceflow.pipelines.spec import Pipeline

_LABEL = "faceflow.run"
_SOCKET = "unix:///var/run/docker.sock"


def connect() -> Any:
    """A client of the container engine.

    Raises:
        FaceflowError: The docker package is not installed, or no engine answers.
    """
    try:
        docker = importlib.import_module("docker")  # by name: the checkout has a folder docker/, too
    except ImportError as error:
        raise FaceflowError(
            "--docker needs the Python package 'docker': pip install 'faceflow[pipelines]', or run without --docker."
        ) from error
    try:
        client = docker.from_env()
        client.ping()
    except (docker.errors.DockerException, OSError) as error:
        place = os.environ.get("DOCKER_HOST") or _SOCKET
        raise FaceflowError(
            f"--docker needs a container engine, and none answers at {place}. Start Docker; or with podman run "
            "`podman system service --time=0 unix:///tmp/podman.sock &` and "
            "`export DOCKER_HOST=unix:///tmp/podman.sock`; or run without --docker."
        ) from error
    return client


def require_images(client: Any, pipeline: Pipeline) -> None:
    """See that the engine has every stage's image, as kfp would otherwise try to pull it in the middle of the run.

    Raises:
        FaceflowError: One is missing.
    """
    there: set[str] = set()
    for image in client.images.list():
        there.update(image.tags, image.attrs.get("RepoDigests") or ())
    missing = sorted({stage.image for stage in pipeline.stages} - there)
    if missing:
        raise FaceflowError(
            f"{len(missing)} of the images are not on this machine: {', '.join(missing)}. "
            "Run `make images`; after a change to a stage's code its image has a new name and must be built again."
        )


def prepare(client: Any, root: Root, run: Run, arguments: Mapping[str, Any], reads: Sequence[Path]) -> Containers:
    """Decide as whom and with which folders the stages run, and let them write there.

    Args:
        client: The engine.
        root: Mounted at its own path, as cached stages' artifacts lie in the folders of earlier runs.
        run: The run, whose id labels the containers.
        arguments: The pipeline's parameters.
        reads: Files and folders that stages read; mounted read-only.
    """
    rootless = any("rootless" in option for option in client.info().get("SecurityOptions") or ())
    user = ""
    environment: dict[str, str] = {}
    if rootless:
        user = "0:0"  # which is this user, outside the container
    elif os.getuid() != 0:
        user = f"{os.getuid()}:{os.getgid()}"
    else:
        _open_to_all(root, run)
    if user:
        environment["HOME"] = "/tmp"  # the image's own home belongs to the image's own user
    environment |= {name: os.environ[name] for name in VARIABLES if name in os.environ}
    mounts = {str(root.path): False}
    if google := os.environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        environment["GOOGLE_APPLICATION_CREDENTIALS"] = google
        mounts[google] = True
    scratch = arguments.get("scratch_dir")
    for path in [Path(scratch)] if isinstance(scratch, str) and scratch else []:
        if root.path not in path.parents:
            mounts[str(path)] = False
    for path in reads:
        mounts.setdefault(str(path), True)
    return Containers(user, tuple(mounts.items()), run.folder.name, environment)


def _open_to_all(root: Root, run: Run) -> None:
    """Let the image's own user, some number, write where stages write; only root needs this."""
    for folder in (root.path, run.folder):
        folder.chmod(0o755)
    run.artifacts.chmod(0o777)
    for path in (root.scratch, *root.scratch.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o777 if path.is_dir() else 0o666))


def remove(client: Any, run: Run) -> None:
    """Remove the containers of a run, running or not."""
    errors = importlib.import_module("docker.errors")
    for container in client.containers.list(all=True, filters={"label": f"{_LABEL}={run.folder.name}"}):
        try:
            container.remove(force=True)
        except errors.APIError:  # it went by itself
            continue


def command_to_look_inside(containers: Containers, image: str) -> str:
    """The command that opens a shell as the stage saw the machine."""
    engine = "podman" if "podman" in os.environ.get("DOCKER_HOST", "") else "docker"
    words = [engine, "run", "--rm", "-it", "--entrypoint", "sh"]
    if containers.user:
        words += ["--user", containers.user]
    for name, value in containers.environment.items():
        words += ["--env", name if name in VARIABLES else f"{name}={value}"]  # the engine looks up what is secret
    for path, read_only in containers.mounts:
        words += ["--volume", f"{path}:{path}:{'ro' if read_only else 'rw'}"]
    return shlex.join([*words, image])
