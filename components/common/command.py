"""Any stage from a shell: a click command made from the stage's own dataclasses."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import ModuleType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import click

from faceflow.components.common.errors import FaceflowError
from faceflow.components.common.logs import setup_logging
from faceflow.components.common.settings import constraint_of


class _Json(click.ParamType[Any]):
    """A list or object, written as JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse JSON text."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError as error:
            self.fail(f"not JSON: {error}", param, ctx)


def _option(item: Field[Any], hint: Any, *, plain_default: bool) -> click.Option:
    """One command-line option for one dataclass field."""
    limits = constraint_of(item.metadata)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        hint = next(kind for kind in arguments if kind is not type(None))
        origin, arguments = get_origin(hint), get_args(hint)
    several = origin is tuple
    kind: Any = arguments[0] if several else origin or hint
    default: Any = None
    if item.default is not MISSING:
        default = item.default
    elif item.default_factory is not MISSING:
        default = item.default_factory()
    needed = item.default is MISSING and item.default_factory is MISSING
    dashed = item.name.replace("_", "-")
    flags = [f"--{dashed}/--no-{dashed}"] if kind is bool else [f"--{dashed}"]
    types: dict[Any, Any] = {Path: click.Path(path_type=Path), list: _Json(), dict: _Json()}
    shown: Any = limits.choices and click.Choice([str(choice) for choice in limits.choices])
    if limits.choices and kind is not str:
        shown = None
    given: dict[str, Any] = {} if needed else {"default": () if several else default}
    return click.Option(
        [*flags, item.name],
        type=shown or types.get(kind, kind),
        required=needed,
        multiple=several,
        show_default=plain_default and default not in (None, "", ()),
        help=limits.help or None,
        metavar="DIR" if kind is Path else None,
        **given,
    )


def make_command(name: str, stage: ModuleType) -> click.Command:
    """Build the command of a stage.

    Every field of the stage's ``Inputs``, ``Outputs`` and ``Settings`` becomes an option. A value that ``run`` returns
    as text is printed.

    Args:
        name: The stage's name.
        stage: Its ``stage`` module.
    """
    groups = [stage.Inputs, stage.Outputs, stage.Settings]
    options: list[click.Parameter] = []
    for group in groups:
        hints = get_type_hints(group)
        options += [_option(item, hints[item.name], plain_default=group is stage.Settings) for item in fields(group)]
    options.append(click.Option(["--verbose"], is_flag=True, help="Show the libraries' log lines too."))

    def call(**values: Any) -> None:
        setup_logging(values.pop("verbose"))
        made = []
        for group in groups:
            names = [item.name for item in fields(group)]
            made.append(group(**{each: values[each] for each in names}))
        inputs, outputs, settings = made
        result = stage.run(settings, inputs, outputs)
        if isinstance(result, str):
            click.echo(result)

    text = (stage.__doc__ or "").strip()
    return click.Command(name, params=options, callback=call, help=text, context_settings={"max_content_width": 120})


def guarded(call: Callable[[], Any], what: str) -> int:
    """Run something for a person at a shell: typed errors as one line, an interruption as one line, no tracebacks.

    Args:
        call: What to run.
        what: Its name, for the messages.

    Returns:
        The exit status: 0, 1 for a typed error, 130 for Ctrl-C, 143 for a termination.
    """
    log = logging.getLogger(f"faceflow.{what}")
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        call()
    except FaceflowError as error:
        log.error("%s: %s", type(error).__name__, error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted: nothing half-made was left in the outputs. Run it again to go on.")
        return 130
    except SystemExit as stop:
        if stop.code != 143:
            raise
        log.error("terminated: nothing half-made was left in the outputs. Run it again to go on.")
        return 143
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def main(name: str, stage: ModuleType) -> None:
    """The body of every stage's ``__main__``."""
    setup_logging()
    command = make_command(name, stage)

    def call() -> None:
        try:
            command.main(prog_name=f"python -m faceflow.components.{name}", standalone_mode=False)
        except click.exceptions.Abort as error:
            raise KeyboardInterrupt from error

    try:
        status = guarded(call, name)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    if status in (130, 143):
        os._exit(status)  # an engine's worker threads would keep an interrupted process alive
    sys.exit(status)
