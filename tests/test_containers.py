"""The real images: built, then run with no more rights than a cluster gives them. `make test-containers` runs this.

Environment: ENGINE (podman or docker; otherwise whichever is installed), BUILD_OPTIONS (for its `build`), and
DOCKER_HOST where the Docker API is not at /var/run/docker.sock.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from faceflow.pipelines import images

pytestmark = pytest.mark.containers

PACKAGE = "/opt/venv/lib/python3.11/site-packages/faceflow"
# What Kubernetes' restricted profile and a read-only root file system leave; Argo mounts a writable /tmp.
CONFINED = ("--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--tmpfs=/tmp", "--network=none")
TINY = {"identities": 8, "images_per_identity": 6, "size_px": 160}


def engine() -> str:
    return images.find_engine(os.environ.get("ENGINE") or None)


def inspect(what: str, *names: str) -> list[str]:
    ask = [engine(), "image", "inspect", "--format", what, *names]
    return subprocess.run(ask, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture(scope="module")
def built() -> dict[str, str]:
    options = os.environ.get("BUILD_OPTIONS", "").split()
    names = list(images.build(engine=engine(), options=options))
    assert names == [images.image_name(stage) for stage in images.STAGES]
    return dict(zip(images.STAGES, names, strict=True))


def run(image: str, *command: str, options: tuple[str, ...] = ()) -> str:
    """Run a command in a confined container and return what it prints."""
    words = [engine(), "run", "--rm", *CONFINED, *options, image, *command]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 0, f"{image}: {' '.join(command)}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_a_second_build_makes_nothing_new(built: dict[str, str]) -> None:
    before = inspect("{{.Id}}", *built.values())
    # Were anything built now, this option would end it.
    assert list(images.build(engine=engine(), options=["--no-such-option"])) == list(built.values())
    assert inspect("{{.Id}}", *built.values()) == before


@pytest.mark.parametrize("stage", ["align", "augment", "pack"])
def test_a_data_stage_s_image_serves_as_beam_worker_pool(built: dict[str, str], stage: str) -> None:
    """Beam's pool starts its workers with whatever `python` is; what it then imports must be there."""
    told = run(built[stage], "python", "-m", "apache_beam.runners.worker.worker_pool_main", "--help")
    assert "--service_port" in told
    stores = "import boto3, google.cloud.storage, faceflow.components.common.runners"
    run(built[stage], "python", "-c", f"{stores}, faceflow.components.{stage}.stage")


@pytest.mark.parametrize("stage", images.STAGES)
def test_an_image_runs_its_stage_without_rights(built: dict[str, str], stage: str) -> None:
    assert "--verbose" in run(built[stage], "python3", "-m", f"faceflow.components.{stage}", "--help")


@pytest.mark.parametrize("stage", images.STAGES)
def test_an_image_holds_its_stage_and_nothing_else_of_faceflow(built: dict[str, str], stage: str) -> None:
    held = run(built[stage], "find", PACKAGE, "-type", "f", "-printf", "faceflow/%P\n").split()
    assert sorted(held) == [name for name in images.context(stage) if name.startswith("faceflow/")]


@pytest.mark.parametrize("stage", images.STAGES)
def test_every_module_of_an_image_can_be_imported(built: dict[str, str], stage: str) -> None:
    code = (
        "import importlib, pkgutil, faceflow.components as root\n"
        "names = [found.name for found in pkgutil.walk_packages(root.__path__, 'faceflow.components.')]\n"
        "for name in names:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        "print(len(names))\n"
    )
    assert int(run(built[stage], "python3", "-c", code).split()[-1]) > 10


@pytest.mark.parametrize("stage", images.STAGES)
def test_an_image_runs_kfps_executor_as_a_user_with_a_home(built: dict[str, str], stage: str) -> None:
    who = run(built[stage], "sh", "-c", "id -u; id -un; pwd; echo $HOME")
    assert who.split() == ["10001", "faceflow", "/tmp", "/tmp"]
    executor = "cd $(mktemp -d) && _KFP_RUNTIME=true python3 -m kfp.dsl.executor_main --help"
    assert "--executor_input" in run(built[stage], "sh", "-c", executor)
    assert inspect("{{.Config.User}}", built[stage]) == ["10001:10001"]


def test_the_stages_run_confined_from_archive_to_score(built: dict[str, str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    place = "/outputs"

    def stage(name: str, *arguments: str) -> str:
        mount = ("--volume", f"{tmp_path}:{place}")
        return run(built[name], "python3", "-m", f"faceflow.components.{name}", *arguments, options=mount)

    def aligned(name: str, layout: str, seed: int) -> str:
        source = json.dumps({"kind": "synthetic", "name": name, "layout": layout, "seed": seed, **TINY})
        fingerprint = stage("probe", "--source", source).strip()
        raw, faces = f"{place}/{name}-raw", f"{place}/{name}-faces"
        known = ("--source", source, "--fingerprint", fingerprint, "--scratch", f"{place}/scratch")
        stage("download", *known, "--raw-faces", raw)
        stage("align", "--raw-faces", raw, "--faces", faces, "--report", f"{place}/{name}.html")
        return faces

    faces, unseen = aligned("train", "trillion_pairs", 1), aligned("lfw", "lfw", 2)
    made, held_out, packed, model = (f"{place}/{name}" for name in ("augmented", "held-out", "packed", "model"))
    outputs = ("--augmented-faces", made, "--held-out-faces", held_out, "--report", f"{place}/augment.html")
    stage("augment", "--faces", faces, *outputs, "--policy", "n > 3: keep, opening | drop")
    stage("pack", "--faces", made, "--packed", packed, "--report", f"{place}/pack.html")
    outputs = ("--model", model, "--metrics", f"{place}/metrics.json", "--report", f"{place}/train.html")
    small = ("--epochs=2", "--batch-size=16", "--width=0.25", "--input-size-px=32", "--embedding-size=32")
    stage("train", "--packed", packed, *outputs, *small, "--scratch", f"{place}/scratch")
    outputs = ("--scores", f"{place}/scores.json", "--roc", f"{place}/roc.json", "--report", f"{place}/evaluate.html")
    stage("evaluate", "--model", model, "--faces", unseen, "--held-out-faces", held_out, *outputs)
    assert json.loads((tmp_path / "scores.json").read_text())
    assert (tmp_path / "evaluate.html").read_text().lower().startswith("<!doctype html>")


@pytest.mark.usefixtures("built")
def test_the_pipeline_runs_in_the_containers_and_its_second_run_is_cached(tmp_path: Path) -> None:
    settings = {
        "sources": [{"kind": "synthetic", "name": "faces", "layout": "trillion_pairs", "seed": 1, **TINY}],
        "evaluate_sources": [{"kind": "synthetic", "name": "lfw", "layout": "lfw", "seed": 2, **TINY}],
        "augment_policy": "n > 3: keep, opening | drop",
        "train_epochs": 2,
        "train_batch_size": 16,
        "train_input_size_px": 32,
        "train_embedding_size": 32,
    }
    preset = tmp_path / "tiny.yaml"
    preset.write_text(json.dumps({"pipeline": "training", "parameters": settings}))
    # Where the image's own user can reach it: pytest's own folders are private.
    root = tmp_path / "runs"
    command = [sys.executable, "-m", "faceflow.pipelines.cli", "run", str(preset), "--docker", "--root", str(root)]
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)

    first = subprocess.run(command, capture_output=True, text=True)
    sys.stdout.write(first.stdout)
    assert first.returncode == 0, first.stdout + first.stderr
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0, second.stdout + second.stderr
    for shown in ("Train", "Evaluate"):
        [line] = [line for line in second.stdout.splitlines() if shown in line and "cached" in line]
