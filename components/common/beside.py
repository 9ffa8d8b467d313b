"""A thread beside a worker's own, where a core is free for it.

What a worker hands to it (hashing, writing, decoding) lets the worker go on meanwhile. Where there are as many workers
as cores, threads beside them gain nothing and cost the switching between them: then the work is done at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from faceflow.components.common.engine import LOCAL, EngineSettings


def is_core_free(settings: EngineSettings) -> bool:
    """Whether this machine has more cores than a stage has workers. Of workers elsewhere nothing is known: no."""
    return settings.runner == LOCAL and settings.workers < (os.cpu_count() or 1)


def beside(core_free: bool) -> Executor:
    """An executor of one thread or, where no core is free, one that works when it is asked."""
    return ThreadPoolExecutor(1, "beside") if core_free else _AtOnce()


class _AtOnce(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done
