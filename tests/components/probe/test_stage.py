import json
import os
import subprocess
import sys

import pytest

from faceflow.components.common.errors import SourceError
from faceflow.components.probe import stage
from faceflow.components.probe.component import probe


def run(source):
    return stage.run(stage.Settings(retries=0), stage.Inputs(source), stage.Outputs())


@pytest.fixture
def people(tmp_path):
    for name in ("Zoë Smith/a.jpg", "Al/1.jpg"):
        file = tmp_path / "people" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    return tmp_path / "people"


def test_the_fingerprint_stays_while_nothing_changes_and_changes_with_the_data_and_the_spec(people):
    source = {"kind": "folder", "path": str(people)}
    first = run(source)
    assert first == run(dict(reversed(source.items()))) == run(source | {"name": "folder"})
    assert run(source | {"name": "other"}) != first
    os.utime(people / "Al" / "1.jpg", ns=(7, 7))
    assert run(source) != first


def test_every_location_counts(tmp_path):
    for name in ("set.tgz", "set_lmk", "a.csv"):
        (tmp_path / name).write_bytes(b"x")
    source = {
        "kind": "trillion_pairs",
        "archive": str(tmp_path / "set.tgz"),
        "landmarks": str(tmp_path / "set_lmk"),
        "attributes": str(tmp_path / "a.csv"),
    }
    seen = {run(source)}
    for name in ("set.tgz", "set_lmk", "a.csv"):
        (tmp_path / name).write_bytes(b"xx")
        seen.add(run(source))
    assert len(seen) == 4


def test_sources_without_locations_have_the_fingerprint_of_their_spec():
    source = {"kind": "synthetic", "identities": 5}
    assert run(source) == run(source | {"layout": "folder"})
    assert run(source) != run(source | {"identities": 6})
    assert run({"kind": "held_out"}) == run({"kind": "held_out"})


@pytest.mark.parametrize(
    "source, words",
    [
        ({"kind": "foldr"}, "did you mean 'folder'"),
        ({"kind": "folder", "path": "/nowhere/at/all"}, r"path /nowhere/at/all cannot be opened"),
        ({"kind": "folder", "path": "http://127.0.0.1:9/set.tgz"}, "Gave up"),
    ],
)
def test_a_source_that_is_wrong_or_not_there_is_refused(source, words):
    with pytest.raises(SourceError, match=words):
        run(source)


def test_the_component_returns_the_fingerprint(people):
    source = {"kind": "folder", "path": str(people)}
    told = json.loads(probe.python_func(source=source))
    assert told == json.loads(run(source))
    assert told["locations"]["path"]["files"] == 2


def test_from_a_shell_the_fingerprint_is_the_only_output_and_errors_are_one_line(people):
    def shell(source):
        command = [sys.executable, "-m", "faceflow.components.probe", "--source", json.dumps(source), "--retries", "0"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    good = shell({"kind": "folder", "path": str(people)})
    assert (good.returncode, good.stdout) == (0, run({"kind": "folder", "path": str(people)}) + "\n")
    bad = shell({"kind": "folder", "path": "/nowhere"})
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "SourceError" in bad.stderr and "Traceback" not in bad.stderr
