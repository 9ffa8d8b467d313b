"""Non-maximum suppression of many groups of boxes at once.

As in the ``mtcnn`` package, and unlike the greedy kind, a box goes if any better one of its group overlaps it too much,
whether or not that one stays itself. So all decisions are independent, and groups of similar size are decided together
as one padded array.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_PAIRS_AT_ONCE = 1 << 19


def suppress(
    boxes: NDArray[np.float64],
    scores: NDArray[np.floating],
    groups: NDArray[np.int64],
    most: float,
    *,
    of_smaller: bool = False,
) -> NDArray[np.intp]:
    """The boxes that no better box of their group overlaps by more than allowed.

    Args:
        boxes: (N, 4) left, top, right, bottom.
        scores: (N,); of two equal ones, the box that comes first is the better.
        groups: (N,) boxes of different groups do not affect each other.
        most: Largest overlap allowed: intersection over union, or over the smaller box's area.
        of_smaller: Whether the overlap is over the smaller area.

    Returns:
        Places of the boxes that stay, ordered by group, in a group from the best to the worst.
    """
    order = np.lexsort((-scores, groups))
    if len(order) < 2:
        return order
    ordered = groups[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    counts = np.diff(np.append(starts, len(order)))
    stays = np.ones(len(order), bool)
    sorted_boxes = boxes[order]
    sizes = 1 << np.ceil(np.log2(counts)).astype(np.int64)
    for size in np.unique(sizes[counts > 1]):
        alike = np.flatnonzero((sizes == size) & (counts > 1))
        step = max(1, _PAIRS_AT_ONCE // int(size * size))
        for begin in range(0, len(alike), step):
            some = alike[begin : begin + step]
            places = starts[some, np.newaxis] + np.arange(size)
            real = np.arange(size) < counts[some, np.newaxis]
            # A padding box lies nowhere: the comparisons with its NaN are all false.
            padded = np.where(real[..., np.newaxis], sorted_boxes[np.where(real, places, 0)], np.nan)
            stays[places[real]] = ~_beaten(padded, most, of_smaller)[real]
    return order[stays]


def _beaten(boxes: NDArray[np.float64], most: float, of_smaller: bool) -> NDArray[np.bool_]:
    """(G, M): whether a box of (G, M, 4) overlaps one that comes before it in its group too much."""
    groups, size, _ = boxes.shape
    areas = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    beaten = np.zeros((groups, size), bool)
    step = max(1, min(size, _PAIRS_AT_ONCE // (groups * size)))
    for begin in range(0, size, step):
        end = min(size, begin + step)
        better, other = boxes[:, :end, np.newaxis], boxes[:, np.newaxis, begin:end]
        width = np.minimum(better[..., 2], other[..., 2]) - np.maximum(better[..., 0], other[..., 0])
        height = np.minimum(better[..., 3], other[..., 3]) - np.maximum(better[..., 1], other[..., 1])
        inside = np.maximum(width, 0) * np.maximum(height, 0)
        first, second = areas[:, :end, np.newaxis], areas[:, np.newaxis, begin:end]
        allowed = most * (np.minimum(first, second) if of_smaller else first + second - inside)
        comes_before = np.arange(end)[:, np.newaxis] < np.arange(begin, end)
        beaten[:, begin:end] = ((inside > allowed) & comes_before).any(1)
    return beaten
