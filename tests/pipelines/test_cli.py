import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from faceflow.components.common.errors import FaceflowError
from faceflow.pipelines import compilation
from faceflow.pipelines.cli import cli


def faceflow(*arguments, cwd=None):
    command = [sys.executable, "-m", "faceflow.pipelines.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120)


@pytest.mark.parametrize("command", [[], ["run"], ["clean"], ["synthesize"], ["compile"], ["images"]])
def test_help_imports_nothing_heavy(command):
    heavy = "{'kfp', 'tensorflow', 'keras', 'apache_beam', 'pyarrow', 'cv2', 'docker', 'matplotlib'}"
    code = f"""
import sys
from faceflow.pipelines.cli import cli
try:
    cli.main({[*command, "--help"]!r})
except SystemExit as end:
    assert end.code == 0
sys.exit(", ".join(sorted({heavy} & set(sys.modules))) or None)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage:" in result.stdout


def test_help_answers_at_once():
    def seconds(*command):
        begun = time.monotonic()
        subprocess.run([sys.executable, *command], capture_output=True, check=True, timeout=60)
        return time.monotonic() - begun

    bare = min(seconds("-c", "import click") for _ in range(3))
    helped = min(seconds("-m", "faceflow.pipelines.cli", "--help") for _ in range(3))
    assert helped < bare + 0.7


def test_the_commands_are_listed_with_what_they_do():
    shown = CliRunner().invoke(cli, ["--help"]).output
    for name in ("run", "clean", "synthesize", "compile", "images"):
        assert f"\n  {name} " in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "no preset 'nothing'"),
        (["run", "demo", "--set", "train_epoch=3"], "did you mean train_epochs"),
        (["run", "demo", "--set", "train_epochs=many"], "'train_epochs' is 'many', but must be a whole number"),
        (["run", "demo", "--set", "sources=[]"], "parameter 'sources' is an empty list"),
        (["run", "folder", "--source", "no/such/folder"], "no/such/folder does not exist"),
        (["run", "folder", "--source", "x", "--set", "sources=[]"], "give one of them"),
        (["run", "demo", "--root", "in_python3"], "--root, contains 'python3'"),
    ],
)
def test_mistakes_are_found_before_any_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceflowError, match=message):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_in_one_line(tmp_path):
    result = faceflow("run", "nothing", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("faceflow: no preset 'nothing'") and len(result.stderr.splitlines()) == 1


def test_a_missing_engine_is_said_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceflowError, match="needs a container engine, and none answers at unix:///"):
        CliRunner().invoke(cli, ["run", "demo", "--docker"], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_synthesize_writes_a_layout(tmp_path):
    out = tmp_path / "faces"
    arguments = ["--layout", "folder", "--identities", 2, "--images-per-identity", "1-2", "--size-px", 64, "--out", out]
    first = CliRunner().invoke(cli, ["synthesize", *map(str, arguments)], catch_exceptions=False)
    assert (first.exit_code, first.output.strip()) == (0, str(out))
    assert 2 <= len(list(out.rglob("*.jpg"))) <= 4
    with pytest.raises(FaceflowError, match="exists already"):
        CliRunner().invoke(cli, ["synthesize", *map(str, arguments)], catch_exceptions=False)


@pytest.mark.parametrize("value", ["0", "5-2", "a", "-3", "1-2-3"])
def test_synthesize_refuses_what_is_no_number_of_images(value, tmp_path):
    arguments = ["synthesize", "--layout", "folder", "--out", str(tmp_path / "x"), f"--images-per-identity={value}"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 2
    assert "neither a number such as 20 nor a range such as 4-60" in result.output


def test_clean_needs_no_runs(tmp_path):
    result = faceflow("clean", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, f"Nothing to remove: there is no {tmp_path}/runs.\n")


def test_compile_writes_where_it_is_told(tmp_path):
    path = tmp_path / "new" / "training.yaml"
    arguments = ["compile", "--registry", "registry.example.org/team", "--output", str(path)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert (result.exit_code, result.output.strip()) == (0, str(path))
    text = path.read_text()
    assert "image: registry.example.org/team/align:" in text and "localhost/faceflow" not in text.partition("root:")[0]


def test_compile_does_not_replace_the_kept_file_by_another_registrys(tmp_path):
    before = compilation.golden("training").read_bytes()
    result = CliRunner().invoke(cli, ["compile", "--registry", "registry.example.org/team"])
    assert result.exit_code == 2 and "need --output FILE" in result.output
    assert compilation.golden("training").read_bytes() == before
