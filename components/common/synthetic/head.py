"""Head and hair: ray cast at half the picture's size, coloured at full size."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from faceflow.components.common.synthetic import grid, noise
from faceflow.components.common.synthetic.arrays import Array, F, smoothstep
from faceflow.components.common.synthetic.hair import above_hairline, front_line, style_of
from faceflow.components.common.synthetic.paint import blend
from faceflow.components.common.synthetic.raycast import Ellipsoid, cast, edge_distance
from faceflow.components.common.synthetic.shading import cosines, highlight, lit
from faceflow.components.common.synthetic.shape import Shape
from faceflow.components.common.synthetic.shot import Shot

_FADE = 1.5
"""Half-size pixels outside an outline within which a pixel may still be touched."""
_RAGGED = 0.2
"""Head units below the hairline that single strands may reach."""
_ITERATIONS = 4
"""Fixed-point steps between a ray's hit and the relief found there; four leave less than a texel."""


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """The part of the canvas that the head can touch, and a ray through every second pixel of it.

    Attributes:
        region: (2 h, 2 w, 3) View of the canvas.
        origins: u, v, z of a point of each ray, each (h, w).
        towards: (3,) The rays' direction, towards the viewer.
    """

    region: Array
    origins: tuple[Array, Array, Array]
    towards: Array


def draw_head(canvas: Array, shot: Shot, shape: Shape, texture: Array) -> None:
    """Draw the head of a shot, and the hair on it, onto a canvas (H, W, 3), in place.

    Args:
        canvas: The picture, linear light.
        shot: The shot.
        shape: The head's shape.
        texture: (ROWS, COLUMNS, 3) albedo of its front.
    """
    frame = _frame(canvas, shot, shape)
    light = (shot.view.rotation.T @ shot.light.direction).astype(F)
    narrowness = _draw_skin(frame, shot, shape, texture, light)
    _draw_hair(frame, shot, shape, narrowness, light)


def _frame(canvas: Array, shot: Shot, shape: Shape) -> _Frame:
    rotation, scale, size = shot.view.rotation, shot.view.scale, len(canvas)
    spread = np.array([1.2, shape.half_height**2, shape.depth**2])
    bulk = _bulk(shot)
    reach = (1.06 + 0.9 * bulk) * scale * np.sqrt(rotation[:2] ** 2 @ spread)
    middle = shot.view.project(np.array([[0, shape.centre, 0]]))[0]
    x0, y0 = (int(k) for k in np.clip(np.floor(middle - reach), 0, size - 8))
    nx, ny = (int(k) for k in (np.clip(np.ceil(middle + reach), 8, size).astype(int) - (x0, y0)) // 2)
    x = ((np.arange(nx, dtype=F) * 2 + F(x0 + 0.5 - shot.view.centre[0])) / F(scale))[None]
    y = ((np.arange(ny, dtype=F) * 2 + F(y0 + 0.5 - shot.view.centre[1])) / F(scale))[:, None]
    u, v, z = (rotation[0, i] * x + rotation[1, i] * y for i in range(3))
    return _Frame(canvas[y0 : y0 + 2 * ny, x0 : x0 + 2 * nx], (u, v, z), rotation[2])


def _bulk(shot: Shot) -> float:
    """How far the hair stands out of the skull."""
    return max(0.02, shot.person.hair.bulk * style_of(shot).bulk)


def _look_up(maps: Array, x: Array, y: Array) -> Array:
    return cv2.remap(maps, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _draw_skin(frame: _Frame, shot: Shot, shape: Shape, texture: Array, light: Array) -> Array:
    """Draw the bare head; returns the narrowness (h, w) that the rays met, which the hair follows."""
    maps, found = cv2.merge([shape.relief, shape.narrowness]), np.array([0, 1 / shot.person.head.width**2], F)
    shortness, flatness = 1 / shape.half_height**2, 1 / shape.depth**2
    for _ in range(_ITERATIONS):
        body = Ellipsoid(found[..., 1], shape.centre, shortness, flatness)
        hit = cast(frame.origins, frame.towards, body, found[..., 0])
        column = (hit.u + F(grid.HALF_WIDTH)) * F(grid.TEXELS) - F(0.5)
        row = (hit.v + F(grid.HALF_HEIGHT)) * F(grid.TEXELS) - F(0.5)
        found = _look_up(maps, column, row)
    slopes = [
        cv2.Sobel(layer, cv2.CV_32F, 1 - k, k, scale=grid.TEXELS / 8)
        for layer, k in ((shape.relief, 0), (shape.relief, 1), (shape.narrowness, 1))
    ]
    reached = lit(shape, light, front_line(shot))
    relief_u, relief_v, narrowing, reached = cv2.split(_look_up(cv2.merge([*slopes, reached]), column, row))
    ahead = (hit.z - found[..., 0]) * F(flatness)
    frontal = ahead * smoothstep(hit.z, -0.1, 0.25)  # the relief belongs to the front and fades out at the sides
    normal = (
        hit.u * found[..., 1] - frontal * relief_u,
        (hit.v - F(shape.centre)) * F(shortness) + F(0.5) * hit.u * hit.u * narrowing - frontal * relief_v,
        ahead,
    )
    halfway = (light + frame.towards) / np.linalg.norm(light + frame.towards)
    to_light, to_halfway, to_viewer = cosines(normal, light, halfway, frame.towards)
    shades = [
        (F(0.65) + F(0.35) * np.clip(to_viewer, 0, 1)) * (F(0.5) + F(0.5) * reached),
        np.maximum(0, to_light / F(1.15) + F(0.13)) * reached,
        highlight(to_halfway, 5) * reached * F(shot.person.skin.gloss),
    ]
    edge = edge_distance(hit.margin)
    part, region = _part(edge > -_FADE, frame.region)
    where = _enlarged([column, row, edge], part)
    shade = _enlarged(shades, part)
    none = 0 * shot.light.key
    skin = _look_up(texture, where[..., 0], where[..., 1])
    skin *= cv2.transform(shade, np.column_stack([shot.light.ambient, shot.light.key, none]))
    skin += cv2.transform(shade, np.column_stack([none, none, shot.light.key]))
    blend(region, skin, _coverage(where[..., 2]))
    return found[..., 1]


def _draw_hair(frame: _Frame, shot: Shot, shape: Shape, narrowness: Array, light: Array) -> None:
    """Draw the hair: a larger ellipsoid, kept above the hairline."""
    bulk = _bulk(shot)
    body = Ellipsoid(
        narrowness / F((1 + 0.8 * bulk) ** 2),
        shape.centre - 0.4 * bulk,
        1 / (shape.half_height + 0.9 * bulk) ** 2,
        1 / (shape.depth * (1 + 0.5 * bulk)) ** 2,
    )
    hit = cast(frame.origins, frame.towards, body)
    normal = (hit.u * body.narrowness, (hit.v - F(body.centre)) * F(body.shortness), hit.z * F(body.flatness))
    halfway = (light + frame.towards) / np.linalg.norm(light + frame.towards)
    to_light, to_halfway = cosines(normal, light, halfway)
    edge, above = edge_distance(hit.margin), above_hairline(hit, shot)
    part, region = _part((edge > -_FADE) & (above > -_RAGGED), frame.region)
    if not region.size:
        return
    around = np.arctan2(hit.u, hit.z)
    where = _enlarged([around * 90 + 300, hit.v * 60 + 240, edge], part)
    shade = _enlarged([np.maximum(0, to_light), highlight(to_halfway, 3), above], part)
    streaks = _look_up(noise.tile("strands"), where[..., 0], where[..., 1]) * F(0.22)
    lit_strands = cv2.merge([1 + streaks, (1 + streaks) * shade[..., 0], (1 + 2 * streaks) * shade[..., 1]])
    ambient, key = (light * shot.person.hair_colour for light in (shot.light.ambient, shot.light.key))
    picture = cv2.transform(lit_strands, np.column_stack([ambient, key, np.full(3, 0.03, F)]))
    alpha = smoothstep(shade[..., 2] + F(0.14) * streaks, -0.03, 0.05) * _coverage(where[..., 2])
    blend(region, picture, alpha * F(style_of(shot).opacity))


def _part(shown: Array, region: Array) -> tuple[tuple[slice, slice], Array]:
    """The bounding box of what is shown (h, w), with a margin, and the view of the region (2 h, 2 w, 3) under it."""
    box = []
    for axis in (1, 0):
        where = np.flatnonzero(shown.any(axis))
        box.append(slice(max(0, int(where[0]) - 1), int(where[-1]) + 2) if len(where) else slice(0, 0))
    rows, columns = box
    return (rows, columns), region[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]


def _enlarged(maps: list[Array], part: tuple[slice, slice]) -> Array:
    """A part of half-size maps, as one picture of full size."""
    small = cv2.merge([np.ascontiguousarray(each[part], F) for each in maps])
    return cv2.resize(small, (2 * small.shape[1], 2 * small.shape[0]))


def _coverage(edge: Array) -> Array:
    """How much of each pixel is covered, from how far it lies inside the outline, in half-size pixels."""
    return np.clip(F(0.5) + 2 * edge, 0, 1)
