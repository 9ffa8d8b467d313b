"""The five standard landmarks: whether they can be a face's, and how dlib's 68 points give them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

MIRRORED = "mirrored order"

# Of the distance between the middles of eyes and mouth. A frontal face has about 0.9 between its eyes and 0.7 between
# the corners of its mouth; in profile both come close to 0 and may fall below it, which is no mistake.
_MIRRORED = -0.3
# A face's box reaches this far to each side of the middle of its landmarks, in units of their root mean square
# distance from it.
_BOX_REACH = 1.8


def fault(landmarks: Points, width: int, height: int) -> str | None:
    """What is wrong with landmarks that a source gives; None if they can be a face's.

    Args:
        landmarks: (5, 2) image-left eye, image-right eye, nose tip, mouth left, mouth right, in pixels.
        width: Columns of the image.
        height: Rows of the image.
    """
    # Plain numbers: numpy would take longer over five points than OpenCV over the face.
    points = landmarks.tolist()
    xs, ys = [x for x, _ in points], [y for _, y in points]
    if not all(map(math.isfinite, xs + ys)):
        return "its landmarks are not finite numbers"
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    reach = math.sqrt(sum([(x - x_mean) ** 2 + (y - y_mean) ** 2 for x, y in points]) / len(points))
    least, most = min(xs + ys), max(xs + ys)
    if reach < 1e-3 * max(1.0, -least, most):
        return "its landmarks coincide"
    if not (0 <= x_mean < width and 0 <= y_mean < height):
        return f"its landmarks lie outside the image of {width}x{height} pixels"
    if least < -reach or max(xs) >= width + reach or max(ys) >= height + reach:
        return f"one of its landmarks lies far outside the image of {width}x{height} pixels"
    swapped = [name for name, against in zip(("eyes", "mouth corners"), _against(points), strict=True) if against]
    if swapped:
        return f"its {' and '.join(swapped)} are in {MIRRORED}: left must be the image's left"
    return None


def _against(points: Sequence[tuple[float, float]]) -> tuple[bool, bool]:
    """Whether the eyes, and whether the corners of the mouth, run clearly against the order of an upright face."""
    (lx, ly), (rx, ry), _, (mx, my), (nx, ny) = points
    down_x, down_y = (mx + nx - lx - rx) / 2, (my + ny - ly - ry) / 2
    limit = _MIRRORED * (down_x**2 + down_y**2)
    eyes = (rx - lx) * down_y - (ry - ly) * down_x
    mouth = (nx - mx) * down_y - (ny - my) * down_x
    return eyes < limit, mouth < limit


def box_around(landmarks: Points) -> Points:
    """About the box, (4,) left, top, right, bottom, that a detector gives the face of five landmarks."""
    middle = landmarks.mean(0)
    reach = _BOX_REACH * float(np.sqrt(((landmarks - middle) ** 2).sum(1).mean()))
    return np.concatenate([middle - reach, middle + reach])


def of_68(points: Points) -> Points:
    """The five landmarks of dlib's 68 points (the numbering of Sagonas et al., 300 Faces in-the-Wild, 2013).

    The eyes are the means of the six points round each, the nose is its tip.

    Args:
        points: (68, 2).

    Returns:
        (5, 2).
    """
    return np.stack([points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]])
