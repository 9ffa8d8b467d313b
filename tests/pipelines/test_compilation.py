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
    mounts = {name: each["pvcMount"][0] for name, each in executors.items() if "pvcMount" in each}
    assert sorted(mounts) == ["exec-download", "exec-download-2", "exec-train"]
    (place,) = {mount["mountPath"] for mount in mounts.values()}
    assert {mount["constant"] for mount in mounts.values()} == {"faces-scratch"}
    assert pipeline["root"]["inputDefinitions"]["parameters"]["scratch_dir"]["defaultValue"] == place


@pytest.mark.parametrize("name", [None, "our-buckets"])
def test_stages_that_reach_object_stores_get_credentials_from_a_secret_that_need_not_be_there(tmp_path, name):
    path = tmp_path / "training.yaml"
    compilation.compile_pipeline("training", path, storage_secret=name)
    _, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    secrets = {executor: each["secretAsEnv"][0] for executor, each in executors.items()}
    stages = ["align", "align-2", "augment", "download", "download-2", "pack", "probe", "probe-2"]
    assert sorted(secrets) == [f"exec-{stage}" for stage in stages]
    for secret in secrets.values():
        assert secret["optional"] is True
        assert secret["secretName"] == secret["secretNameParameter"]["runtimeValue"]["constant"]
        assert secret["secretName"] == (name or "faceflow-storage")
        keys = {each["secretKey"]: each["envVar"] for each in secret["keyToEnv"]}
        assert keys.items() >= {each: each for each in ("AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL")}.items()
        assert all(key == variable for key, variable in keys.items())


def test_an_unknown_pipeline_is_named(tmp_path):
    with pytest.raises(SettingsError, match="no pipeline 'trainin': did you mean 'training'"):
        compilation.compile_pipeline("trainin", tmp_path / "x.yaml")
