import math
import re

import numpy as np
import pytest

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.reports import Report, combine, figure, publish_metrics, publish_roc, readable


class Metrics:
    def __init__(self):
        self.seen = {}

    def log_metric(self, name, value):
        assert math.isfinite(value)
        self.seen[name] = value


def report(path, title="Align <faces>"):
    built = Report(title, "What happened.")
    built.facts({"images": 12_345, "share": 0.98765})
    built.table("Drops", ["reason", "images"], [["no_face & more", 3], ["small", 1_000]])
    built.images("Faces", [(np.full((8, 6, 3), 90, np.uint8), "<b>caption</b>")])
    drawn, axes = figure()
    axes.plot([0, 1], [1, 0])
    built.figure("Curve", drawn)
    built.text("Note", "a < b")
    built.write(path)
    return path.read_text()


def test_a_report_is_self_contained_and_escaped(tmp_path):
    page = report(tmp_path / "r.html")
    assert "12,345" in page and "0.9877" in page and "1,000" in page
    for text in ("Align &lt;faces&gt;", "&lt;b&gt;caption", "a &lt; b", "no_face &amp;"):
        assert text in page
    links = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert links and all(link.startswith("data:image/") for link in links)


def test_reports_are_joined_with_a_table_of_contents(tmp_path):
    report(tmp_path / "a.html", "First")
    report(tmp_path / "b.html", "Second")
    combine(
        [("Align", tmp_path / "a.html"), ("Train", tmp_path / "b.html")],
        "Run",
        tmp_path / "all.html",
        facts={"accuracy": 0.9},
        tables=[("Stages", ["stage", "images"], [["align", 3]])],
    )
    page = (tmp_path / "all.html").read_text()
    assert page.count("<html") == 1 and page.count("<main>") == 1
    assert page.index("Stages") < page.index("First") < page.index("Second")
    assert 'href="#chapter-1"' in page and 'id="chapter-1"' in page


def test_a_file_that_is_no_report_is_refused(tmp_path):
    (tmp_path / "x.html").write_text("<html></html>")
    with pytest.raises(DatasetError, match=r"x\.html is not a faceflow report"):
        combine([("X", tmp_path / "x.html")], "Run", tmp_path / "all.html")


def test_numbers_that_kfp_cannot_hold_are_left_out():
    metrics = Metrics()
    publish_metrics(metrics, {"a": 1, "b": math.nan, "c": math.inf})
    assert metrics.seen == {"a": 1.0}


def test_the_roc_is_thinned_and_made_finite():
    class Roc:
        def log_roc_curve(self, fpr, tpr, thresholds):
            self.curve = np.array([fpr, tpr, thresholds])

    artifact = Roc()
    rates = np.linspace(0, 1, 5000)
    publish_roc(artifact, rates, np.sqrt(rates), np.r_[np.inf, np.linspace(1, -1, 4999)])
    assert artifact.curve.shape == (3, 200) and np.isfinite(artifact.curve).all()
    assert artifact.curve[:2, 0].tolist() == [0, 0] and artifact.curve[:2, -1].tolist() == [1, 1]
    assert (np.diff(artifact.curve[0]) >= 0).all() and (np.diff(artifact.curve[2]) <= 0).all()


@pytest.mark.parametrize(
    ("value", "text"), [(1234567, "1,234,567"), (0.123456, "0.1235"), ("x", "x"), (math.nan, "n/a")]
)
def test_numbers_are_shown_for_people(value, text):
    assert readable(value) == text
