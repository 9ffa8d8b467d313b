"""The skin's texture before the features are painted: colour, freckles, wrinkles, beard.

The layers that an identity keeps are drawn once and cached; an image only mixes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from faceflow.components.common.synthetic import grid, noise
from faceflow.components.common.synthetic.arrays import Array, F, smoothstep
from faceflow.components.common.synthetic.identity import Identity, make_identity, wrinkles
from faceflow.components.common.synthetic.paint import blend, mirrored, ring, stroke
from faceflow.components.common.synthetic.shot import Shot

_WRINKLE_TINT = np.array([0.62, 0.72, 0.74], F)
"""How much of red, green and blue a full wrinkle takes away."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layers:
    """What an identity's skin always shows: albedo (ROWS, COLUMNS, 3), masks of wrinkles and beard (ROWS, COLUMNS)."""

    albedo: Array
    wrinkles: Array
    beard: Array


def skin_texture(shot: Shot) -> Array:
    """The albedo (ROWS, COLUMNS, 3) of a shot's skin, linear light; the caller may paint on it."""
    person = shot.person
    layers = _layers(person.seed)
    texture = layers.albedo.copy()
    depth = wrinkles(person, shot.age)
    if depth > 0.02:
        for channel, taken in enumerate(_WRINKLE_TINT):
            texture[..., channel] *= 1 - F(depth * taken) * layers.wrinkles
    if person.beard.density > 0:
        density = F(min(1.0, person.beard.density * shot.styling.beard))
        blend(texture, F(0.8) * person.hair_colour + F(0.06) * person.skin_colour, layers.beard * density)
    if shot.styling.makeup > 0:
        cheeks = [ring(0.62, 0.42, 0.2, 0.13, turn=-0.4)]
        grid.paint(texture, mirrored(cheeks[0]), shot.styling.lipstick, 9, 0.22 * shot.styling.makeup)
    return texture


@lru_cache(maxsize=8)
def _layers(seed: int) -> _Layers:
    identity, rng = make_identity(seed), np.random.default_rng([102, seed])
    return _Layers(_albedo(identity, rng), _wrinkles(identity, rng), _beard(identity, rng))


def _albedo(identity: Identity, rng: np.random.Generator) -> Array:
    skin = identity.skin
    rosy = [(skin.blush, side * 0.55, 0.5, 0.28, 0.25) for side in (-1.0, 1.0)] + [(0.12, 0.0, 0.55, 0.16, 0.15)]
    red = grid.bumps(rosy)[..., None] * np.array([0, 0.9, 0.8], F)
    uneven = noise.window("blotches", rng, grid.ROWS, grid.COLUMNS)
    grain = 1 + F(skin.blotches) * uneven + F(0.03) * noise.window("white", rng, grid.ROWS, grid.COLUMNS)
    albedo = identity.skin_colour * grain[..., None] * (1 - red)
    if skin.freckles > 0:
        where = smoothstep(grid.V, -0.5, 0.1)[:, None] * smoothstep(grid.V, 1.0, 0.6)[:, None]
        fine = cv2.GaussianBlur(noise.window("white", rng, grid.ROWS, grid.COLUMNS), (0, 0), 0.8)
        spots = smoothstep(fine, 0.35, 0.8) * where
        albedo = albedo * (1 - F(min(1.0, skin.freckles)) * spots[..., None] * np.array([0.22, 0.4, 0.5], F))
    clipped: Array = np.clip(albedo, 0.001, 1).astype(F)
    return clipped


def _wrinkles(identity: Identity, rng: np.random.Generator) -> Array:
    """Forehead and frown lines, crow's feet, bags under the eyes, folds beside nose and mouth, age spots."""
    mask = np.zeros((grid.ROWS, grid.COLUMNS), F)
    eyes, nose, mouth = identity.eyes, identity.nose, identity.mouth
    along = np.linspace(-1, 1, 17)
    for height in (-0.5, -0.62, -0.74, -0.85):
        reach, wave = rng.uniform(0.38, 0.6), rng.uniform(-0.03, 0.03)
        v = height + rng.uniform(-0.025, 0.025) + 0.05 * along**2 + wave * np.sin(3 * along)
        _line(mask, [reach * along + rng.uniform(-0.06, 0.06)], [v], 0.011 * (1 - along**4), rng.uniform(0.45, 0.8))
    frown = np.linspace(0, 1, 9)
    _line(mask, [0.075 + 0.02 * frown], [-0.4 + 0.22 * frown], 0, 0.5, half_u=0.010 * (1 - (2 * frown - 1) ** 2))
    outer = eyes.apart + eyes.width
    for angle in (-0.45, 0.0, 0.42, 0.8):
        length = rng.uniform(0.13, 0.22)
        u, v = outer + 0.05 + length * frown * np.cos(angle), length * frown * np.sin(angle) + 0.03 * frown**2
        _line(mask, [u], [v], 0.009 * (1 - frown), rng.uniform(0.4, 0.7))
    for drop, opacity in ((0.15, 0.5), (0.21, 0.4)):
        v = drop + 0.045 * (1 - along**2) - eyes.slant * along * eyes.width
        _line(mask, [eyes.apart + 1.05 * eyes.width * along], [v], 0.014 * (1 - along**2), opacity)
    side, corner = nose.width + 0.05, mouth.width + 0.1
    u = side + (corner - side) * frown**0.8 + 0.03 * np.sin(np.pi * frown)
    _line(mask, [u], [nose.v + 0.02 + (mouth.v - nose.v) * frown], 0.004, 0.85, half_u=0.016 * (1 - 0.7 * frown))
    _line(mask, [mouth.width + 0.04 + 0.05 * frown], [mouth.v + 0.05 + 0.3 * frown], 0, 0.6, half_u=0.013 * (1 - frown))
    spots = smoothstep(noise.window("blotches", rng, grid.ROWS, grid.COLUMNS), 1.7, 2.6)
    return np.maximum(mask, F(0.25) * spots)


def _line(
    mask: Array,
    u: list[Array],
    v: list[Array],
    half_v: Array | float,
    opacity: float,
    half_u: Array | float = 0.0,
) -> None:
    """Mark a wrinkle; one that does not cross the middle is marked on both sides."""
    line = stroke(u[0], v[0], half_u, half_v)
    grid.mark(mask, mirrored(line) if u[0].min() > 0 else [line], 0.9, opacity)


def _beard(identity: Identity, rng: np.random.Generator) -> Array:
    """Where the beard grows, at full density; zeros for an identity without one."""
    mask = np.zeros((grid.ROWS, grid.COLUMNS), F)
    nose, mouth, shape = identity.nose, identity.mouth, identity.beard.shape
    if shape == "none":
        return mask
    lip_top, under_nose = mouth.v - mouth.upper, nose.v + 0.2
    if shape in ("full", "stubble"):
        edge = np.array(
            [
                [0.0, mouth.v], [mouth.width + 0.02, mouth.v - 0.02], [mouth.width + 0.09, mouth.v - 0.1],
                [0.62, 0.74], [0.84, 0.42], [0.93, 0.05], [1.25, 0.05], [1.25, 1.85], [0.0, 1.85],
            ]
        )  # fmt: skip
        grid.mark(mask, mirrored(edge), 5)
    if shape == "goatee":
        edge = np.array([[0.0, mouth.v], [mouth.width + 0.1, mouth.v - 0.06], [0.38, 1.42], [0.26, 1.85], [0.0, 1.85]])
        grid.mark(mask, mirrored(edge), 4)
    reach = mouth.width + (0.1 if shape != "moustache" else 0.04)
    moustache = np.array([[0.0, under_nose], [0.17, under_nose + 0.01], [reach, mouth.v + 0.02], [0.0, lip_top + 0.05]])
    grid.mark(mask, mirrored(moustache), 2.5, 0.95)
    hairs = 1 + F(0.16) * noise.window("white", rng, grid.ROWS, grid.COLUMNS)
    hairs *= 1 + F(0.12) * noise.window("strands", rng, grid.ROWS, grid.COLUMNS)
    thickness: Array = np.clip(mask * hairs, 0, 1)
    return thickness
