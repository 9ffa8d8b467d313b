import importlib.util

import pytest

from faceflow.components.common.errors import SettingsError
from faceflow.pipelines import parameters
from faceflow.pipelines.spec import Parameter, Pipeline

PIPELINE = Pipeline(
    "training",
    {
        each.name: each
        for each in (
            Parameter("train_epochs", "NUMBER_INTEGER", 12.0),
            Parameter("train_learning_rate", "NUMBER_DOUBLE", 0.002),
            Parameter("train_options", "STRUCT", {}),
            Parameter("sources", "LIST", [{"kind": "synthetic", "identities": 60.0, "scale": 0.5}]),
            Parameter("rerun_align", "STRING", ""),
            Parameter("augment", "BOOLEAN", True),
        )
    },
    (),
    collected=frozenset({"sources"}),
    asked=frozenset({"rerun_align"}),
)


def test_defaults_get_the_types_that_the_form_shows():
    filled = parameters.arguments({}, PIPELINE)
    assert filled["train_epochs"] == 12 and isinstance(filled["train_epochs"], int)
    assert filled["sources"] == [{"kind": "synthetic", "identities": 60, "scale": 0.5}]
    assert isinstance(filled["sources"][0]["identities"], int)
    assert list(filled) == sorted(PIPELINE.parameters)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("train_epochs=3", 3),
        ("train_learning_rate=1e-3", 0.001),
        ("train_learning_rate=1", 1.0),
        ("rerun_align=2", "2"),
        ("rerun_align=", ""),
        ("rerun_align=no", "no"),
        ("rerun_align=n > 5: keep | drop", "n > 5: keep | drop"),
        ("rerun_align='2'", "2"),
        ("augment=false", False),
        ("train_options={margin: 0.5, heads: [a, b]}", {"margin": 0.5, "heads": ["a", "b"]}),
        ("sources=[{kind: folder, path: x}]", [{"kind": "folder", "path": "x"}]),
    ],
)
def test_values_on_the_command_line(pair, value):
    (read,) = parameters.assignments([pair], PIPELINE).values()
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("train_epoch=3", "no parameter 'train_epoch': did you mean train_epochs"),
        ("epochs=3", "did you mean train_epochs"),
        ("zzz=3", "it has augment, rerun_align"),
        ("train_epochs", "write --set name=value"),
        ("train_epochs=many", "parameter 'train_epochs' is 'many', but must be a whole number"),
        ("train_epochs=2.5", "is 2.5, but must be a whole number"),
        ("train_epochs=true", "is True, but must be a whole number"),
        ("train_learning_rate=.nan", "is nan, but must be a number"),
        ("train_learning_rate=fast", "is 'fast', but must be a number"),
        ("sources={}", "is {}, but must be a list"),
        ("train_options=[]", r"is \[\], but must be an object"),
        ("train_options={a: .inf}", "holds inf, but only finite numbers"),
        ("train_options={a: 2026-01-02}", "a date: write it in quotes"),
        ("train_options={1: a}", "has the name 1 in an object"),
        ("train_options={a: 1, a: 2}", "'a' is given twice"),
        ("augment=maybe", "must be true or false"),
    ],
)
def test_wrong_values_are_named(pair, message):
    with pytest.raises(SettingsError, match=message):
        parameters.assignments([pair], PIPELINE)


def test_a_list_that_a_loop_collects_over_must_not_be_empty():
    with pytest.raises(SettingsError, match="'sources' is an empty list"):
        parameters.arguments({"sources": []}, PIPELINE)


@pytest.mark.parametrize("text", ["it's", "a\\b", "a && b", "!(a)", "a\nb"])
def test_a_text_that_a_condition_reads_must_not_confuse_it(text):
    with pytest.raises(SettingsError, match="a condition of the pipeline reads it"):
        parameters.arguments({"rerun_align": text}, PIPELINE)


def test_a_needed_parameter_must_be_given():
    pipeline = Pipeline("p", {"who": Parameter("who", "STRING", needed=True)}, ())
    with pytest.raises(SettingsError, match="'who' of pipeline 'p' has no default"):
        parameters.arguments({}, pipeline)
    assert parameters.arguments({"who": "me"}, pipeline) == {"who": "me"}


def test_a_preset_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# faceflow run mine.yaml: a minute\npipeline: training\nparameters:\n  train_epochs: 2\n")
    preset = parameters.load(parameters.find(str(path)))
    assert (preset.name, preset.pipeline, preset.parameters) == ("mine", "training", {"train_epochs": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("parameters: {}", "needs the entries"),
        ("- a", "needs the entries"),
        ("pipeline: training\ntrain_epochs: 2", "unknown entry 'train_epochs'"),
        ("pipeline: training\nparameters: [a]", "must hold name: value pairs"),
        ("pipeline: training\nparameters: {a: 1, a: 2}", "'a' is given twice"),
        ("pipeline: 'training", "not readable as YAML"),
    ],
)
def test_a_preset_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        parameters.load(path)


def test_an_unknown_preset_is_named_with_those_there_are():
    with pytest.raises(SettingsError, match="no preset 'dmo': it is neither a file nor one of"):
        parameters.find("dmo")


def test_a_preset_in_text_needs_quotes():
    with pytest.raises(SettingsError, match="must be text .write it in quotes: '2'"):
        parameters.arguments({"rerun_align": 2}, PIPELINE)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"augment_policy": "keep, foo"}, r"augment: .*'policy'.*'foo' is not an operation"),
        ({"align_template": "arcface"}, r"align: setting 'template' is 'arcface'"),
        ({"align_template": "openface_96"}, r"align: setting 'template' is 'openface_96', which needs dlib"),
        ({"train_options": {"margn": 0.3}}, r"train: unknown setting 'margn'.*did you mean 'margin'"),
        ({"pack_validation_fraction": 0.9}, r"pack: setting 'validation_fraction' is 0.9"),
        ({"evaluate_options": {}, "seed": -1}, r"evaluate: setting 'seed' is -1"),
    ],
)
def test_a_stage_s_bad_setting_is_told_before_the_start(given, words):
    with pytest.raises(SettingsError, match=words):
        parameters.check_settings(given)


def test_what_is_not_installed_is_told_before_the_start_unless_stages_run_in_containers(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    given = {"align_landmarks": "dlib", "align_template": "dlib_5point_224"}
    with pytest.raises(SettingsError, match="align: setting 'landmarks' is 'dlib', but dlib-bin .* not installed"):
        parameters.check_settings(given)
    parameters.check_settings(given, installed=False)


def test_the_pipeline_s_own_defaults_pass():
    from google.protobuf import json_format

    from faceflow.pipelines.training import create_pipeline

    inputs = json_format.MessageToDict(create_pipeline().pipeline_spec)["root"]["inputDefinitions"]["parameters"]
    parameters.check_settings({name: told["defaultValue"] for name, told in inputs.items()})
