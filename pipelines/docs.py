"""The generated tables of the documentation, written from the code and checked against it.

``python -m faceflow.pipelines.docs`` writes, from a checkout, the settings table of each stage's README and the
parameter table of ``docs/parameters.md``; ``--check`` only compares, and fails when one is out of date.
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

from faceflow.components.common.settings import constraint_of
from faceflow.pipelines.images import STAGES

ROOT = Path(__file__).resolve().parents[1]
_KINDS = {"NUMBER_INTEGER": "int", "NUMBER_DOUBLE": "float", "STRING": "text", "LIST": "list", "STRUCT": "object"}


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


def _replaced(text: str, mark: str, table: str, where: str) -> str:
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise click.ClickException(f"{where} must hold {begin} and {end} once each.")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


@click.command()
@click.option("--check", is_flag=True, help="Only compare; exit 1 when a table is out of date.")
def main(check: bool) -> None:
    """Write the generated tables of the documentation."""
    places = [(ROOT / "components" / stage / "README.md", "settings", settings_table(stage)) for stage in STAGES]
    places.append((ROOT / "docs" / "parameters.md", "parameters", parameters_table()))
    stale = []
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
    click.echo(f"{len(places)} tables, {len(stale)} {'out of date' if check else 'written'}.")


if __name__ == "__main__":
    main()
