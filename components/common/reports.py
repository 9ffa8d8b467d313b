"""Self-contained HTML reports, and the publishing of numbers to KFP's artifacts.

A report reads well both 470 px wide, as the KFP run page shows it, and in full; what matters is on the first screen.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from numpy.typing import ArrayLike, NDArray

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.images import encode_jpeg
from faceflow.components.common.storage import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#2f5d8a", "#d1773b", "#4f8f5b", "#a84a5b", "#7a6a9e", "#8a8f98")
_BEGIN, _END = "<!-- report:begin -->", "<!-- report:end -->"
_ROC_POINTS = 200


def figure(width: float = 6.4, height: float = 3.2) -> tuple[Figure, Axes]:
    """An empty plot in the house style, drawn without a display.

    Args:
        width: Inches.
        height: Inches.
    """
    import matplotlib
    from cycler import cycler
    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot as plt

    style: Any = {
        "axes.prop_cycle": cycler(color=PALETTE),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.edgecolor": "#9aa3ad",
        "grid.color": "#e6e9ed",
        "font.size": 9,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "svg.hashsalt": "faceflow",
    }
    with plt.rc_context(style):
        drawn, axes = plt.subplots(figsize=(width, height))
    axes.set_axisbelow(True)
    return drawn, axes


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("faceflow.components.common", "templates"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def readable(value: Any) -> str:
    """A number for people: thousands separated, at most four significant decimals; other values as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        return str(value)
    if isinstance(value, int | np.integer):
        return f"{int(value):,}"
    return f"{float(value):,.4g}" if math.isfinite(value) else "n/a"


class Report:
    """Builds one stage's report, section by section, in the order of the calls.

    Args:
        title: What it reports on.
        summary: One sentence for the first screen.
    """

    def __init__(self, title: str, summary: str = "") -> None:
        """Begin an empty report."""
        self.title = title
        self.summary = summary
        self._facts: list[tuple[str, str]] = []
        self._sections: list[dict[str, Any]] = []

    def facts(self, values: Mapping[str, Any]) -> None:
        """Add headline numbers, shown as tiles above everything else."""
        self._facts += [(label, readable(value)) for label, value in values.items()]

    def table(self, heading: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> None:
        """Add a table; numbers are aligned right."""
        cells = [
            [(readable(each), isinstance(each, int | float | np.number) and not isinstance(each, bool)) for each in row]
            for row in rows
        ]
        self._sections.append(
            {"kind": "table", "heading": heading, "note": note, "columns": list(columns), "rows": cells}
        )

    def images(
        self,
        heading: str,
        cells: Sequence[tuple[NDArray[np.uint8], str]],
        columns: int = 8,
        note: str = "",
        width_px: int = 112,
    ) -> None:
        """Add a grid of pictures.

        Args:
            heading: Its heading.
            cells: (H, W, 3) uint8 RGB pictures with their captions.
            columns: Pictures in a row, where the page is wide enough.
            note: A sentence below the heading.
            width_px: Width at which a picture is shown.
        """
        shown = [
            {"uri": _data_uri("jpeg", encode_jpeg(np.asarray(image, np.uint8), 88)), "caption": caption}
            for image, caption in cells
        ]
        section = {"kind": "images", "heading": heading, "note": note, "cells": shown}
        self._sections.append(section | {"columns": columns, "width": width_px})

    def figure(self, heading: str, drawn: Figure, note: str = "") -> None:
        """Add a matplotlib figure, and close it."""
        from matplotlib import pyplot as plt

        buffer = io.BytesIO()
        drawn.savefig(buffer, format="png", dpi=150)
        plt.close(drawn)
        uri = _data_uri("png", buffer.getvalue())
        self._sections.append({"kind": "figure", "heading": heading, "note": note, "uri": uri})

    def text(self, heading: str, text: str) -> None:
        """Add a paragraph; it is escaped."""
        self._sections.append({"kind": "text", "heading": heading, "note": "", "text": text})

    def write(self, path: Path) -> None:
        """Write the page."""
        body = _environment().get_template("report.html.j2").render(
            title=self.title, summary=self.summary, facts=self._facts, sections=self._sections
        )
        _write_page(path, self.title, f"{_BEGIN}\n{body}\n{_END}")


def _write_page(path: Path, title: str, body: str) -> None:
    page = _environment().get_template("page.html.j2").render(title=title, body=Markup(body))
    write_atomically(Path(path), page)


def combine(
    reports: Sequence[tuple[str, Path]],
    title: str,
    path: Path,
    *,
    summary: str = "",
    facts: Mapping[str, Any] | None = None,
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[Any]]]] = (),
) -> None:
    """Join stages' reports into one page with a table of contents.

    Args:
        reports: For each, the heading to give it and its file.
        title: The page's title.
        path: The page to write.
        summary: One sentence for the first screen.
        facts: Headline numbers of the whole run.
        tables: Heading, columns and rows of tables that come before the stages.

    Raises:
        DatasetError: A file is not a report.
    """
    front = Report(title, summary)
    front.facts(facts or {})
    for heading, columns, rows in tables:
        front.table(heading, columns, rows)
    chapters = [(f"chapter-{index}", heading, _body(file)) for index, (heading, file) in enumerate(reports)]
    links = "".join(f'<a href="#{anchor}">{html.escape(heading)}</a>' for anchor, heading, _ in chapters)
    body = _environment().get_template("report.html.j2").render(
        title=title, summary=summary, facts=front._facts, sections=front._sections, links=Markup(links)
    )
    for anchor, _, content in chapters:
        body += f'\n<div class="chapter" id="{anchor}">{content}</div>'
    _write_page(path, title, body)


def _body(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    begin, end = text.find(_BEGIN), text.rfind(_END)
    if begin < 0 or end < 0:
        raise DatasetError(f"{file} is not a faceflow report: run the stage that wrote it again.")
    return text[begin + len(_BEGIN) : end]


def publish_metrics(artifact: Any, numbers: Mapping[str, float]) -> None:
    """Log numbers to a KFP ``Metrics`` artifact; one that is not finite would fail the task and is left out.

    Args:
        artifact: Anything with ``log_metric(name, value)``.
        numbers: The values, by name.
    """
    for name, value in numbers.items():
        if math.isfinite(value):
            artifact.log_metric(name, float(value))


def publish_roc(artifact: Any, fpr: ArrayLike, tpr: ArrayLike, thresholds: ArrayLike) -> None:
    """Log an ROC curve to a KFP ``ClassificationMetrics`` artifact.

    The curve is stored in the artifact's metadata, so it is thinned to at most 200 points; scikit-learn's first
    threshold is infinite, which the metadata cannot hold, and becomes the next one plus one.

    Args:
        artifact: Anything with ``log_roc_curve(fpr, tpr, thresholds)``.
        fpr: (N,) false positive rates, rising.
        tpr: (N,) true positive rates.
        thresholds: (N,) thresholds, falling.
    """
    curve = np.array([fpr, tpr, thresholds], np.float64)
    if curve.shape[1] == 0:
        return
    if np.isinf(curve[2, 0]):
        curve[2, 0] = curve[2, 1] + 1.0 if curve.shape[1] > 1 else 1.0
    places = np.unique(np.linspace(0, curve.shape[1] - 1, min(_ROC_POINTS, curve.shape[1])).round().astype(int))
    curve = curve[:, places]
    curve = curve[:, np.isfinite(curve).all(0)]
    artifact.log_roc_curve(*(row.tolist() for row in curve))
