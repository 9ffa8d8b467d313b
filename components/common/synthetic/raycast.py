"""Ray casting of ellipsoids and the antialiasing of their outlines."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from faceflow.components.common.synthetic.arrays import Array, F


class Hit(NamedTuple):
    """Where rays meet an ellipsoid: all (H, W).

    Attributes:
        margin: Positive inside the outline, zero on it.
        u: The nearer point, in the head's frame.
        v: Likewise.
        z: Likewise.
    """

    margin: Array
    u: Array
    v: Array
    z: Array


class Ellipsoid(NamedTuple):
    """An ellipsoid about (0, centre, 0), its axes along the head's.

    Attributes:
        narrowness: 1 / (half width)^2, (H, W): the width may differ from ray to ray.
        centre: v of the centre.
        shortness: 1 / (half height)^2.
        flatness: 1 / (half depth)^2.
    """

    narrowness: Array
    centre: float
    shortness: float
    flatness: float


def cast(origins: tuple[Array, Array, Array], direction: Array, body: Ellipsoid, relief: Array | float = 0.0) -> Hit:
    """Meet the rays origin + t * direction with an ellipsoid.

    Args:
        origins: u, v, z of a point of each ray, each (H, W).
        direction: (3,) Shared by all rays, towards the viewer.
        body: The ellipsoid.
        relief: How far the surface is moved along z, (H, W).
    """
    u, v, z = origins[0], origins[1] - F(body.centre), origins[2] - relief
    du, dv, dz = (float(k) for k in direction)
    high, deep = body.shortness, body.flatness
    a = F(du * du) * body.narrowness + F(dv * dv * high + dz * dz * deep)
    b = (F(du) * u) * body.narrowness + v * F(dv * high) + z * F(dz * deep)
    margin = b * b / a - (u * u * body.narrowness + v * v * F(high) + z * z * F(deep) - 1)
    t = (np.sqrt(np.maximum(margin * a, 0)) - b) / a
    return Hit(margin, *(origin + t * F(k) for origin, k in zip(origins, (du, dv, dz), strict=True)))


def edge_distance(margin: Array) -> Array:
    """How far, in about pixels of the map (H, W), each lies inside (positive) the line where margin is zero."""
    slope_x, slope_y = (cv2.Sobel(margin, cv2.CV_32F, 1 - k, k, scale=0.125) for k in (0, 1))
    distance: Array = margin / (F(1.4) * cv2.magnitude(slope_x, slope_y) + F(1e-6))
    return distance
