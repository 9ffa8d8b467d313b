"""Datasets of faces that were aligned differently must not meet."""

import json

import pytest

from faceflow.components.common.alignment import alignment_of, one_template
from faceflow.components.common.dataset import Dataset, finish, publishing
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.manifest import Manifest


@pytest.fixture
def dataset(tmp_path):
    def make(name, template, interpolation=None):
        with publishing(tmp_path / name) as directory:
            finish(directory, stage="align", settings={}, template=template, inputs={}, images_in=0)
        if interpolation:
            path = tmp_path / name / "manifest.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), "interpolation": interpolation}))
        return Dataset(tmp_path / name)

    return make


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_manifest_records_how_the_template_is_drawn(dataset, name):
    made = dataset("one", name)
    assert json.loads((made.path / "manifest.json").read_text())["interpolation"] == TEMPLATES[name].interpolation
    assert alignment_of(made.manifest) == f"'{name}', {TEMPLATES[name].interpolation}"
    assert one_template([made, dataset("two", name)]) == name


def test_a_manifest_of_faces_that_are_not_aligned_has_neither(dataset):
    raw = dataset("raw", None)
    assert (raw.manifest.template, raw.manifest.interpolation) == (None, None)
    assert alignment_of(raw.manifest) == "not aligned"
    with pytest.raises(DatasetError, match=r"raw holds faces that are not aligned .*run align on it"):
        one_template([raw])


def test_two_templates_do_not_go_together(dataset):
    with pytest.raises(DatasetError, match=r"different templates do not go together: 'arcface_112', .*'facenet_160', "):
        one_template([dataset("one", "facenet_160"), dataset("two", "arcface_112")])


def test_two_interpolations_do_not_go_together(dataset):
    old = dataset("old", "arcface_112", "nearest")
    assert old.manifest.interpolation == "nearest"
    with pytest.raises(DatasetError, match=r"'arcface_112', bilinear \(.*new\); 'arcface_112', nearest \(.*old\)"):
        one_template([dataset("new", "arcface_112"), old])


def test_a_manifest_from_before_interpolations_reads_as_its_template(dataset):
    path = dataset("one", "arcface_112").path / "manifest.json"
    told = json.loads(path.read_text())
    del told["interpolation"]
    path.write_text(json.dumps(told))
    assert Manifest.read(path.parent).interpolation == "bilinear"
