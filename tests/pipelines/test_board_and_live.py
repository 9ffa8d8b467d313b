import io

import pytest
from rich.console import Console

from faceflow.pipelines.board import Board, error_message
from faceflow.pipelines.live import LineView, TableView, duration, state_of, view_for
from faceflow.pipelines.spec import Pipeline, Stage

ALIGN = Stage("align", "Align source", "i", {"faces": "system.Dataset"}, (), over="sources")
TRAIN = Stage("train", "Train", "i", {"model": "system.Model"}, ())
PIPELINE = Pipeline("p", {}, (ALIGN, TRAIN))


def board():
    return Board(PIPELINE, {"sources": [{}, {}]})


def events(to, *given):
    for now, event in enumerate(given):
        to.apply({"thread": 1} | event, float(now))
    return to.rows["align"], to.rows["train"]


def test_states_follow_the_events():
    each = board()
    begun = {"event": "started", "stage": "align"}
    align, train = events(each, begun, begun | {"thread": 2})
    assert (align.state, train.state, state_of(align)) == ("running", "waiting", "running, 0 of 2 done")
    events(each, {"event": "done", "stage": "align", "outputs": {"faces": "/a"}})
    assert state_of(align) == "running, 1 of 2 done"
    events(each, {"event": "cached", "stage": "align", "outputs": {"faces": "/b"}})
    assert align.state == "running"
    events(each, {"event": "done", "stage": "align", "outputs": {"faces": "/c"}, "thread": 2})
    assert state_of(align) == "done, 1 of 2 cached"


def test_time_is_counted_once_where_runs_overlap():
    each = board()
    align, _ = events(
        each,
        {"event": "started", "stage": "align"},
        {"event": "started", "stage": "align", "thread": 2},
        {"event": "done", "stage": "align", "outputs": {"faces": "/a"}},
        {"event": "done", "stage": "align", "outputs": {"faces": "/b"}, "thread": 2},
    )
    assert align.seconds(100.0) == 3.0


def test_a_container_that_ended_without_its_outputs_has_failed():
    """DockerRunner reports success for it."""
    align, _ = events(
        board(),
        {"event": "started", "stage": "align"},
        {"event": "said", "stage": "align", "line": "faceflow.components.common.errors.DiskSpaceError: too little."},
        {"event": "done", "stage": "align", "outputs": {}},
    )
    assert (align.state, align.done, align.failures[0].message) == ("failed", 0, "too little.")
    _, train = events(
        board(), {"event": "started", "stage": "train"}, {"event": "done", "stage": "train", "outputs": {}}
    )
    assert train.failures[0].message == "it ended without writing its output 'model'"


def test_the_end_tells_failed_from_interrupted():
    for interrupted, state in ((True, "interrupted"), (False, "failed")):
        each = board()
        _, train = events(each, {"event": "started", "stage": "train"})
        each.end(9.0, interrupted)
        assert (train.state, each.rows["align"].state) == (state, "not reached")
        assert train.seconds(50.0) == 9.0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["Traceback (most recent call last):", '  File "x"', "KeyError: 'a'"], ("KeyError: 'a'", False)),
        (["Traceback (most recent call last):", '  File "x"', "AssertionError"], ("AssertionError", False)),
        (
            ["faceflow.components.common.errors.SourceError: a", "faceflow.components.common.errors.DatasetError: b"],
            ("b", True),
        ),
        (["Traceback (most recent call last):", "  x", "ValueError: a", " b", "", "c"], ("ValueError: a b c", False)),
        (["working", "Killed"], ("it was killed, perhaps for want of memory", False)),
        (["nothing special"], ("", False)),
    ],
)
def test_the_error_in_a_stages_last_lines(lines, message):
    assert error_message(lines) == message


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_view_suits_the_output(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(view_for(Console(file=io.StringIO())), LineView)
    assert isinstance(view_for(Console(file=io.StringIO(), force_terminal=True)), TableView)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(view_for(Console(file=io.StringIO(), force_terminal=True)), LineView)


def test_lines_tell_each_change_once_and_now_and_then_that_a_stage_still_works():
    file = io.StringIO()
    view, each = LineView(Console(file=file, width=100)), board()
    view.begin(each)
    each.apply({"event": "started", "stage": "train", "thread": 1}, 0.0)
    view.update(each, 0.0)
    view.update(each, 1.0)
    each.apply({"event": "said", "stage": "train", "thread": 1, "line": "epoch 3 [of] 12"}, 2.0)
    view._told = 0.0
    view.update(each, 31.0)
    view.update(each, 32.0)
    assert [line[9:] for line in file.getvalue().splitlines()] == [
        "Train: running",
        "Train: running for 31 s: epoch 3 [of] 12",
    ]


def test_the_table_shows_every_stage_with_its_state():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, color_system=None)
    view, each = TableView(console), board()
    view.begin(each)
    each.apply({"event": "cached", "stage": "align", "outputs": {}}, 0.0)
    each.apply({"event": "cached", "stage": "align", "outputs": {}}, 0.0)
    each.apply({"event": "started", "stage": "train", "thread": 1}, 0.0)
    each.apply({"event": "said", "stage": "train", "thread": 1, "line": "epoch 1 " + "x" * 100}, 0.0)
    view.said(each.rows["train"], "[bold] epoch")
    view.update(each, 12.0)
    view.end(each, 12.0)
    last = file.getvalue().rpartition("Stage")[2]
    assert "Align source" in last and "cached 2/2" in last
    assert "running" in last and "12 s" in last and "epoch 1 x" in last and "…" in last
    assert "Train: [bold] epoch" in file.getvalue()
