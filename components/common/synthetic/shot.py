"""Shots: what one image fixes beside the identity - the day's age, expression and styling, the light and the view."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faceflow.components.common.synthetic.arrays import Array, F
from faceflow.components.common.synthetic.identity import OLDEST, STYLE_ODDS, YOUNGEST, Identity, aged

FACE_SCALE = 0.2
"""Head units to sides of the picture, on average: framed as loosely as the LFW photographs."""

_LIPSTICK = (np.array([[168, 44, 52], [150, 52, 72], [190, 84, 84], [176, 98, 88], [120, 34, 44.0]]) / 255) ** 2


@dataclass(frozen=True, slots=True)
class Expression:
    """The face's expression.

    Attributes:
        smile: -0.3 (sullen) to 1 (broad).
        mouth_open: Gap between the lips, in head units.
        brow_lift: How far the brows are raised, in head units.
        eye_opening: Height of the eyes relative to the identity's.
        gaze: Where the eyes look: -1 up to 1 down.
    """

    smile: float
    mouth_open: float
    brow_lift: float
    eye_opening: float
    gaze: float


@dataclass(frozen=True, slots=True, eq=False)
class Styling:
    """What a person can change from one day to the next.

    Attributes:
        hair: Name of the hair style, see :mod:`.hair`.
        line_shift: How much lower the hairline lies than usual, in head units.
        beard: Density of the beard that day relative to the identity's.
        glasses: Whether glasses are worn.
        makeup: 0 (none) to 1 (strong).
        lipstick: (3,) RGB, linear light.
    """

    hair: str
    line_shift: float
    beard: float
    glasses: bool
    makeup: float
    lipstick: Array


@dataclass(frozen=True, slots=True, eq=False)
class Light:
    """One distant lamp and what comes from all sides.

    Attributes:
        direction: (3,) Towards the lamp, in the camera's frame (x right, y down, z to the viewer).
        key: (3,) RGB of the lamp.
        ambient: (3,) RGB from all sides.
    """

    direction: Array
    key: Array
    ambient: Array


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A parallel projection of the head.

    Attributes:
        rotation: (3, 3) From the head's frame to the camera's.
        scale: Pixels per head unit.
        centre: (2,) Pixel that the head's origin falls on.
    """

    rotation: Array
    scale: float
    centre: Array

    def project(self, points: Array) -> Array:
        """Head frame (N, 3) to pixels (N, 2)."""
        return (points @ self.rotation.T)[:, :2] * self.scale + self.centre

    def project_flat(self, points: Array, z: float) -> Array:
        """Points (N, 2) u, v at one depth z to pixels (N, 2)."""
        return self.project(np.column_stack([points, np.full(len(points), z)]))


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One image's scene.

    Attributes:
        person: The identity at the age it has in the image, chin lowered by the open mouth.
        age: Whole years.
        expression: The expression.
        styling: The styling.
        light: The light.
        view: The view.
        angles: Yaw, pitch and roll, in degrees.
        hidden: Whether something hides a part of the face.
        lip_corner: (2,) u, v of the right mouth corner.
    """

    person: Identity
    age: int
    expression: Expression
    styling: Styling
    light: Light
    view: View
    angles: tuple[float, float, float]
    hidden: bool
    lip_corner: tuple[float, float]

    @property
    def chin(self) -> float:
        """Height of the chin's tip: an open mouth lowers it."""
        return self.person.head.chin + 0.5 * self.expression.mouth_open


def take_shot(identity: Identity, rng: np.random.Generator, size: int) -> Shot:
    """Draw the scene of one image of size x size pixels."""

    def draw(mean: float, spread: float, low: float, high: float) -> float:
        return min(max(float(rng.normal(mean, spread)), low), high)

    age = round(draw(identity.age, 2.5, YOUNGEST, OLDEST))
    yaw, pitch, roll = draw(0, 11, -25, 25), draw(0, 6, -15, 15), draw(0, 6, -15, 15)
    smile = draw(0.35, 0.4, -0.3, 1)
    expression = Expression(
        smile=smile,
        mouth_open=draw(-0.02, 0.08, 0, 0.16),
        brow_lift=draw(0.01, 0.025, -0.03, 0.08),
        eye_opening=draw(1, 0.12, 0.55, 1.25) * (1 - 0.15 * max(0.0, smile)),
        gaze=draw(0, 0.4, -1, 1),
    )
    styling = _styling(identity, rng, draw(0, 0.04, -0.1, 0.1))
    person = aged(identity, age)
    return Shot(
        person=person,
        age=age,
        expression=expression,
        styling=styling,
        light=_light(rng, draw(0, 32, -70, 70), draw(32, 16, -5, 70)),
        view=View(
            rotation=_rotation(yaw, pitch, roll),
            scale=float(size * FACE_SCALE * rng.uniform(0.88, 1.15)),
            centre=size * rng.uniform((0.45, 0.41), (0.55, 0.51)),
        ),
        angles=(yaw, pitch, roll),
        hidden=bool(rng.uniform() < 0.08),
        lip_corner=(person.mouth.width * (1 + 0.1 * smile), person.mouth.v - 0.06 * smile),
    )


def _styling(identity: Identity, rng: np.random.Generator, line_shift: float) -> Styling:
    odds = STYLE_ODDS[identity.gender]
    restyled, other = rng.uniform() < 0.3, rng.choice(len(odds), p=np.array(list(odds.values())))
    shaved = rng.uniform() < 0.12
    return Styling(
        hair=list(odds)[int(other)] if restyled else identity.hair.style,
        line_shift=line_shift,
        beard=float(rng.uniform(0.1, 0.3) if shaved else rng.uniform(0.75, 1.1)),
        glasses=bool(rng.uniform() < identity.glasses),
        makeup=float((rng.uniform() < identity.makeup) * rng.uniform(0.35, 1)),
        lipstick=_LIPSTICK[rng.integers(len(_LIPSTICK))].astype(F),
    )


def _light(rng: np.random.Generator, azimuth: float, elevation: float) -> Light:
    side, up, warmth = np.radians(azimuth), np.radians(elevation), rng.normal(0, 0.07)
    return Light(
        direction=np.array([np.sin(side) * np.cos(up), -np.sin(up), np.cos(side) * np.cos(up)], F),
        key=(rng.uniform(0.55, 1.0) * np.array([1 + warmth, 1, 1 - warmth])).astype(F),
        ambient=(rng.uniform(0.28, 0.55) * np.array([1 - 0.5 * warmth, 1, 1 + 0.5 * warmth])).astype(F),
    )


def _rotation(yaw: float, pitch: float, roll: float) -> Array:
    """(3, 3) Turn by yaw, then nod by pitch (positive looks up), then tilt by roll; degrees."""
    (a, b, c), (d, e, f) = np.cos(np.radians([yaw, -pitch, roll])), np.sin(np.radians([yaw, -pitch, roll]))
    turn = np.array([[a, 0, d], [0, 1, 0], [-d, 0, a]])
    nod = np.array([[1, 0, 0], [0, b, -e], [0, e, b]])
    tilt = np.array([[c, -f, 0], [f, c, 0], [0, 0, 1]])
    rotation: Array = (tilt @ nod @ turn).astype(F)
    return rotation
