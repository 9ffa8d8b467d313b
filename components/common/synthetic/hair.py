"""Hair: the styles, the hairline that keeps hair off the face, and the hair behind the head."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from faceflow.components.common.synthetic import noise
from faceflow.components.common.synthetic.arrays import Array, F, smoothstep
from faceflow.components.common.synthetic.paint import blend, ring, shape_mask
from faceflow.components.common.synthetic.raycast import Hit
from faceflow.components.common.synthetic.shot import Shot


@dataclass(frozen=True, slots=True)
class Style:
    """A hair style, in head units.

    Attributes:
        front: The line over the forehead: absolute, or relative to the identity's hairline where ``follows_line``.
        side: How far down the hair comes at the ears.
        bulk: Thickness relative to the identity's.
        follows_line: Whether the forehead shows as much as the identity's hairline lets it.
        back: How far down the hair behind the head hangs; None without any.
        knot: Whether a knot shows above the head.
        opacity: How well the hair hides the skin.
    """

    front: float
    side: float
    bulk: float
    follows_line: bool = True
    back: float | None = None
    knot: bool = False
    opacity: float = 1.0


STYLES = {
    "short": Style(0.0, 0.02, 0.62),
    "cropped": Style(-0.03, -0.08, 0.35),
    "fringe": Style(-0.72, 0.22, 0.9, follows_line=False),
    "long": Style(0.06, 0.9, 1.0, back=1.95),
    "bob": Style(0.02, 0.78, 1.0, back=1.15),
    "tied": Style(-0.05, -0.12, 0.42, knot=True),
    "shaven": Style(0.0, 0.0, 0.12, opacity=0.55),
}
"""By name. No fringe touches the brows: detectors miss such faces."""


def style_of(shot: Shot) -> Style:
    """The style that a shot's person wears."""
    return STYLES[shot.styling.hair]


def front_line(shot: Shot) -> float:
    """The height v of the hairline over the middle of the forehead: it recedes with age, and a bald head has none."""
    style, hair = style_of(shot), shot.person.hair
    line = (hair.line if style.follows_line else 0.0) + style.front + shot.styling.line_shift
    return line - 0.1 * hair.recession - 0.75 * _baldness(shot)


def _baldness(shot: Shot) -> float:
    """From 0 to 1, where only a wreath of hair is left."""
    return float(smoothstep(shot.person.hair.recession, 0.45, 0.95))


def above_hairline(hit: Hit, shot: Shot) -> Array:
    """How far (H, W) points of the hair's ellipsoid lie above the hairline, in head units; negative is skin.

    The line falls from the forehead past the temples to the ears, and from there to the nape.
    """
    around = np.abs(np.arctan2(hit.u, hit.z))
    hair = shot.person.hair
    line = F(front_line(shot)) + F(hair.parting * 0.25) * hit.u
    if hair.recession > 0.05:
        line = line - F(0.34 * hair.recession) * np.exp(-(((around - F(0.5)) / F(0.32)) ** 2))
    line = line + (F(style_of(shot).side) - line) * smoothstep(around, 0.55, 1.35)
    above: Array = line + F(0.7) * smoothstep(around, 1.4, 1.8) - hit.v
    bald = _baldness(shot)
    if bald > 0:
        above = np.minimum(above, hit.v + F(1.8 - 1.1 * bald))
    return above


def draw_back_hair(canvas: Array, shot: Shot, rng: np.random.Generator) -> None:
    """Draw what hangs behind the head or is tied above it, before the head covers it."""
    style, person, size = style_of(shot), shot.person, len(canvas)
    if style.back is None and not style.knot:
        return
    outlines = []
    if style.back is not None:
        outlines.append(_curtain(-person.head.top - 0.16, style.back, person.head.width + 0.1 + person.hair.bulk, rng))
    if style.knot:
        outlines.append(ring(rng.uniform(-0.1, 0.1), -person.head.top - 0.18, 0.36, 0.3, 24, 0.9))
    polygons = [shot.view.project_flat(outline, -0.5) for outline in outlines]
    found = shape_mask(polygons, size, size, 1.5 * shot.view.scale / 50)
    if found is not None:
        where, coverage = found
        strands = 1 + F(0.18) * noise.window("strands", rng, *coverage.shape)
        colour = F(0.7) * person.hair_colour * (shot.light.ambient + F(0.5) * shot.light.key)
        blend(canvas[where], cv2.merge([strands * c for c in colour]), coverage)


def _curtain(top: float, bottom: float, half_width: float, rng: np.random.Generator) -> Array:
    """The outline (N, 2) of hair hanging behind a head: a dome above, nearly straight sides, a soft hem."""
    dome, hem = ring(0, 0, 1, 1, 40, 0.85), ring(0, 0, 1, 1, 40, 0.45)
    outline = np.where(dome[:, 1:] < 0, dome, hem)
    below = np.maximum(0, outline[:, 1])
    outline[:, 0] *= half_width * (1 - rng.uniform(0.02, 0.12) * below)
    middle = -0.35
    outline[:, 1] = np.where(
        outline[:, 1] < 0, middle + (middle - top) * outline[:, 1], middle + (bottom - middle) * below
    )
    outline[:, 0] *= 1 + 0.03 * np.sin(5 * outline[:, 1] + rng.uniform(0, 6))
    return outline
