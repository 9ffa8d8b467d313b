"""Eyes, brows, nostrils and mouth, painted into the skin's texture with the shot's expression.

Shapes are given for the right half of the face (u > 0) and mirrored. What detection hangs on is here: without painted
features MTCNN finds two faces in three, and without a mouth the landmark error doubles.
"""

from __future__ import annotations

import numpy as np

from faceflow.components.common.synthetic.arrays import Array, F
from faceflow.components.common.synthetic.grid import paint
from faceflow.components.common.synthetic.identity import wrinkles
from faceflow.components.common.synthetic.paint import mirrored, ring, stroke
from faceflow.components.common.synthetic.shot import Shot

_WHITE_OF_EYE = (0.58, 0.54, 0.52)
_PUPIL = (0.004, 0.004, 0.004)
_GLINT = (0.95, 0.95, 0.95)
_INSIDE_MOUTH = (0.03, 0.008, 0.008)
_TEETH = (0.55, 0.52, 0.46)


def paint_features(texture: Array, shot: Shot) -> None:
    """Paint the features of a shot into a texture (ROWS, COLUMNS, 3), in place."""
    _paint_eyes(texture, shot)
    _paint_brows(texture, shot)
    _paint_nose(texture, shot)
    _paint_mouth(texture, shot)


def _paint_eyes(texture: Array, shot: Shot) -> None:
    person, eyes, skin = shot.person, shot.person.eyes, shot.person.skin_colour
    makeup, worn = shot.styling.makeup, wrinkles(shot.person, shot.age)
    across = np.linspace(-1, 1, 17)
    arch = 1 - across**2
    height = eyes.height * shot.expression.eye_opening
    u = eyes.apart + eyes.width * across
    slant = -eyes.slant * across * eyes.width
    upper = slant - 1.05 * height * (1 - np.abs(across + 0.12) ** 2.3).clip(0) ** 0.8
    lower = slant + 0.95 * height * arch
    hollow = skin * np.array([0.62, 0.55, 0.55], F) * (1 - F(0.25 * makeup))
    paint(texture, mirrored(ring(eyes.apart * 0.97, -0.01, eyes.width * 1.25, 0.16)), hollow, 6, 0.5 + 0.12 * worn)
    paint(texture, mirrored(stroke(u, (upper + lower) / 2, 0, (lower - upper) / 2)), _WHITE_OF_EYE)
    iris = person.iris_colour
    for radius, colour, opacity in ((0.088, iris * F(0.4), 1.0), (0.075, iris, 0.9), (0.037, np.array(_PUPIL, F), 1.0)):
        disc = ring(eyes.apart, 0.012 * shot.expression.gaze - 0.004, radius, radius, 20)
        disc[:, 1] = np.clip(disc[:, 1], np.interp(disc[:, 0], u, upper), np.interp(disc[:, 0], u, lower))
        paint(texture, mirrored(disc), colour, 0.6, opacity)
    paint(texture, mirrored(ring(eyes.apart + 0.02, -0.4 * height, 0.017, 0.017, 8)), _GLINT, 0.5, 0.9)
    lashes = eyes.lashes + 0.6 * makeup
    paint(
        texture,
        mirrored(stroke(u, upper - 0.006, 0, (0.008 + 0.006 * lashes) + 0.010 * arch)),
        skin * F(0.14) * (1 - F(0.5 * makeup)) + person.brow_colour * F(0.2),
        0.8,
        min(1.0, 0.8 + 0.15 * lashes),
    )
    paint(
        texture,
        mirrored(stroke(u, lower + 0.004, 0, 0.008 + 0.004 * lashes)),
        skin * np.array([0.42, 0.32, 0.32], F),
        0.9,
        0.5 + 0.2 * lashes,
    )
    crease = stroke(u, upper - 0.035 - 0.03 * arch, 0, 0.010 + 0.004 * worn)
    paint(texture, mirrored(crease), skin * np.array([0.4, 0.32, 0.32], F), 1.2, min(1.0, eyes.crease + 0.25 * worn))


def _paint_brows(texture: Array, shot: Shot) -> None:
    brows = shot.person.brows
    along = np.linspace(0, 1, 13)
    v = brows.v - shot.expression.brow_lift - brows.arch * np.sin(np.pi * along**1.4) + 0.07 * along**3
    taper = brows.thickness * np.minimum(1, (0.55 + 2.2 * along) * (1.06 - along) ** 0.6)
    line = stroke(brows.inner + (brows.outer - brows.inner) * along, v - brows.tilt * (along - 0.5), 0, taper)
    paint(texture, mirrored(line), shot.person.brow_colour, 1.4, min(1.0, brows.strength))


def _paint_nose(texture: Array, shot: Shot) -> None:
    nose, skin = shot.person.nose, shot.person.skin_colour
    nostril = ring(nose.width * 0.58, nose.v + 0.115, nose.width * 0.33, 0.030)
    paint(texture, mirrored(nostril), skin * np.array([0.10, 0.06, 0.06], F), 1.3, 0.85)


def _paint_mouth(texture: Array, shot: Shot) -> None:
    person, mouth, styling = shot.person, shot.person.mouth, shot.styling
    skin, gap_height, smile = person.skin_colour, shot.expression.mouth_open, max(0.0, shot.expression.smile)
    tint = F(0.75 * styling.makeup)
    lip = (1 - tint) * person.lip_colour + tint * styling.lipstick
    across = np.linspace(-1, 1, 17)
    arch = 1 - across**2
    reach, corner = shot.lip_corner
    u, gap = reach * across, gap_height * arch**0.6
    middle = mouth.v + 0.02 + (corner - mouth.v - 0.02) * across**2
    bow = 1 - 0.2 * np.exp(-((across / 0.16) ** 2))
    top = middle - mouth.upper * arch**0.75 * bow * (1 - 0.25 * smile)
    bottom = middle + gap + mouth.lower * arch**0.7
    layers = [
        (top, middle + 0.3 * gap, lip * F(0.8), 0.95, 1.0),
        (middle + 0.7 * gap, bottom, lip * F(1.05), 0.95, 1.0),
    ]
    if gap_height > 0.01:
        teeth = middle + np.minimum(gap * 0.62, 0.07)
        layers += [(middle, middle + gap, np.array(_INSIDE_MOUTH, F), 1.0, 1.0)]
        layers += [(middle + 0.1 * gap, teeth, np.array(_TEETH, F), 0.9, 0.85)]
    for upper, lower, colour, opacity, squeeze in layers:
        paint(texture, [stroke(squeeze * u, (upper + lower) / 2, 0, (lower - upper) / 2)], colour, 1.0, opacity)
    below = [ring(0, float(bottom[8]) + 0.05, reach * 0.5, 0.03)]
    paint(texture, below, skin * np.array([0.6, 0.5, 0.5], F), 2.5, 0.45)
    seam = [stroke(u, middle, 0, 0.010 + 0.006 * across**2)]
    paint(texture, seam, lip * np.array([0.16, 0.10, 0.10], F), 0.9, 0.85)
    ends = mirrored(ring(reach, float(middle[0]), 0.024, 0.02, 12))
    paint(texture, ends, skin * np.array([0.25, 0.16, 0.16], F), 1.2, 0.6)
    _paint_smile_lines(texture, shot, smile)


def _paint_smile_lines(texture: Array, shot: Shot, smile: float) -> None:
    """The folds from the nose's wings past the mouth, which every broad smile shows at any age."""
    if smile < 0.3:
        return
    down = np.linspace(0, 1, 9)
    start, (reach, corner) = shot.person.nose.width + 0.06, shot.lip_corner
    u = start + (reach + 0.1 - start) * down**0.8 + 0.05 * np.sin(np.pi * down)
    v = shot.person.nose.v + 0.06 + (corner - shot.person.nose.v - 0.04) * down
    line = stroke(u, v, 0.012 * np.sin(np.pi * down), 0.004)
    paint(texture, mirrored(line), shot.person.skin_colour * np.array([0.5, 0.4, 0.4], F), 1.8, 0.5 * (smile - 0.15))
