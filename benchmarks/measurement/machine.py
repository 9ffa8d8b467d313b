"""What a measurement ran on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

_CPU = Path("/proc/cpuinfo")  # Linux only


def machine(*also: str) -> str:
    """What this runs on, in one line.

    Args:
        also: What else matters to the measurement, such as :func:`libraries` or the version of a program.
    """
    lines = _CPU.read_text().splitlines() if _CPU.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return ", ".join((model, f"{os.cpu_count()} cores", f"Python {platform.python_version()}", *also))


def libraries(*names: str) -> str:
    """Installed distributions with their versions."""
    return ", ".join(f"{name} {version(name)}" for name in names)
