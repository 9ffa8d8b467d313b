import pytest
import yaml

from faceflow.components.common.errors import SettingsError
from faceflow.pipelines import compilation, parameters, sources, spec
from faceflow.pipelines.images import image_name


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    path = tmp_path_factory.mktemp("training") / "training.yaml"
    compilation.compile_pipeline("training", path)
    return path


def test_the_kept_file_is_current(training):
    kept = compilation.golden("training")
    assert kept.read_text() == training.read_text(), "run `make compile` and commit pipelines/training.yaml"


def test_the_images_are_those_that_their_content_names(training):
    for stage in spec.read(training).stages:
        assert stage.image == image_name(stage.name.rpartition("-")[0] if stage.name[-1].isdigit() else stage.name)


def test_it_runs_on_one_machine_and_every_preset_fits(training, tmp_path):
    pipeline = spec.read(training)
    spec.check(pipeline)
    assert parameters.names() == ["demo", "folder"]
    for name in parameters.names():
        preset = parameters.load(parameters.find(name))
        assert preset.pipeline == "training"
        given = preset.parameters
        if name == "folder":
            given = given | {"sources": sources.from_paths([str(tmp_path)])}
        sources.resolved(parameters.arguments(given, pipeline), tmp_path)


def test_a_claim_is_mounted_where_stages_keep_scratch(tmp_path):
    path = tmp_path / "training.yaml"
    compilation.compile_pipeline("training", path, scratch_pvc="faces-scratch")
    pipeline, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounts = {name: each["pvcMount"][0] for name, each in executors.items()}
    assert sorted(mounts) == ["exec-download", "exec-download-2", "exec-train"]
    (place,) = {mount["mountPath"] for mount in mounts.values()}
    assert {mount["constant"] for mount in mounts.values()} == {"faces-scratch"}
    assert pipeline["root"]["inputDefinitions"]["parameters"]["scratch_dir"]["defaultValue"] == place


def test_an_unknown_pipeline_is_named(tmp_path):
    with pytest.raises(SettingsError, match="no pipeline 'trainin': did you mean 'training'"):
        compilation.compile_pipeline("trainin", tmp_path / "x.yaml")
