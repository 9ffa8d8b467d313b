import json
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from faceflow.components.common.command import make_command
from faceflow.components.common.errors import SettingsError
from faceflow.components.common.settings import StageSettings, setting


@dataclass(frozen=True)
class Settings(StageSettings):
    template: str = setting("arcface_112", "Alignment template.", choices=("arcface_112", "arcface_96x112"))
    quality: int = setting(95, "JPEG quality.", minimum=1, maximum=100)
    rate: float = setting(0.5, "A share.", minimum=0, maximum=1)
    flip: bool = setting(True, "Whether to flip.")
    names: list[str] = setting(["a"], "Names.")
    extra: dict = setting({}, "More.")
    workers: int = setting(1, "Processes.", minimum=1, affects_output=False)


@dataclass(frozen=True)
class Inputs:
    faces: tuple[Path, ...]
    fingerprint: str = ""


@dataclass(frozen=True)
class Outputs:
    report: Path


def run(settings, inputs, outputs):
    seen = settings.for_manifest() | {"workers": settings.workers, "faces": [str(path) for path in inputs.faces]}
    outputs.report.write_text(json.dumps(seen))
    return "done"


STAGE = types.SimpleNamespace(Settings=Settings, Inputs=Inputs, Outputs=Outputs, run=run, __doc__="A stage.")


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("template", "arcface", "must be one of 'arcface_112', 'arcface_96x112'"),
        ("quality", 0, "must be at least 1"),
        ("quality", 101, "must be at most 100"),
        ("quality", "95", "must be of type int"),
        ("quality", 95.5, "must be of type int"),
        ("quality", True, "must be of type int"),
        ("rate", float("nan"), "finite"),
        ("rate", None, "must be of type float"),
        ("flip", 1, "must be of type bool"),
        ("names", "a", "must be of type list"),
        ("names", [1], "every entry must be a str"),
    ],
)
def test_a_bad_value_names_the_field_the_value_and_what_is_allowed(field, value, told):
    with pytest.raises(SettingsError, match=told) as caught:
        Settings.build({field: value})
    assert f"'{field}'" in str(caught.value)


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(SettingsError, match="did you mean 'quality'"):
        Settings.build({"qualty": 3})


def test_an_option_that_has_a_parameter_of_its_own_is_refused():
    with pytest.raises(SettingsError, match="remove it from options"):
        Settings.build({"quality": 3}, quality=95)


def test_numbers_arrive_as_kfp_sends_them():
    settings = Settings.build({"quality": 90.0, "rate": 1})
    assert settings.quality == 90 and isinstance(settings.quality, int)
    assert isinstance(settings.rate, float)


def test_the_manifest_leaves_out_what_cannot_change_the_output():
    assert "workers" not in Settings().for_manifest()
    assert Settings(workers=1).fingerprint == Settings(workers=4).fingerprint != Settings(quality=94).fingerprint


def test_defaults_are_not_shared():
    Settings().names.append("b")
    assert Settings().names == ["a"]


def test_the_command_line_reaches_every_field(tmp_path):
    out = tmp_path / "r.json"
    words = f"--faces a --faces b --report {out} --quality 80 --no-flip --workers 3".split() + ["--names", '["x"]']
    result = CliRunner().invoke(make_command("stage", STAGE), words)
    assert result.exit_code == 0 and result.output == "done\n"
    seen = json.loads(out.read_text())
    assert seen["faces"] == ["a", "b"] and seen["quality"] == 80 and seen["flip"] is False
    assert seen["names"] == ["x"] and seen["workers"] == 3 and seen["rate"] == 0.5


def test_help_shows_defaults_and_descriptions():
    text = CliRunner().invoke(make_command("stage", STAGE), ["--help"]).output
    assert "A stage." in text and "JPEG quality." in text and "95" in text and "--workers" in text


def test_an_output_that_is_needed_is_asked_for():
    result = CliRunner().invoke(make_command("stage", STAGE), ["--faces", "a"])
    assert result.exit_code == 2 and "--report" in result.output
