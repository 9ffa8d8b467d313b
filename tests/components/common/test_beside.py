import os
import threading
from dataclasses import dataclass

import pytest

from faceflow.components.common.beside import beside, is_core_free


@dataclass
class Settings:
    runner: str = "FnApiRunner"
    runner_options: tuple[str, ...] = ()
    workers: int = 1
    work_uri: str = ""


@pytest.mark.parametrize(
    "cores, workers, runner, free",
    [(2, 1, "FnApiRunner", True), (2, 2, "FnApiRunner", False), (1, 1, "FnApiRunner", False),
     (8, 7, "FnApiRunner", True), (8, 1, "PortableRunner", False), (None, 1, "FnApiRunner", False)],
)  # fmt: skip
def test_a_core_is_free_where_there_are_more_than_workers(monkeypatch, cores, workers, runner, free):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert is_core_free(Settings(runner, workers=workers)) == free


def where():
    return threading.current_thread()


@pytest.mark.parametrize("core_free", [True, False])
def test_the_work_is_done_beside_or_at_once(core_free):
    with beside(core_free) as executor:
        assert (executor.submit(where).result() is threading.current_thread()) != core_free
        assert list(executor.map(divmod, (7, 9), (4, 4))) == [(1, 3), (2, 1)]
        failed = executor.submit(divmod, 1, 0)
        with pytest.raises(ZeroDivisionError):
            failed.result()
