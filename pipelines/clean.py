"""Removes old runs and scratch, without pulling the floor from under what is kept.

An entry of the cache says where an earlier run's artifacts lie. So a run that answered stages from the cache leans on
the runs that made them, and a run that is removed takes its cache entries along: those stages will run again.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from faceflow.components.common.errors import FaceflowError, SettingsError
from faceflow.components.common.storage import readable_bytes
from faceflow.pipelines.runs import Root
from faceflow.pipelines.sources import size

_GOING = ".removing-"


@dataclass(frozen=True)
class Item:
    """A folder under the root.

    Attributes:
        path: The folder.
        what: What it is, for people.
        bytes: Its size.
        kept: Why it stays; '' where it goes.
    """

    path: Path
    what: str
    bytes: int
    kept: str = ""


@dataclass(frozen=True)
class Plan:
    """What goes and what stays.

    Attributes:
        items: The runs, oldest first, then scratch.
        entries: Finished stages that the cache knows.
        forgotten: How many of them lead into what goes.
    """

    items: tuple[Item, ...]
    entries: int
    forgotten: int

    @property
    def going(self) -> list[Item]:
        """What goes."""
        return [item for item in self.items if not item.kept]


def plan(root: Root, keep: int, everything: bool = False) -> Plan:
    """Decide what goes.

    Args:
        root: The folder of the runs; nothing may run in it.
        keep: How many of the newest runs stay, with those that they lean on.
        everything: Whether all runs, the whole cache and scratch go.
    """
    runs = root.runs()
    records = {run.folder: run.record() for run in runs}
    kept: dict[Path, str] = {}
    for run in runs[len(runs) - min(keep, len(runs)) :] if not everything else ():
        kept[run.folder] = "among the newest"
        used = {parent for path in records[run.folder].artifacts for parent in Path(path).parents}
        for folder in used & records.keys():
            kept.setdefault(folder, f"{run.folder.name} uses its stages")
    items = []
    for folder, record in records.items():
        status = "interrupted" if record.status == "running" else record.status
        items.append(Item(folder, f"run, {status}", size(folder), kept.get(folder, "")))
    going = {item.path for item in items if not item.kept}
    if root.scratch.is_dir() and (bytes_of_scratch := size(root.scratch)):
        unfinished = bool(kept) and next(reversed(records.values())).status != "finished"
        reason = "the newest run did not finish and may go on from it" if unfinished else ""
        items.append(Item(root.scratch, "partial downloads, checkpoints", bytes_of_scratch, reason))
    entries = list(root.entries())
    forgotten = [
        entry
        for entry in entries
        if everything or entry.defect or any(going & set(path.parents) for path in entry.outputs.values())
    ]
    return Plan(tuple(items), len(entries), len(forgotten))


def clean(folder: Path, console: Console, *, keep: int, everything: bool, dry_run: bool, yes: bool) -> None:
    """List what lies under a root, ask, and remove what is old.

    Args:
        folder: The root.
        console: Where to list it.
        keep: See :func:`plan`.
        everything: See :func:`plan`.
        dry_run: Only list.
        yes: Do not ask.

    Raises:
        FaceflowError: Something runs there, or a folder cannot be removed.
    """
    root = Root(folder)
    if not root.exists:
        if root.path.exists():
            raise SettingsError(f"--root {root.path} is not a folder of faceflow runs: nothing was touched.")
        console.print(f"Nothing to remove: there is no {root.path}.", soft_wrap=True)
        return
    with root.locked():
        for leftover in root.path.glob(f"{_GOING}*"):
            _remove(leftover)
        found = plan(root, keep, everything)
        _show(found, root, console)
        if not found.going and not found.forgotten:
            console.print("Nothing to remove.")
            return
        if dry_run:
            return
        if not yes and not _confirmed():
            console.print("Nothing was removed.")
            return
        for item in found.going:
            aside = root.path / f"{_GOING}{item.path.name}"
            item.path.rename(aside)  # so that a removal that is cut short leaves nothing that looks like a run
            _remove(aside)
        if everything:
            root.forget()
        else:
            root.remove_dead_entries()
        console.print(f"Removed {readable_bytes(sum(item.bytes for item in found.going))}.")


def _show(found: Plan, root: Root, console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for heading in (str(root.path), "Size", "", ""):
        table.add_column(heading, justify="right" if heading == "Size" else "left", no_wrap=heading != "")
    for item in found.items:
        decision = Text(f"stays: {item.kept}", "dim") if item.kept else Text("goes", "yellow")
        table.add_row(item.path.name, readable_bytes(item.bytes), item.what, decision)
    console.print(table)
    if found.forgotten:
        console.print(
            f"{found.forgotten} of {found.entries} finished stages in the cache go with them and will run again when "
            "they are needed.",
            soft_wrap=True,
        )
    if found.going:
        console.print(f"In all {readable_bytes(sum(item.bytes for item in found.going))}.")


def _confirmed() -> bool:
    try:
        return click.confirm("Remove?", default=False)
    except click.Abort:
        raise FaceflowError("nothing was removed: answer y, or give --yes.") from None


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise FaceflowError(f"{folder} could not be removed ({error}). Remove it as the user who owns it.") from error
