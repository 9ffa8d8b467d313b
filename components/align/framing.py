"""From what a face gives to the transform that carries it onto a template, for every kind of template."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.geometry import Template, affine_transform, inverted, scale_of, similarity_transform

Points = NDArray[np.float64]


def onto(
    template: Template,
    *,
    landmarks: Points | None,
    parts: Points | None = None,
    box: Points | None = None,
    width: int,
    height: int,
) -> NDArray[np.float64]:
    """The transform that carries a face onto a template.

    Args:
        template: The template; its ``framing`` says which of the next three is needed.
        landmarks: (5, 2) the standard landmarks, pixels.
        parts: dlib's own points, (5, 2) or (68, 2), pixels.
        box: (4,) left, top, right, bottom, pixels.
        width: Columns of the image.
        height: Rows of the image.

    Returns:
        (2, 3) from the image's pixels to the template's.

    Raises:
        ValueError: The face cannot be framed: points coincide or lie on one line, the box has no area inside the image,
            or what the template needs is not given.
    """
    needed = {"landmarks": landmarks, "dlib_chip": parts, "three_points": parts, "box": box}[template.framing]
    if needed is None:
        raise ValueError(f"template {template.name} needs what the face does not give ({template.framing})")
    if template.framing == "landmarks":
        return similarity_transform(needed, template.points)
    if template.framing == "dlib_chip":
        return _dlib_chip(template, needed)
    if template.framing == "three_points":
        return affine_transform(needed[list(template.parts)], template.points)
    return _box(template, needed, width, height)


def span(matrix: NDArray[np.float64], template: Template) -> float:
    """Pixels of the original across the aligned image; the geometric mean of both ways where they differ."""
    return template.width / scale_of(matrix)


def frame(matrix: NDArray[np.float64], template: Template) -> Points:
    """The (4, 2) corners of the aligned image in the original, clockwise from the upper left."""
    right, bottom = template.width - 0.5, template.height - 0.5
    corners = np.array([[-0.5, -0.5], [right, -0.5], [right, bottom], [-0.5, bottom]])
    back = inverted(matrix)
    return np.asarray(corners @ back[:, :2].T + back[:, 2], np.float64)


def _dlib_chip(template: Template, parts: Points) -> NDArray[np.float64]:
    """The transform of ``dlib.get_face_chip``.

    dlib fits in the other direction, from the template to the image, which gives another scale where the points are not
    quite the template's. It then lets the centres of the outermost pixels of the aligned image lie half a pixel of the
    original inside the rectangle that it found.
    """
    way = similarity_transform(template.points, parts)
    scale = scale_of(way)
    linear = way[:, :2] * (template.width * scale - 1) / ((template.width - 1) * scale)
    centre = np.array([template.width - 1, template.height - 1]) / 2
    shift = way[:, :2] @ centre + way[:, 2] - linear @ centre
    return inverted(np.column_stack([linear, shift]))


def _box(template: Template, box: Points, width: int, height: int) -> NDArray[np.float64]:
    """The box, its margin added and the image's edge kept, cut to whole pixels and stretched onto the template."""
    if not np.isfinite(box).all():
        raise ValueError("the box has coordinates that are not finite numbers")
    least = np.trunc(np.maximum(box[:2] - template.margin_px, 0))
    most = np.trunc(np.minimum(box[2:] + template.margin_px, [width, height]))
    if (most <= least).any():
        raise ValueError(f"the box lies outside the image of {width}x{height} pixels")
    scale = np.array([template.width, template.height]) / (most - least)
    # The edges of pixels are carried onto the edges of pixels; coordinates are those of centres.
    return np.column_stack([np.diag(scale), (0.5 - least) * scale - 0.5])
