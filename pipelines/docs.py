"""The generated tables of the documentation, written from the code and checked against it.

``python -m faceflow.pipelines.docs`` writes, from a checkout, the settings table of each stage's README, align's table
of templates, the parameter table of ``docs/parameters.md``, and the table and pictures of ``docs/operations.md``;
``--check`` only compares, and fails when one is out of date.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import click

from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.operations import OPERATIONS, Argument
from faceflow.components.common.settings import constraint_of
from faceflow.pipelines import pictures
from faceflow.pipelines.images import STAGES

ROOT = Path(__file__).resolve().parents[1]
_PICTURES = ROOT / "docs" / "images" / "operations"
_UNCHANGED = "unchanged"
_FRAMINGS = {
    "landmarks": "the five landmarks, best similarity",
    "dlib_chip": "dlib's 5 points, best similarity from the template to the image",
    "three_points": "three of dlib's 68 points, affine",
    "box": "mtcnn's box",
}
_KINDS = {
    "BOOLEAN": "bool",
    "NUMBER_INTEGER": "int",
    "NUMBER_DOUBLE": "float",
    "STRING": "text",
    "LIST": "list",
    "STRUCT": "object",
}


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def settings_table(stage: str) -> str:
    """A Markdown table of a stage's settings, from its ``Settings`` and its component's signature."""
    module = importlib.import_module(f"faceflow.components.{stage}.stage")
    component = getattr(importlib.import_module(f"faceflow.components.{stage}.component"), stage)
    named = set(inspect.signature(component.python_func).parameters)
    hints = get_type_hints(module.Settings)
    rows = [_row("setting", "type", "default", "allowed", "meaning"), _row(*["---"] * 5)]
    for item in fields(module.Settings):
        limits = constraint_of(item.metadata)
        default = item.default if item.default_factory is MISSING else item.default_factory()
        bounds = [
            *([", ".join(f"`{choice}`" for choice in limits.choices)] if limits.choices else []),
            *([f">= {limits.minimum:g}"] if limits.minimum is not None else []),
            *([f"<= {limits.maximum:g}"] if limits.maximum is not None else []),
        ]
        shown = item.name if item.name in named else f"options.{item.name}"
        kind = getattr(hints[item.name], "__name__", str(hints[item.name]))
        rows.append(_row(f"`{shown}`", kind, f"`{json.dumps(default)}`", ", ".join(bounds), limits.help))
    return "\n".join(rows)


def templates_table() -> str:
    """A Markdown table of the alignment templates."""
    rows = [_row("template", "columns x rows", "fixed by", "where they come to lie (x, y)", "drawn", "from")]
    rows.append(_row(*["---"] * 6))
    for name, template in TEMPLATES.items():
        points = ", ".join(f"({x:.2f}, {y:.2f})" for x, y in template.landmarks)
        size = f"{template.width}x{template.height}"
        fixed = _FRAMINGS[template.framing]
        rows.append(_row(f"`{name}`", size, fixed, points, template.interpolation, template.origin))
    return "\n".join(rows)


def _plain_number(text: str) -> float | int:
    return int(float(text)) if float(text).is_integer() else float(text)


def parameters_table() -> str:
    """A Markdown table of the training pipeline's parameters, from its compiled form."""
    from google.protobuf import json_format

    from faceflow.pipelines.training import create_pipeline

    spec = json_format.MessageToDict(create_pipeline().pipeline_spec)
    rows = [_row("parameter", "type", "default", "meaning"), _row(*["---"] * 4)]
    for name, told in sorted(spec["root"]["inputDefinitions"]["parameters"].items()):
        # Protobuf knows no whole numbers, and keeps a map's entries in no order.
        default = json.dumps(json.loads(json.dumps(told["defaultValue"]), parse_float=_plain_number), sort_keys=True)
        shown = f"`{default}`" if len(default) <= 160 else "the synthetic demo"
        rows.append(_row(f"`{name}`", _KINDS[told["parameterType"]], shown, told["description"].replace("``", "`")))
    return "\n".join(rows)


def operations_table(folder: str) -> str:
    """A Markdown table of the operations that a policy can name.

    Args:
        folder: Of the pictures, relative to the page.
    """
    rows = [_row("", "operation", "what it does", "allowed"), _row(*["---"] * 4)]
    rows.append(_row(f"![the face as it came]({folder}/{_UNCHANGED}.jpg)", "", "The face as it came.", ""))
    for name, found in sorted(OPERATIONS.items()):
        allowed = "; ".join(_limits(argument) for argument in found.arguments)
        summary = found.summary.replace("``", "`")
        rows.append(_row(f"![{name}]({folder}/{name}.jpg)", f"`{found.usage}`", summary, allowed))
    return "\n".join(rows)


def _limits(argument: Argument) -> str:
    kind = ", whole" if argument.kind is int else ""
    return f"`{argument.name}` {argument.minimum:g} to {argument.maximum:g}{kind}"


def _stale_pictures(folder: Path, check: bool) -> list[Path]:
    """The pictures that are missing, out of date or of no operation any more; put right unless only checked."""
    wanted = {f"{name or _UNCHANGED}.jpg": pictures.operation_picture(name) for name in (None, *OPERATIONS)}
    folder.mkdir(parents=True, exist_ok=True)
    stale = [path for path in sorted(folder.iterdir()) if path.name not in wanted]
    if not check:
        for path in stale:
            path.unlink()
    for name, picture in wanted.items():
        path = folder / name
        if not path.exists() or not pictures.is_of(path.read_bytes(), picture):
            stale.append(path)
            if not check:
                path.write_bytes(pictures.encoded(picture))
    return stale


def _replaced(text: str, mark: str, table: str, where: str) -> str:
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise click.ClickException(f"{where} must hold {begin} and {end} once each.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


@click.command()
@click.option("--check", is_flag=True, help="Only compare; exit 1 when a table or a picture is out of date.")
def main(check: bool) -> None:
    """Write the generated tables and pictures of the documentation."""
    places = [(ROOT / "components" / stage / "README.md", "settings", settings_table(stage)) for stage in STAGES]
    places.append((ROOT / "components" / "align" / "README.md", "templates", templates_table()))
    places.append((ROOT / "docs" / "parameters.md", "parameters", parameters_table()))
    places.append((ROOT / "docs" / "operations.md", "operations", operations_table(f"images/{_PICTURES.name}")))
    stale = [str(path.relative_to(ROOT)) for path in _stale_pictures(_PICTURES, check)]
    for path, mark, table in places:
        name = str(path.relative_to(ROOT))
        if not path.exists():
            raise click.ClickException(f"{name} is missing: write it, with the marks of its generated table.")
        text = path.read_text(encoding="utf-8")
        wanted = _replaced(text, mark, table, name)
        if wanted != text:
            stale.append(name)
            if not check:
                path.write_text(wanted, encoding="utf-8")
    if check and stale:
        click.echo(f"out of date: {', '.join(stale)}. Run `make docs` and commit what it writes.", err=True)
        sys.exit(1)
    total = len(places) + 1 + len(OPERATIONS)
    click.echo(f"{total} tables and pictures, {len(stale)} {'out of date' if check else 'written'}.")


if __name__ == "__main__":
    main()
