"""What is behind and before the head: background, neck, clothes, ears, glasses, and things held before the face."""

from __future__ import annotations

import cv2
import numpy as np

from faceflow.components.common.synthetic import noise
from faceflow.components.common.synthetic.arrays import Array, F
from faceflow.components.common.synthetic.paint import fill, mirrored, ring, stroke
from faceflow.components.common.synthetic.shot import Shot

_FRAME_COLOURS = ((0.02, 0.02, 0.02), (0.02, 0.02, 0.02), (0.10, 0.04, 0.02), (0.30, 0.28, 0.25))


def background(rng: np.random.Generator, size: int) -> Array:
    """A defocused, textured background (size, size, 3), linear light; drawn at a third of the size."""
    small, cells = size // 3, int(rng.integers(2, 6))
    tint = rng.uniform(0.03, 0.6) * rng.uniform(0.6, 1.2, 3)
    patches = tint * rng.uniform(0.5, 1.5, (cells, cells, 1)) + rng.normal(0, 0.04, (cells, cells, 3))
    picture = cv2.resize(np.clip(patches, 0.005, 1).astype(F), (small, small), interpolation=cv2.INTER_CUBIC)
    for _ in range(int(rng.integers(0, 9))):
        colour = (tint * rng.uniform(0.3, 2.0) + rng.normal(0, 0.05, 3)).clip(0.005, 0.95)
        (x, y), (wide, high) = rng.uniform(0, small, 2), rng.uniform(0.04 * small, 0.7 * small, 2)
        thing = ring(x, y, wide, high, 4, turn=rng.uniform(0, np.pi))
        fill(picture, [thing], colour, 0, rng.uniform(0.3, 1))
    picture = cv2.GaussianBlur(picture, (0, 0), small / 125 * rng.uniform(1.0, 5.0))
    mottled: Array = picture * cv2.merge(
        [1 + F(rng.uniform(0, 0.12)) * noise.window("blotches", rng, small, small)] * 3
    )
    return cv2.resize(np.clip(mottled, 0.002, 1), (size, size))


def draw_body(canvas: Array, shot: Shot, rng: np.random.Generator) -> None:
    """Draw neck, clothes and ears onto a canvas (H, W, 3), in place, before the head covers them."""
    view, light, skin = shot.view, shot.light, shot.person.skin_colour
    pixel, male = view.scale / 50, shot.person.gender == "male"
    base = view.centre + np.array([1.4 * view.rotation[0, 1], 2.15]) * view.scale
    columns = np.arange(len(canvas), dtype=F)
    side = np.clip((columns - F(base[0])) / F(1.3 * view.scale), -0.9, 0.9)
    facing = side * light.direction[0] + np.sqrt(1 - side**2) * light.direction[2]
    glow = light.ambient + F(0.75) * light.key * np.maximum(0, facing)[:, None]
    throat, root = (0.64, 0.74) if male else (0.53, 0.6)
    neck = np.array([[-throat, 0.75], [-root, 2.7], [root, 2.7], [throat, 0.75]])
    fill(canvas, [view.project_flat(neck, -0.35)], F(0.85) * skin * glow, pixel)
    shadow = ring(0, shot.person.head.chin - 0.05, throat + 0.04, 0.3)
    fill(canvas, [view.project_flat(shadow, 0.1)], F(0.3) * skin * light.ambient, 5 * pixel, 0.75)
    cloth = (rng.uniform(0.01, 0.7) * rng.uniform(0.5, 1.3, 3)).clip(0, 0.9).astype(F)
    dip, broad = rng.uniform(0.0, 0.5), 1.06 if male else 0.92
    half = np.array([[0, 0.05 + dip], [0.35, -0.05 + 0.5 * dip], [0.75, -0.17], [1.7, 0.15], [2.3, 0.6], [2.6, 1.85]])
    half *= (broad, 1)
    fill(canvas, [np.vstack([half, half[::-1] * (-1, 1)]) * view.scale + base], cloth * glow, 1.2 * pixel)
    ear = np.column_stack([ring(0.98 * shot.person.head.width, 0.14, 0.11, 0.27), ring(0, -0.12, 1, -0.12)[::-1, 1]])
    shade = skin * (F(0.75) * light.ambient + F(0.35) * light.key)
    fill(canvas, [view.project(ear), view.project(ear * (-1, 1, 1))], shade, 0.9 * pixel)


def draw_glasses(canvas: Array, shot: Shot, rng: np.random.Generator) -> None:
    """Draw the frame of a pair of glasses before the face, in place."""
    view, eyes, depth = shot.view, shot.person.eyes, shot.person.head.depth
    squareness, thickness = rng.uniform(0.55, 0.95), rng.uniform(0.011, 0.02)
    rims = [
        ring(eyes.apart, 0.03, 0.31 + k, 0.21 + k, 24, squareness) for k in (-thickness, thickness)
    ]  # even-odd: the inner ring cuts the hole
    bridge = stroke(np.array([0.326 - eyes.apart, eyes.apart - 0.326]), np.full(2, -0.02), 0, 0.016)
    shapes = [bridge, *mirrored(rims[0]), *mirrored(rims[1])]
    colour = _FRAME_COLOURS[int(rng.integers(len(_FRAME_COLOURS)))]
    fill(canvas, [view.project_flat(shape, depth + 0.08) for shape in shapes], colour, 0.01 * view.scale, 0.9)


def draw_obstacle(canvas: Array, shot: Shot, rng: np.random.Generator) -> None:
    """Draw something plain and out of focus over the lower or outer part of the face, in place."""
    view, light = shot.view, shot.light
    way, turn = rng.uniform(0, np.pi, 2)
    x, y = 1.15 * np.cos(way), 0.5 + 1.2 * np.sin(way)
    wide, high = rng.uniform(0.2, 0.55, 2)
    patch = ring(x, y, wide, high, 24, 0.6, turn) * view.scale + view.centre
    colour = rng.uniform(0.02, 0.6, 3) * (light.ambient + F(0.5) * light.key)
    fill(canvas, [patch], colour, 0.04 * view.scale)
