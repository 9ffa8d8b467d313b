"""Bars: what a figure is to reach or to stay below."""

from __future__ import annotations

import operator
from collections.abc import Iterable

RELATIONS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}

Bar = tuple[str, float, str, float]
"""Name, measured value, relation (a key of :data:`RELATIONS`) and threshold."""


def report(bars: Iterable[Bar]) -> int:
    """Print one line a bar; returns the exit status, which is 0 if all are met."""
    met = True
    for name, value, relation, threshold in bars:
        ok = bool(RELATIONS[relation](value, threshold))
        met &= ok
        print(f"bar {name} {value:.4g} {relation} {threshold:g} {'ok' if ok else 'short'}")
    return 0 if met else 1
