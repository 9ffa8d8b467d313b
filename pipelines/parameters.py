"""Presets, and the parameters given on the command line: read, typed and checked before any work begins."""

from __future__ import annotations

import difflib
import importlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from faceflow.components.common.errors import SettingsError
from faceflow.pipelines.images import STAGES
from faceflow.pipelines.spec import Parameter, Pipeline

PRESETS = Path(__file__).parent / "presets"
_EXPECTED = {
    "STRING": "text",
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "LIST": "a list",
    "STRUCT": "an object (name: value pairs)",
}


@dataclass(frozen=True)
class Preset:
    """A named set of parameters for a pipeline.

    Attributes:
        name: The file's name without its ending.
        pipeline: The pipeline that it is for.
        parameters: What it sets, unchecked.
        path: Where it was read.
    """

    name: str
    pipeline: str
    parameters: dict[str, Any]
    path: Path


class _Loader(yaml.SafeLoader):
    """YAML in which a name given twice is an error, as it would otherwise pass silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, checking its names."""
        seen = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, str) and name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{name}' is given twice", key.start_mark)
            seen.add(str(name))
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def names() -> list[str]:
    """The presets that come with faceflow."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a preset.

    Args:
        name: A path to a YAML file, or the bare name of a preset that comes with faceflow.

    Raises:
        SettingsError: There is no such file.
    """
    path = Path(name)
    if path.is_file():
        return path
    if (PRESETS / f"{name}.yaml").is_file():
        return PRESETS / f"{name}.yaml"
    raise SettingsError(
        f"no preset '{name}': it is neither a file nor one of {', '.join(names()) or '(none installed)'}. "
        "Give a path to a YAML file, or one of these names."
    )


def load(path: Path) -> Preset:
    """Read a preset.

    Raises:
        SettingsError: It is not YAML, or lacks or adds an entry.
    """
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict) or not isinstance(data.get("pipeline"), str):
        raise SettingsError(f"{path} is not a preset: it needs the entries 'pipeline: training' and 'parameters: ...'.")
    unknown = sorted(str(key) for key in data.keys() - {"pipeline", "parameters"})
    if unknown:
        raise SettingsError(
            f"{path}: unknown entry '{unknown[0]}': a preset has 'pipeline' and 'parameters'. "
            "Move what sets the pipeline under 'parameters'."
        )
    parameters = data.get("parameters") or {}
    if not isinstance(parameters, dict) or not all(isinstance(key, str) for key in parameters):
        raise SettingsError(f"{path}: 'parameters' must hold name: value pairs.")
    return Preset(path.stem, data["pipeline"], parameters, path)


def assignments(pairs: Iterable[str], pipeline: Pipeline) -> dict[str, Any]:
    """Read ``name=value`` pairs; the value is YAML, and taken as it stands where the parameter is text.

    Raises:
        SettingsError: A pair has no '=', its name is unknown, or its value is not of the parameter's type.
    """
    read: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise SettingsError(f"--set {pair}: write --set name=value, for instance --set train_epochs=3.")
        parameter = _known(name.strip(), pipeline)
        try:
            value = _parse(text)
        except yaml.YAMLError as error:
            if parameter.kind != "STRING":
                raise SettingsError(f"--set {pair}: the value is not YAML: {' '.join(str(error).split())}") from error
            value = text
        if parameter.kind == "STRING" and not isinstance(value, str):
            value = text
        read[parameter.name] = _typed(parameter, value)
    return read


def arguments(given: Mapping[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """Every parameter of a pipeline: what is given, checked, and the defaults for the rest.

    Raises:
        SettingsError: A name is unknown, a value has the wrong type, or a needed parameter is not given.
    """
    checked = {name: _typed(_known(name, pipeline), value) for name, value in given.items()}
    for parameter in pipeline.parameters.values():
        if parameter.name in checked:
            continue
        if parameter.needed:
            raise SettingsError(f"parameter '{parameter.name}' of pipeline '{pipeline.name}' has no default: set it.")
        checked[parameter.name] = _typed(parameter, parameter.default)
    for name in sorted(pipeline.collected):
        if not checked[name]:
            raise SettingsError(
                f"parameter '{name}' is an empty list, but the stages behind it need at least one entry: "
                "kfp.local cannot collect the outputs of a loop that never ran."
            )
    for name in sorted(pipeline.asked):
        if isinstance(checked[name], str) and re.search(r"['\\\n]|&&|\|\||!\s*\(", checked[name]):
            raise SettingsError(
                f"parameter '{name}' is {checked[name]!r}, but a condition of the pipeline reads it, and kfp.local "
                "takes the condition for false where the text has a quote, a backslash, a line break, && or ||."
            )
    return dict(sorted(checked.items()))


def _known(name: str, pipeline: Pipeline) -> Parameter:
    if name in pipeline.parameters:
        return pipeline.parameters[name]
    near = difflib.get_close_matches(name, pipeline.parameters, n=3, cutoff=0.5)
    near += [each for each in pipeline.parameters if name and name in each and each not in near][:3]
    known = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(sorted(pipeline.parameters))}."
    raise SettingsError(f"pipeline '{pipeline.name}' has no parameter '{name}': {known}")


def _typed(parameter: Parameter, value: Any) -> Any:
    kind = parameter.kind
    fits = {
        "STRING": isinstance(value, str),
        "BOOLEAN": isinstance(value, bool),
        "LIST": isinstance(value, list),
        "STRUCT": isinstance(value, dict),
    }
    if kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer():
        value = int(value)  # the compiled pipeline holds every number as a double
    if kind == "NUMBER_DOUBLE" and isinstance(value, str):
        value = _number(value)
    if kind == "NUMBER_DOUBLE" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    fits["NUMBER_INTEGER"] = isinstance(value, int) and not isinstance(value, bool)
    fits["NUMBER_DOUBLE"] = isinstance(value, float) and math.isfinite(value)
    if not fits.get(kind, False):
        hint = f" (write it in quotes: '{value}')" if kind == "STRING" and not isinstance(value, list | dict) else ""
        expected = _EXPECTED.get(kind, kind)
        raise SettingsError(f"parameter '{parameter.name}' is {value!r}, but must be {expected}{hint}.")
    return _plain(parameter.name, value)


def _number(text: str) -> float | str:
    """YAML 1.1 takes 1e-3 for text: read it as the number that it is."""
    try:
        return float(text)
    except ValueError:
        return text


def _plain(name: str, value: Any) -> Any:
    """The value, checked to be what JSON can hold, with whole doubles as integers inside lists and objects."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise SettingsError(
                f"parameter '{name}' has the name {next(k for k in value if not isinstance(k, str))!r} "
                "in an object, but names must be text: write it in quotes."
            )
        return {key: _inner(name, each) for key, each in value.items()}
    if isinstance(value, list):
        return [_inner(name, each) for each in value]
    return value


def _inner(name: str, value: Any) -> Any:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise SettingsError(f"parameter '{name}' holds {value!r}, but only finite numbers can be passed on.")
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, dict | list):
        return _plain(name, value)
    raise SettingsError(f"parameter '{name}' holds {value!r}, a {type(value).__name__}: write it in quotes.")


def check_settings(arguments: Mapping[str, Any], installed: bool = True) -> None:
    """Build every stage's settings, as the stages will, so that a bad one is told before hours of work and not after.

    Args:
        arguments: A run's parameters; ``<stage>_<setting>``, ``<stage>_options`` and ``seed`` are looked at.
        installed: Whether the stages run with what is installed here, so that it must be all that they need.

    Raises:
        SettingsError: A stage refuses its settings; the message names the stage.
    """
    for stage in STAGES:
        named = {
            name.removeprefix(f"{stage}_"): value for name, value in arguments.items() if name.startswith(f"{stage}_")
        }
        if not named:
            continue
        settings = importlib.import_module(f"faceflow.components.{stage}.stage").Settings
        known = {item.name for item in fields(settings)}
        if "seed" in known and "seed" in arguments:
            named["seed"] = arguments["seed"]
        options = named.pop("options", {})
        try:
            built = settings.build(options, **{name: value for name, value in named.items() if name in known})
            if installed:
                built.check_installed()
        except SettingsError as error:
            raise SettingsError(f"{stage}: {error}") from error
