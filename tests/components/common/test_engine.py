import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import ArchiveError


def leave_a_file(directory: Path, element: int) -> None:
    (directory / str(element)).write_text(str(os.getpid()))


def fail(element: int) -> None:
    if element == 2:
        raise ArchiveError('member "a\\b" of \'x.tar\' broke at byte 3: {fetch} it again')


def crash(element: int) -> None:
    raise ZeroDivisionError(element)


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
    assert (ran.stdout, ran.stderr) == ("", "")
