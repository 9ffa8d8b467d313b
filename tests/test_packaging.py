"""The distribution: what setup.cfg lists, what the lock files pin, what a wheel holds, what may import what."""

import ast
import configparser
import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from faceflow.pipelines import images

ROOT = Path(__file__).parent.parent
LOCKS = sorted([ROOT / "requirements-dev.lock", *(ROOT / "docker").glob("*.lock")])
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[a-z,-]+\])?==(?P<version>[^ ;]+)(?: ; .*)? \\$")
IMAGES_ONLY = {"tensorflow-cpu"}
CUDA = re.compile(r"nvidia-.*-cu12$")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line for line in text.strip().splitlines() if line and not line.startswith("#")]


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def pins(lock: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in lock.read_text().splitlines():
        if match := PIN.match(line):
            found.setdefault(canonicalize_name(match["name"]), set()).add(match["version"])
    return found


def test_every_folder_with_code_is_a_listed_package() -> None:
    folders = {path.parent for path in sources("components", "pipelines")}
    folders |= {ROOT / "pipelines/presets", ROOT / "docker"}
    expected = {"faceflow." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}
    listed = lines(setup_cfg()["options"]["packages"])
    assert set(listed) == expected, "setup.cfg, [options] packages: add or remove what differs"
    assert listed == sorted(listed), "setup.cfg, [options] packages: keep the list sorted"


def test_every_code_folder_has_its_init() -> None:
    missing = {path.parent for path in sources("components", "pipelines")} - {
        path.parent for path in sources("components", "pipelines") if path.name == "__init__.py"
    }
    assert not missing


def test_the_lists_of_stages_agree() -> None:
    folders = {path.name for path in (ROOT / "components").iterdir() if (path / "component.py").is_file()}
    assert set(images.STAGES) == folders
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    packages = {f"faceflow.components.{stage}" for stage in folders}
    [independence] = [contract for contract in contracts if contract["type"] == "independence"]
    assert set(independence["modules"]) == packages
    [common] = [contract for contract in contracts if contract["name"] == "common imports no stage"]
    assert set(common["forbidden_modules"]) == packages


def test_links_for_mypy_lead_to_the_folders() -> None:
    for name in ("components", "pipelines"):
        link = ROOT / ".mypy" / "faceflow" / name
        assert link.is_symlink() and not Path(link.readlink()).is_absolute()
        assert link.resolve() == (ROOT / name).resolve()


def test_mypy_looks_at_every_benchmark() -> None:
    checked = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["modules"]
    assert checked == sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("stage", images.STAGES)
def test_component_files_import_only_the_standard_library_and_kfp_at_the_top(stage: str) -> None:
    tree = ast.parse((ROOT / "components" / stage / "component.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
        else:
            continue
        for module in modules:
            assert module != "__future__", "kfp 2.17 cannot read signatures under `from __future__ import annotations`"
            assert module.split(".")[0] in {*sys.stdlib_module_names, "kfp"}, f"{module} is imported at the top"


def imported(path: Path, *, only_top: bool = False) -> set[str]:
    """Third-party modules that a file imports, inside functions too unless told otherwise."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if only_top else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {name for name in found if name.split(".")[0] not in {*sys.stdlib_module_names, "faceflow"}}


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def providers(module: str) -> set[str]:
    """Distributions that a module may come from."""
    # `google` is shared by many: the submodule says which one is meant.
    if module.startswith("google.protobuf"):
        return {"protobuf"}
    if module == "dlib":  # dlib-bin names only its extension module
        return {"dlib-bin"}
    found = distributions().get(module.split(".")[0], [])
    return {canonicalize_name(name) for name in found}


def test_what_is_imported_is_declared() -> None:
    cfg = setup_cfg()
    declared = lines(cfg["options"]["install_requires"])
    for extra in ("data", "train", "pipelines", "dlib"):
        declared += lines(cfg["options.extras_require"][extra])
    names = {canonicalize_name(Requirement(line).name) for line in declared}
    undeclared = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("components", "pipelines")
        for module in imported(path)
        if not providers(module) & names
    }
    assert not undeclared, "setup.cfg: declare them, or do without"


@pytest.mark.parametrize("stage", images.STAGES)
def test_an_image_holds_what_its_files_import(stage: str) -> None:
    files = images.context(stage)
    locked = {name for file in files for name in (pins(files[file]) if file.endswith(".lock") else ())}
    locked |= {"tensorflow"} if "tensorflow-cpu" in locked else set()
    missing = set()
    for name, path in files.items():
        if name.endswith(".py"):
            # common serves every stage: what only some of them call is imported inside functions there.
            modules = imported(path, only_top="/common/" in name)
            missing |= {f"{name} imports {module}" for module in modules if not providers(module) & locked}
    assert not missing, f"add to docker/*.in for the image of {stage}, then make lock"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_lock_files_hold_pins_with_hashes_and_nothing_else(lock: Path) -> None:
    text = lock.read_text()
    entries = [entry for entry in re.split(r"\n(?=\S)", text) if not entry.startswith("#")]
    assert len(entries) > 20
    for entry in entries:
        first, *rest = entry.rstrip("\n").splitlines()
        assert PIN.match(first), f"not a pin: {first}"
        assert rest
        for line in rest:
            assert re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


def test_lock_files_satisfy_setup_cfg() -> None:
    cfg = setup_cfg()
    base = lines(cfg["options"]["install_requires"])
    everything = list(base)
    for extra in ("data", "train", "pipelines", "dev"):
        everything += lines(cfg["options.extras_require"][extra])
    for lock, wanted in [(ROOT / "requirements-dev.lock", everything), (ROOT / "docker/base.lock", base)]:
        pinned = pins(lock)
        for requirement in map(Requirement, wanted):
            if requirement.name == "faceflow":
                continue
            versions = pinned.get(canonicalize_name(requirement.name), set())
            assert versions, f"{lock.name} lacks {requirement.name}: make lock"
            for version in versions:
                assert requirement.specifier.contains(version), f"{lock.name}: {version} is not {requirement}"


def test_the_images_run_the_versions_that_are_tested() -> None:
    tested = pins(ROOT / "requirements-dev.lock")
    for lock in (ROOT / "docker").glob("*.lock"):
        for name, versions in pins(lock).items():
            if name not in IMAGES_ONLY and not CUDA.match(name):
                assert versions <= tested.get(name, set()), f"{lock.name}: {name} {versions}: make lock"


def test_a_lock_lists_everything_of_the_layers_below() -> None:
    for stage in images.STAGES:
        for gpu in (False, True):
            files = images.context(stage, gpu)
            # In the order of the layers: each is larger than the one below.
            layers = sorted((pins(path) for name, path in files.items() if name.endswith(".lock")), key=len)
            for below, above in zip(layers, layers[1:], strict=False):
                assert below.items() <= above.items()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the tree, built from a copy (setuptools writes beside setup.cfg) and without the network."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("components", "pipelines", "docker"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source], check=True)
    [path] = folder.glob("*.whl")
    return path


def test_a_wheel_holds_every_file_and_only_under_faceflow(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in held} == {"faceflow"}
    expected = {
        f"faceflow/{path.relative_to(ROOT).as_posix()}"
        for folder in ("components", "pipelines")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    expected |= {f"faceflow/docker/{path.name}" for path in (ROOT / "docker").glob("*.lock")}
    expected.add("faceflow/docker/Dockerfile")
    assert held == expected, "setup.cfg, [options.package_data]: each file goes in, or has no business in the tree"


def test_an_installed_wheel_names_the_images_as_the_checkout_does(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "from faceflow.pipelines import images\n"
        "import sys; sys.stderr.write(images.__file__)\n"
        "for gpu in (False, True):\n"
        "    for stage in images.STAGES: sys.stdout.write(images.image_name(stage, gpu=gpu) + '\\n')\n"
    )
    environment = {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stderr.startswith(str(tmp_path)), "the test must run the wheel's files"
    assert ran.stdout.split() == [images.image_name(stage, gpu=gpu) for gpu in (False, True) for stage in images.STAGES]


def test_make_refuses_an_unsuitable_python(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements-dev.lock", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    old = tmp_path / "python3.10"
    # Runs make's own check, as a Python 3.10 would.
    old.write_text(f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 10, 13)\nexec(sys.argv[2])\n")
    old.chmod(0o755)
    ran = subprocess.run(["make", f"PYTHON={old}", "demo"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "needs Python 3.11, 3.12 or 3.13" in ran.stderr and str(old) in ran.stderr
    assert not (tmp_path / ".venv").exists()
