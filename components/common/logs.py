"""What a stage says while it works: its own lines, without the chatter of the libraries underneath."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
_LINE_SECONDS = 10.0
_BAR_SECONDS = 2.0


def setup_logging(verbose: bool = False) -> None:
    """Log to standard error: faceflow's lines from INFO on, the libraries' from WARNING on; all of them if verbose."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    logging.getLogger().setLevel(logging.INFO if verbose else logging.WARNING)
    logging.getLogger("faceflow").setLevel(logging.DEBUG if verbose else logging.INFO)


def is_verbose() -> bool:
    """Whether the libraries' lines are wanted too."""
    return logging.getLogger("faceflow").level == logging.DEBUG


@contextmanager
def holding_back_native_chatter() -> Iterator[None]:
    """Hold back what native code writes to standard error inside the block; if the block fails, it is shown after all.

    For importing TensorFlow: its start-up notices are written before its own log level can be set. Nothing is held back
    where the log is verbose.
    """
    if is_verbose():
        yield
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def import_beam() -> Any:
    """Import Beam, without its notices that Google Cloud clients are not installed: nothing here needs them."""

    def other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("apitools not found")

    logging.getLogger().addFilter(other)
    try:
        return importlib.import_module("apache_beam")
    finally:
        logging.getLogger().removeFilter(other)


@contextmanager
def watching(count: Callable[[], int], total: int, what: str, label: str) -> Iterator[None]:
    """Show how far work that others do is along, while the block waits for it; as :func:`progress` does.

    Args:
        count: Counts what is done; called every other second for a terminal, otherwise before each line.
        total: How many there are.
        what: What they are, in the plural.
        label: What is being done to them.
    """
    shown = sys.stderr.isatty()
    over = threading.Event()

    def watch() -> None:
        if shown:
            with tqdm(total=total, unit=f" {what}", desc=label, leave=False) as bar:
                while not over.wait(_BAR_SECONDS):
                    bar.update(count() - bar.n)
            return
        log, begin, before = logging.getLogger("faceflow.progress"), time.monotonic(), count()
        while not over.wait(_LINE_SECONDS):
            done, seconds = count(), time.monotonic() - begin
            left = f", {(total - done) * seconds / (done - before):,.0f} s left" if done > before else ""
            log.info("%s: %s of %s %s (%.0f%%)%s", label, f"{done:,}", f"{total:,}", what, 100 * done / total, left)

    watcher = threading.Thread(target=watch, name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def progress(items: Iterable[Item], total: int | None = None, what: str = "images", label: str = "") -> Iterator[Item]:
    """Yield items, showing how far along they are: a bar on a terminal, otherwise a log line every ten seconds.

    Args:
        items: What to go through.
        total: How many there are, if known.
        what: What they are, in the plural.
        label: What is being done to them.
    """
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, unit=f" {what}", desc=label or None, leave=False)
        return
    log = logging.getLogger("faceflow.progress")
    begin = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= _LINE_SECONDS and done > 1:  # the first item may have waited for what the others reuse
            rate = done / (now - begin)
            of = f" of {total:,} ({done / total:.0%}), {(total - done) / rate:,.0f} s left" if total else ""
            log.info("%s%s %s%s, %.3g/s", f"{label}: " if label else "", f"{done:,}", what, of, rate)
            last = now
    if time.monotonic() - begin >= _LINE_SECONDS:
        log.info("%s%s %s in %.0f s", f"{label}: " if label else "", f"{done:,}", what, time.monotonic() - begin)
