"""What a person sees while a run goes on: a table that lives on a terminal, and plain lines anywhere else."""

from __future__ import annotations

import time
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from faceflow.pipelines.board import Board, Row

_LOOK = {
    "waiting": ("·", "dim"),
    "running": ("", "yellow"),
    "cached": ("↺", "cyan"),
    "done": ("✔", "green"),
    "failed": ("✘", "bold red"),
    "interrupted": ("✘", "yellow"),
    "not reached": ("–", "dim"),
}
_STILL_SECONDS = 30.0


class View(Protocol):
    """Shows a run."""

    def begin(self, board: Board) -> None:
        """The run begins."""

    def update(self, board: Board, now: float) -> None:
        """Something may have changed."""

    def said(self, row: Row, line: str) -> None:
        """A stage said something that the person wants to see."""

    def end(self, board: Board, now: float) -> None:
        """The run is over."""


def view_for(console: Console) -> View:
    """The view that suits an output."""
    return TableView(console) if console.is_terminal and not console.is_dumb_terminal else LineView(console)


def duration(seconds: float) -> str:
    """A duration for people: ``0.4 s``, ``12 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def state_of(row: Row) -> str:
    """A row's state in words, with counts where its loop runs more than once."""
    state, ended = row.state, row.done + row.cached
    if row.expected == 1 or state in ("waiting", "not reached", "failed") and not ended:
        return state
    if state == "done" and row.cached:
        return f"done, {row.cached} of {row.expected} cached"
    if state in ("done", "cached"):
        return f"{state} {ended}/{row.expected}"
    return f"{state}, {ended} of {row.expected} done"


class TableView:
    """A table of the stages, redrawn in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._spinner = Spinner("dots", style="yellow")
        self._live: Live | None = None

    def begin(self, board: Board) -> None:
        """Draw the table."""
        self._live = Live(
            self._table(board, time.monotonic()), console=self._console, auto_refresh=False, vertical_overflow="visible"
        )
        self._live.start(refresh=True)

    def update(self, board: Board, now: float) -> None:
        """Draw the table again."""
        if self._live is not None:
            self._live.update(self._table(board, now), refresh=True)

    def said(self, row: Row, line: str) -> None:
        """Show the line above the table."""
        self._console.print(Text.assemble((f"{row.stage.title}: ", "dim"), line), soft_wrap=True)

    def end(self, board: Board, now: float) -> None:
        """Leave the table as it stands."""
        if self._live is not None:
            self._live.update(self._table(board, now), refresh=True)
            self._live.stop()

    def _table(self, board: Board, now: float) -> RenderableType:
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False, expand=True)
        table.add_column("", width=1)
        table.add_column("Stage", no_wrap=True)
        table.add_column("State", no_wrap=True, min_width=20)
        table.add_column("Time", justify="right", no_wrap=True, min_width=11)
        table.add_column("", no_wrap=True, overflow="ellipsis", style="dim", ratio=1)
        for row in board.rows.values():
            symbol, style = _LOOK[row.state]
            mark: RenderableType = Text(symbol, style) if symbol else self._spinner
            spent = row.seconds(now)
            table.add_row(
                mark,
                Text(row.stage.title, "dim" if row.state in ("waiting", "not reached") else ""),
                Text(state_of(row), style),
                duration(spent) if spent or row.done else "",
                Text(row.latest) if row.state == "running" else "",
            )
        return Group(table, "")


class LineView:
    """A line whenever a stage changes state, and now and then while one works."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown: dict[str, str] = {}
        self._told = 0.0

    def begin(self, board: Board) -> None:
        """Remember where everything stands."""
        self._shown = {name: row.state for name, row in board.rows.items()}
        self._told = time.monotonic()

    def update(self, board: Board, now: float) -> None:
        """Tell what changed, or that nothing did for a while."""
        for name, row in board.rows.items():
            if row.state != self._shown[name]:
                self._shown[name] = row.state
                spent = row.seconds(now)
                took = f" ({duration(spent)})" if row.state in ("done", "failed") else ""
                self._tell(f"{row.stage.title}: {state_of(row)}{took}")
                self._told = now
        if now - self._told >= _STILL_SECONDS:
            for row in board.running:
                latest = f": {row.latest}" if row.latest else ""
                self._tell(f"{row.stage.title}: running for {duration(row.seconds(now))}{latest}")
            self._told = now

    def said(self, row: Row, line: str) -> None:
        """Pass the line on."""
        self._tell(f"{row.stage.title} | {line}")

    def end(self, board: Board, now: float) -> None:
        """Tell what changed last."""
        self.update(board, now)

    def _tell(self, text: str) -> None:
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)
