from typing import NamedTuple

import pytest
from kfp import dsl

from faceflow.components.common.errors import SettingsError
from faceflow.pipelines import spec
from faceflow.pipelines.spec import Parameter

IMAGE = "localhost/tests/python:1"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def measure() -> NamedTuple("Measured", [("accuracy", float), ("names", list)]):  # noqa: UP014 - as kfp reads it
    return (0.9, ["a"])


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def accuracy() -> float:
    return 0.9


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def use(text: str, other: str = "", made: dsl.Output[dsl.Artifact] = None):
    from pathlib import Path

    Path(made.path).write_text(f"{text} {other}")


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def word() -> str:
    return "outer"


@dsl.pipeline(name="named-condition")
def named_condition():
    measured = measure()
    with dsl.If(measured.outputs["accuracy"] > 0.5):
        use(text="it was good")


@dsl.pipeline(name="unnamed-condition")
def unnamed_condition(promote: str = ""):
    measured = accuracy()
    with dsl.If(measured.output > 0.5):
        use(text="it was good")
    with dsl.If(promote != ""):
        use(text=promote)


@dsl.pipeline(name="named-loop")
def named_loop():
    with dsl.ParallelFor(measure().outputs["names"]) as name:
        use(text=name)


@dsl.pipeline(name="parameter-into-loop")
def parameter_into_loop(names: list = ["a"]):  # noqa: B006 - kfp's default
    outer = word()
    with dsl.ParallelFor(names) as name:
        use(text=name, other=outer.output)


@dsl.pipeline(name="condition-in-loop")
def condition_in_loop(names: list = ["a"]):  # noqa: B006 - kfp's default
    measured = measure()
    with dsl.ParallelFor(names) as name, dsl.If(measured.outputs["accuracy"] > 0.5):
        use(text=name)


def test_stages_come_in_order_with_titles_images_loops_and_outputs(small):
    pipeline = spec.read(small)
    assert [(stage.name, stage.title, stage.over) for stage in pipeline.stages] == [
        ("name-of", "name-of", "sources"),
        ("write", "Write source", "sources"),
        ("join", "Join", None),
    ]
    assert pipeline.stage("write").artifacts == {"made": "system.Artifact"}
    assert pipeline.stage("name-of").results == ("Output",)
    assert {stage.image for stage in pipeline.stages} == {IMAGE}
    assert pipeline.collected == {"sources"}
    assert pipeline.parameters["seconds"] == Parameter("seconds", "NUMBER_DOUBLE", 0.0)
    spec.check(pipeline)


@pytest.mark.parametrize(
    ("pipeline", "defect"),
    [
        (named_condition, "condition 'condition-1' reads output 'accuracy' of task 'measure'"),
        (condition_in_loop, "condition 'condition-2' reads output 'accuracy' of task 'measure'"),
        (named_loop, "loop 'for-loop-1' runs over output 'names' of task 'measure'"),
        (parameter_into_loop, "loop 'for-loop-1' is given output 'Output' of task 'word'"),
    ],
)
def test_what_kfp_local_gets_wrong_is_refused(compiled, pipeline, defect):
    with pytest.raises(SettingsError, match=defect):
        spec.check(spec.read(compiled(pipeline)))


def test_a_condition_on_an_unnamed_output_or_a_parameter_is_fine(compiled):
    pipeline = spec.read(compiled(unnamed_condition))
    spec.check(pipeline)
    assert pipeline.asked == {"promote"}


def test_kfp_local_still_needs_these_rules(compiled, run, monkeypatch):
    """When an upgrade of kfp mends one of these, its rule can go."""
    monkeypatch.setattr(spec, "check", lambda pipeline: None)
    skipped = run(compiled(named_condition))
    assert skipped.status == 0
    assert skipped.board.rows["use"].state == "not reached"
    replaced = run(compiled(parameter_into_loop))
    with open(replaced.board.rows["use"].outputs[0]["made"]) as file:
        assert file.read() == "a a"


def test_a_file_that_is_no_pipeline_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("just: text")
    with pytest.raises(SettingsError, match="is not a compiled pipeline"):
        spec.read(tmp_path / "x.yaml")
