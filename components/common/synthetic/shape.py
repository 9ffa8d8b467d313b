"""The head's shape: an ellipsoid with a width profile, whose front is displaced by a relief of Gaussian bumps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from faceflow.components.common.synthetic import grid
from faceflow.components.common.synthetic.arrays import Array, F, smoothstep
from faceflow.components.common.synthetic.shot import Shot


@dataclass(frozen=True, slots=True, eq=False)
class Shape:
    """A head's surface on the texture grid.

    Attributes:
        relief: (ROWS, COLUMNS) How far the front stands out of the ellipsoid, in head units.
        narrowness: (ROWS, COLUMNS) 1 / (half width)^2 at each height; equal along a row.
        front: (ROWS, COLUMNS) z of the displaced front.
        centre: v of the ellipsoid's centre.
        half_height: Its vertical half axis.
        depth: Its half axis towards the viewer.
    """

    relief: Array
    narrowness: Array
    front: Array
    centre: float
    half_height: float
    depth: float

    def front_at(self, points: Array) -> Array:
        """The depth z (N,) of the front at points (N, 2) u, v, bilinear in the grid."""
        x, y = grid.to_texels(points).T
        x, y = np.clip(x, 0, grid.COLUMNS - 1.001), np.clip(y, 0, grid.ROWS - 1.001)
        i, j = x.astype(int), y.astype(int)
        a, b = x - i, y - j
        upper = self.front[j, i] * (1 - a) + self.front[j, i + 1] * a
        lower = self.front[j + 1, i] * (1 - a) + self.front[j + 1, i + 1] * a
        depth: Array = upper * (1 - b) + lower * b
        return depth


def shape_head(shot: Shot) -> Shape:
    """Shape the head of a shot: jaw and lips follow its expression."""
    head = shot.person.head
    centre, half_height = (shot.chin - head.top) / 2, (shot.chin + head.top) / 2
    relief = _relief(shot)
    profile: Array = np.ones(grid.ROWS, F)
    for amount, at, spread in (
        (head.crown, -1.15, 0.5),
        (head.temple, -0.6, 0.4),
        (head.cheek, 0.35, 0.3),
        (head.jaw, 1.05, 0.3),
        (head.chin_width, 1.5, 0.2),
    ):
        profile = profile + amount * np.exp(-(((grid.V - at) / spread) ** 2))
    narrow = (1 / (head.width * profile) ** 2).astype(F)
    inside = 1 - grid.U**2 * narrow[:, None] - ((grid.V - F(centre)) ** 2 * F(1 / half_height**2))[:, None]
    return Shape(
        relief=relief,
        narrowness=np.repeat(narrow[:, None], grid.COLUMNS, axis=1),
        front=np.sqrt(np.maximum(0, inside)) * F(head.depth) + relief,
        centre=centre,
        half_height=half_height,
        depth=head.depth,
    )


def _relief(shot: Shot) -> Array:
    head, eyes, brows, nose, mouth = (
        shot.person.head,
        shot.person.eyes,
        shot.person.brows,
        shot.person.nose,
        shot.person.mouth,
    )
    mouth_v = mouth.v + 0.5 * shot.expression.mouth_open
    rows = [
        (0.10, 0.0, mouth_v, 0.36, 0.26),
        (head.chin_depth, 0.0, shot.chin - 0.25, 0.36, 0.3),
        (-0.05, 0.0, mouth_v + 0.2, 0.2, 0.06),
        (0.05, 0.0, mouth_v - 0.045, mouth.width * 0.7, 0.05),
        (0.06, 0.0, mouth_v + 0.07, mouth.width * 0.6, 0.06),
    ]
    for side in (-1.0, 1.0):
        rows += [
            (0.10, side * nose.width, nose.v + 0.04, 0.065, 0.075),
            (-eyes.socket, side * eyes.apart * 0.95, 0.0, 0.22, 0.14),
            (0.035, side * eyes.apart, 0.0, 0.14, 0.08),
            (brows.ridge, side * 0.42, brows.v + 0.02, 0.3, 0.1),
            (0.05 + 0.05 * shot.expression.smile, side * 0.55, 0.42, 0.24, 0.22),
        ]
    rise = np.clip((grid.V + 0.12) / F(nose.v + 0.12), 0, 1)
    bridge = nose.root * smoothstep(grid.V, -0.35, -0.05) + (nose.tip - nose.root) * rise**1.3
    bridge *= 1 - smoothstep(grid.V, nose.v, nose.v + 0.17)
    breadth = 0.105 + (nose.roundness - 0.105) * rise[:, None]
    relief: Array = grid.bumps(rows) + bridge[:, None] * np.exp(-((grid.U / breadth) ** 2))
    return relief.astype(F)
