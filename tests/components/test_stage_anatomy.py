"""Every stage has the same anatomy, and its component offers what its settings say."""

import importlib
import inspect
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from faceflow.components.common.settings import constraint_of

STAGES = ("probe", "download", "align", "augment", "pack", "train", "evaluate")
FOLDER = Path(importlib.import_module("faceflow.components").__file__).parent


def parts(stage):
    module = importlib.import_module(f"faceflow.components.{stage}.stage")
    component = getattr(importlib.import_module(f"faceflow.components.{stage}.component"), stage)
    return module, component


@pytest.mark.parametrize("stage", STAGES)
def test_a_component_s_defaults_are_its_settings(stage):
    module, component = parts(stage)
    defaults = {
        item.name: item.default if item.default_factory is MISSING else item.default_factory()
        for item in fields(module.Settings)
    }
    offered = inspect.signature(component.python_func).parameters
    settings = {name: given.default for name, given in offered.items() if name in defaults}
    assert settings == {name: defaults[name] for name in settings}
    places = {item.name for group in (module.Inputs, module.Outputs) for item in fields(group)}
    assert set(offered) - set(settings) - places <= {"options", "rerun"}
    assert ("rerun" in offered) == (stage != "probe"), "a stage that is cached can be run again, and only that"


@pytest.mark.parametrize("stage", STAGES)
def test_every_setting_and_output_is_explained(stage):
    module, component = parts(stage)
    for item in fields(module.Settings):
        assert constraint_of(item.metadata).help, item.name
    told = inspect.getdoc(component.python_func)
    for name in inspect.signature(component.python_func).parameters:
        assert f"\n    {name}: " in told, name


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_folder_holds_the_same_files(stage):
    held = {path.name for path in (FOLDER / stage).iterdir()}
    assert held >= {"__init__.py", "__main__.py", "component.py", "stage.py", "README.md"}
