import functools
import logging
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faceflow.components.common import logs
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import ArchiveError, EngineError


def leave_a_file(directory: Path, element: int) -> None:
    (directory / str(element)).write_text(str(os.getpid()))


def fail(element: int) -> None:
    if element == 2:
        raise ArchiveError('member "a\\b" of \'x.tar\' broke at byte 3: {fetch} it again')


def crash(element: int) -> None:
    raise ZeroDivisionError(element)


def kill_one(directory: Path, element: int) -> None:
    """Once two workers are at work, one of them kills itself."""
    (directory / f"pid-{os.getpid()}").touch()
    time.sleep(0.05)
    if len(list(directory.glob("pid-*"))) == 2 and not (directory / "killed").exists():
        (directory / "pid").write_text(str(os.getpid()))
        (directory / "killed").write_text(str(time.monotonic()))
        os.kill(os.getpid(), signal.SIGKILL)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def take_a_while(seconds: float, element: int) -> None:
    time.sleep(seconds)


def interrupt(element: int) -> None:
    signal.raise_signal(signal.SIGINT)


def leave(element: int) -> None:
    sys.exit(143)


def test_every_element_is_seen_in_this_process(tmp_path):
    Engine().map(functools.partial(leave_a_file, tmp_path), range(5), "leave")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {str(i): str(os.getpid()) for i in range(5)}


def test_two_workers_are_two_other_processes(tmp_path):
    Engine(workers=2).map(functools.partial(leave_a_file, tmp_path), range(40), "leave")
    pids = {path.read_text() for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 40
    assert len(pids) == 2 and str(os.getpid()) not in pids


@pytest.mark.parametrize("workers", [1, 2])
def test_a_typed_error_keeps_its_type_and_message(workers):
    with pytest.raises(ArchiveError) as caught:
        Engine(workers=workers).map(fail, range(4), "fail")
    assert str(caught.value) == 'member "a\\b" of \'x.tar\' broke at byte 3: {fetch} it again'


def test_a_killed_worker_ends_the_step_at_once_without_a_word_of_beam_and_the_others_end_too(tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    begin = time.monotonic()
    with pytest.raises(EngineError, match=r"process of step 'kill' was lost \(exit status -9\).*fewer 'workers'"):
        Engine(workers=2).map(functools.partial(kill_one, tmp_path), range(200), "kill")
    killed_at = float((tmp_path / "killed").read_text())
    assert time.monotonic() - max(begin, killed_at) < 15
    assert {record.name for record in caplog.records} <= {"faceflow.progress"} and capfd.readouterr().err == ""
    (other,) = {path.name for path in tmp_path.glob("pid-*")} - {f"pid-{(tmp_path / 'pid').read_text()}"}
    deadline = time.monotonic() + 10
    while is_alive(int(other.removeprefix("pid-"))):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_progress_is_told_while_others_work(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logs, "_LINE_SECONDS", 0.05)
    with caplog.at_level(logging.INFO, "faceflow"):
        Engine().map(functools.partial(take_a_while, 0.05), range(8), "wait")
    lines = [record.getMessage() for record in caplog.records if record.name == "faceflow.progress"]
    assert any(re.fullmatch(r"wait: [1-7] of 8 shards \(\d+%\), [\d,]+ s left", line) for line in lines)


def test_a_defect_is_not_dressed_up():
    with pytest.raises(Exception, match="ZeroDivisionError"):
        Engine().map(crash, [1], "crash")


def test_an_interruption_stays_one():
    with pytest.raises(KeyboardInterrupt):
        Engine().map(interrupt, [1], "interrupt")
    with pytest.raises(SystemExit) as caught:
        Engine().map(leave, [1], "leave")
    assert caught.value.code == 143


def test_nothing_to_do_is_nothing_done():
    Engine(runner="NoSuchRunner").map(crash, [], "crash")


def test_beam_is_imported_without_a_word():
    code = (
        "import logging, sys; logging.basicConfig(level=logging.INFO)\n"
        "sys.modules['apitools'] = sys.modules['google.cloud.bigquery_storage_v1'] = None\n"
        "from faceflow.components.common.engine import Engine\n"
        "Engine().map(len, ['a'], 'measure')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [line for line in ran.stderr.splitlines() if "faceflow.progress" not in line]
    assert (ran.stdout, said) == ("", [])
