"""Names of images follow their content, and contexts hold exactly what the Dockerfile copies."""

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceflow.components.common.errors import FaceflowError
from faceflow.pipelines import images

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tree, which names are computed from."""
    for name in ("components", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(images, "_ROOT", tmp_path)
    return tmp_path


def names(gpu: bool = False) -> dict[str, str]:
    return {stage: images.image_name(stage, gpu=gpu) for stage in images.STAGES}


def renamed_by(path: Path, text: str = "\n# changed\n", gpu: bool = False) -> set[str]:
    """Stages whose image gets another name when a file changes."""
    before = names(gpu)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(text)
    after = names(gpu)
    return {stage for stage in images.STAGES if before[stage] != after[stage]}


def test_a_name_says_registry_stage_and_content() -> None:
    assert re.fullmatch(r"localhost/faceflow/align:[0-9a-f]{16}", images.image_name("align"))
    tag = images.image_name("align").rsplit(":", 1)[1]
    assert images.image_name("align", "example.com:5000/team/") == f"example.com:5000/team/align:{tag}"
    assert len(set(names().values())) == len(images.STAGES)


def test_only_training_and_evaluation_have_a_gpu_flavour() -> None:
    plain, gpu = names(), names(gpu=True)
    for stage in images.STAGES:
        if stage in images.GPU_STAGES:
            assert re.fullmatch(rf"localhost/faceflow/{stage}-gpu:[0-9a-f]{{16}}", gpu[stage])
            assert plain[stage].rsplit(":", 1)[1] != gpu[stage].rsplit(":", 1)[1]
        else:
            assert plain[stage] == gpu[stage]


def test_a_stage_that_does_not_exist() -> None:
    with pytest.raises(images.ImageBuildError, match=r"'alignn'.*probe, download, align"):
        images.image_name("alignn")


def test_a_missing_file_is_named(tree: Path) -> None:
    (tree / "docker" / "train.lock").unlink()
    with pytest.raises(images.ImageBuildError, match=r"train\.lock.*install faceflow"):
        images.image_name("evaluate")


@pytest.mark.parametrize("stage", images.STAGES)
def test_a_change_in_a_stage_renames_its_image_alone(tree: Path, stage: str) -> None:
    assert renamed_by(tree / "components" / stage / "stage.py") == {stage}
    assert renamed_by(tree / "components" / stage / "new_module.py") == {stage}


def test_what_is_shared_renames_every_image(tree: Path) -> None:
    everything = set(images.STAGES)
    assert renamed_by(tree / "components/common/record.py") == everything
    assert renamed_by(tree / "components/common/schema.pbtxt") == everything
    assert renamed_by(tree / "components/__init__.py") == everything
    assert renamed_by(tree / "docker/Dockerfile") == everything
    assert renamed_by(tree / "docker/base.lock") == everything


def test_a_lock_renames_the_images_that_install_it(tree: Path) -> None:
    assert renamed_by(tree / "docker/tensorflow.lock") == {"augment", "pack", "train", "evaluate"}
    assert renamed_by(tree / "docker/align.lock") == {"align"}
    assert renamed_by(tree / "docker/data.lock") == {"augment", "pack"}
    assert renamed_by(tree / "docker/train.lock") == {"train", "evaluate"}
    assert renamed_by(tree / "docker/train.lock", gpu=True) == set()
    assert renamed_by(tree / "docker/train-gpu.lock") == set()
    assert renamed_by(tree / "docker/train-gpu.lock", gpu=True) == {"train", "evaluate"}


def test_the_renderer_is_in_the_image_of_download_alone(tree: Path) -> None:
    assert renamed_by(tree / "components/common/synthetic/identity.py") == {"download"}


@pytest.mark.parametrize(
    "path",
    [
        "components/align/README.md",
        "components/align/component.py",
        "components/align/__pycache__/stage.cpython-311.pyc",
        "components/align/.stage.py",
        "components/align/.cache/stage.py",
        "components/align/stage.py.orig",
        "docker/data.in",
    ],
)
def test_what_no_image_holds_renames_none(tree: Path, path: str) -> None:
    assert renamed_by(tree / path) == set()


def test_moving_content_between_files_is_a_change(tree: Path) -> None:
    folder = tree / "components" / "probe"
    (folder / "one.py").write_text("ab")
    (folder / "two.py").write_text("c")
    before = images.image_name("probe")
    (folder / "one.py").write_text("a")
    (folder / "two.py").write_text("bc")
    assert images.image_name("probe") != before


def targets() -> dict[str, tuple[str, list[str]]]:
    """The Dockerfile's targets: the one that each stands on, and its lines."""
    found: dict[str, tuple[str, list[str]]] = {}
    name = ""
    for line in (ROOT / "docker/Dockerfile").read_text().splitlines():
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = (match[1], [])
        elif name and line:
            found[name][1].append(line)
    return found


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("stage", images.STAGES)
def test_a_context_holds_exactly_what_its_target_copies(stage: str, gpu: bool) -> None:
    found = targets()
    flavour = "-gpu" if gpu and stage in images.GPU_STAGES else ""
    copied, target = set(), stage
    while target in found:
        target, lines = found[target]
        copied |= {line.split()[1].replace("${FLAVOUR}", flavour) for line in lines if line.startswith("COPY ")}
    held = {name.split("/")[0] for name in images.context(stage, gpu)}
    assert held == copied | {"Dockerfile"}


def test_every_final_target_runs_as_a_number() -> None:
    found = targets()
    for stage in images.STAGES:
        assert found[stage][1][-1] == "USER 10001:10001"


def test_a_private_checkout_gives_a_readable_image(tree: Path, tmp_path: Path) -> None:
    for path in (tree / "components").rglob("*"):
        path.chmod(0o700)
    context = tmp_path / "context"
    context.mkdir()
    images._write(context, images._read("probe", gpu=False))
    for path in context.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path
    written = sorted(path.relative_to(context).as_posix() for path in context.rglob("*") if path.is_file())
    assert written == list(images.context("probe"))


def test_naming_images_imports_neither_kfp_nor_tensorflow() -> None:
    code = "from faceflow.pipelines import images; images.image_name('train'); import sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in ran.stdout.split()}
    assert not loaded & {"kfp", "tensorflow", "keras", "apache_beam", "docker", "matplotlib"}


def test_the_command_lists_names() -> None:
    runner = CliRunner()
    result = runner.invoke(images.command, ["--list"])
    assert result.stdout.split() == list(names().values())
    result = runner.invoke(images.command, ["--list", "--stage", "pack", "--registry", "example.com/x"])
    assert result.stdout.split() == [images.image_name("pack", "example.com/x")]
    result = runner.invoke(images.command, ["--list", "--stage", "train", "--gpu"])
    assert result.stdout.split() == [images.image_name("train", gpu=True)]


def test_pushing_needs_a_registry() -> None:
    result = CliRunner().invoke(images.command, ["--push"])
    assert result.exit_code == 1
    assert "--registry" in result.stderr


def test_no_engine_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FaceflowError, match="install podman or docker"):
        list(images.build(["probe"]))
    with pytest.raises(FaceflowError, match="install docker"):
        list(images.build(["probe"], engine="docker"))


def engine(folder: Path, body: str) -> None:
    """A podman that answers as written: what is tested is how its answers are taken."""
    path = folder / "podman"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def test_a_failed_build_names_the_image_and_the_status(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine(tmp_path, 'case "$1" in image) exit 1;; build) exit 125;; esac')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(images.ImageBuildError, match=r"/probe:\w+: `podman build` ended with status 125"):
        list(images.build(["probe"]))


def test_an_image_that_exists_is_pushed_but_not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"
    engine(tmp_path, f'echo "$@" >> {log}')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    name = images.image_name("probe", "example.com/x")
    assert list(images.build(["probe"], registry="example.com/x", push=True)) == [name]
    assert log.read_text().splitlines() == [f"image inspect {name}", f"push {name}"]
