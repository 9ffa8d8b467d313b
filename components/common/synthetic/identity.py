"""Identities: the parameter vector of a person who does not exist, drawn from a seed.

Lengths are in head units (half the width of an average face) in the head's own frame: u to the image's right, v down,
z to the viewer, and the eyes at v = 0. Colours are linear light. Proportions follow the 112x112 ArcFace template's
ratios, which is what makes detectors place the landmarks where they are. What tells the genders apart follows the
anthropometric findings usually quoted: men's brow ridges, jaws, chins and noses are larger, their brows lower and
thicker, women's eyes and lips fuller and their foreheads more upright.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np

from faceflow.components.common.synthetic.arrays import Array, F, smoothstep

Gender = Literal["female", "male"]

YOUNGEST, OLDEST = 16.0, 80.0
"""The range of ages, in years."""


@dataclass(frozen=True, slots=True)
class Head:
    """The skull and jaw: an ellipsoid's half axes, and what widens or narrows it at the height it is named after."""

    width: float
    top: float
    chin: float
    depth: float
    crown: float
    temple: float
    cheek: float
    jaw: float
    chin_width: float
    chin_depth: float


@dataclass(frozen=True, slots=True)
class Eyes:
    """The eyes: half their distance, half sizes, slant, crease of the lid, depth of the socket."""

    apart: float
    width: float
    height: float
    slant: float
    crease: float
    socket: float
    lashes: float


@dataclass(frozen=True, slots=True)
class Brows:
    """The brows: height above the eyes, their line from the inner to the outer end, and the ridge that they lie on."""

    v: float
    inner: float
    outer: float
    thickness: float
    arch: float
    tilt: float
    strength: float
    ridge: float


@dataclass(frozen=True, slots=True)
class Nose:
    """The nose: height of its tip, half width, and how far root and tip stand out."""

    v: float
    width: float
    root: float
    tip: float
    roundness: float


@dataclass(frozen=True, slots=True)
class Mouth:
    """The mouth: height, half width, thickness of the lips."""

    v: float
    width: float
    upper: float
    lower: float


@dataclass(frozen=True, slots=True)
class Hair:
    """Hair of the head: hairline, bulk, usual style, and what age does to it."""

    line: float
    bulk: float
    parting: float
    style: str
    greying_age: float
    recession: float


@dataclass(frozen=True, slots=True)
class Beard:
    """The beard that an identity usually wears: its shape and density (0 shows nothing, 1 hides the skin)."""

    shape: str
    density: float


@dataclass(frozen=True, slots=True)
class Skin:
    """Surface of the skin: shine, unevenness, redness of the cheeks, freckles, and how soon it wrinkles."""

    gloss: float
    blotches: float
    blush: float
    freckles: float
    wrinkling: float


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """One person.

    Attributes:
        seed: What the person was drawn from.
        gender: ``female`` or ``male``.
        age: The age around which the person's images scatter, in years.
        skin_colour: (3,) RGB in linear light, like every colour here.
        glasses: The chance that an image shows the person with glasses.
        makeup: The chance that an image shows the person with make-up.
    """

    seed: int
    gender: Gender
    age: float
    head: Head
    eyes: Eyes
    brows: Brows
    nose: Nose
    mouth: Mouth
    hair: Hair
    beard: Beard
    skin: Skin
    skin_colour: Array
    lip_colour: Array
    iris_colour: Array
    hair_colour: Array
    brow_colour: Array
    glasses: float
    makeup: float


_PALE_SKIN, _DARK_SKIN = np.array([232, 192, 168.0]), np.array([124, 84, 62.0])
_HAIR = np.array([[26, 20, 18], [41, 29, 23], [70, 47, 32], [108, 76, 47], [160, 127, 83], [92, 44, 26]])
_HAIR_ODDS = np.array([3, 3, 2.5, 1.5, 1.2, 0.6])
_HAIR_ODDS_IF_DARK = np.array([3, 3, 0.8, 0.08, 0, 0])
_IRIS = np.array([[70, 45, 28], [96, 66, 40], [92, 100, 70], [90, 120, 140], [110, 130, 140]])
_IRIS_ODDS, _IRIS_ODDS_IF_DARK = [0.45, 0.2, 0.12, 0.13, 0.1], [0.8, 0.2, 0, 0, 0]
_GREY = np.array([0.44, 0.43, 0.41])

STYLE_ODDS: dict[Gender, dict[str, float]] = {
    "female": {"long": 0.36, "bob": 0.22, "fringe": 0.14, "tied": 0.2, "short": 0.08},
    "male": {"short": 0.46, "cropped": 0.32, "fringe": 0.14, "long": 0.04, "shaven": 0.04},
}
"""How often each gender wears each style; the styles are described in :mod:`.hair`."""

_BEARD_ODDS = {"none": 0.5, "stubble": 0.22, "moustache": 0.08, "goatee": 0.08, "full": 0.12}


@lru_cache(maxsize=1024)
def make_identity(seed: int) -> Identity:
    """Draw the identity of a seed (a non-negative integer); equal seeds give equal identities."""
    rng = np.random.default_rng([101, seed])
    gender: Gender = "male" if rng.uniform() < 0.5 else "female"
    sign = 1.0 if gender == "male" else -1.0
    age = YOUNGEST + 4 + (OLDEST - YOUNGEST - 10) * rng.beta(1.2, 1.8)

    def draw(mean: float, spread: float, male: float = 0.0) -> float:
        """A length about a mean, which lies ``male`` higher for men and as much lower for women."""
        return mean + male * sign + spread * min(max(float(rng.standard_normal()), -2.2), 2.2)

    def pick(odds: dict[str, float]) -> str:
        return list(odds)[int(rng.choice(len(odds), p=np.array(list(odds.values())) / sum(odds.values())))]

    tone = rng.uniform()
    dark = tone >= 0.5
    skin_colour = ((1 - tone) * _PALE_SKIN + tone * _DARK_SKIN) * [draw(1, 0.02), draw(1, 0.015), draw(1, 0.03)]
    skin_colour = (skin_colour / 255) ** 2
    odds = _HAIR_ODDS_IF_DARK if dark else _HAIR_ODDS
    hair_colour = (_HAIR[rng.choice(len(_HAIR), p=odds / odds.sum())] * draw(1, 0.12) / 255) ** 2
    iris_colour = (_IRIS[rng.choice(len(_IRIS), p=_IRIS_ODDS_IF_DARK if dark else _IRIS_ODDS)] / 255) ** 2
    lip_colour = skin_colour * [draw(0.86, 0.05), draw(0.49, 0.05, 0.02), draw(0.54, 0.05, 0.02)]
    density = {"none": 0.0, "stubble": draw(0.36, 0.06), "moustache": 0.85, "goatee": 0.8, "full": draw(0.8, 0.06)}
    beard = pick(_BEARD_ODDS) if gender == "male" else "none"
    return Identity(
        seed=seed,
        gender=gender,
        age=float(age),
        head=Head(
            width=draw(1.0, 0.038, 0.012),
            top=draw(1.62, 0.04),
            chin=draw(1.59, 0.055, 0.03),
            depth=draw(1.12, 0.05),
            crown=draw(0.17, 0.04),
            temple=draw(0.02, 0.03),
            cheek=draw(0.025, 0.028, -0.01),
            jaw=draw(0.025, 0.05, 0.04),
            chin_width=draw(0.0, 0.07, 0.06),
            chin_depth=draw(0.22, 0.045, 0.03),
        ),
        eyes=Eyes(
            apart=draw(0.44, 0.02),
            width=draw(0.206, 0.014, -0.004),
            height=draw(0.079, 0.011, -0.005),
            slant=draw(0.06, 0.055, -0.02),
            crease=draw(0.5, 0.2),
            socket=draw(0.10, 0.022, 0.01),
            lashes=draw(0.75, 0.1, -0.2),
        ),
        brows=Brows(
            v=draw(-0.272, 0.023, 0.013),
            inner=draw(0.17, 0.03),
            outer=draw(0.74, 0.04),
            thickness=draw(0.041, 0.009, 0.009),
            arch=draw(0.05, 0.018, -0.014),
            tilt=draw(0.0, 0.055),
            strength=draw(0.78, 0.09, 0.08),
            ridge=draw(0.06, 0.02, 0.022),
        ),
        nose=Nose(
            v=draw(0.54, 0.033, 0.008),
            width=draw(0.155, 0.019, 0.010),
            root=draw(0.07, 0.022, 0.01),
            tip=draw(0.29, 0.037, 0.012),
            roundness=draw(0.15, 0.016, 0.003),
        ),
        mouth=Mouth(
            v=draw(1.0, 0.028, 0.006),
            width=draw(0.355, 0.023, 0.007),
            upper=draw(0.076, 0.014, -0.008),
            lower=draw(0.101, 0.016, -0.008),
        ),
        hair=Hair(
            line=draw(-1.0, 0.055, -0.01),
            bulk=draw(0.135, 0.04, -0.01),
            parting=draw(0.0, 0.25),
            style=pick(STYLE_ODDS[gender]),
            greying_age=draw(52, 7),
            recession=max(0.0, draw(0.25, 0.35, 0.25)) if gender == "male" else 0.0,
        ),
        beard=Beard(shape=beard, density=density[beard]),
        skin=Skin(
            gloss=draw(0.10, 0.04),
            blotches=abs(draw(0.03, 0.015)),
            blush=abs(draw(0.1, 0.055, -0.03)),
            freckles=max(0.0, draw(-0.25, 0.4)) * (not dark),
            wrinkling=draw(1.0, 0.18),
        ),
        skin_colour=skin_colour.astype(F),
        lip_colour=lip_colour.astype(F),
        iris_colour=iris_colour.astype(F),
        hair_colour=hair_colour.astype(F),
        brow_colour=(0.75 * hair_colour + 0.04 * skin_colour).astype(F),
        glasses=float(rng.choice([0.05, 0.05, 0.05, 0.7])),
        makeup=float(rng.uniform(0.1, 0.75)) if gender == "female" else 0.0,
    )


def wrinkles(identity: Identity, age: float) -> float:
    """How deep an identity's wrinkles are at an age: 0 at 25, about 1 near 75."""
    return float(smoothstep(age, 25, 82)) * identity.skin.wrinkling


def aged(identity: Identity, age: float) -> Identity:
    """The identity as it looks at an age: grey hair, a receding hairline, sagging lids and jowls, thinner lips.

    Bone stays as it is, which is what leaves the person recognizable. Wrinkles are drawn by :mod:`.skin`.

    Args:
        identity: The identity as drawn from its seed.
        age: In years.
    """
    old = float(smoothstep(age, 30, 85))
    grey = F(smoothstep(age, identity.hair.greying_age - 14, identity.hair.greying_age + 22))
    head, eyes, nose, mouth, hair = identity.head, identity.eyes, identity.nose, identity.mouth, identity.hair
    return replace(
        identity,
        head=replace(head, jaw=head.jaw + 0.045 * old, cheek=head.cheek - 0.02 * old),
        eyes=replace(eyes, height=eyes.height * (1 - 0.16 * old), slant=eyes.slant - 0.05 * old),
        nose=replace(nose, width=nose.width + 0.012 * old, tip=nose.tip + 0.02 * old),
        mouth=replace(mouth, upper=mouth.upper * (1 - 0.3 * old), lower=mouth.lower * (1 - 0.18 * old)),
        hair=replace(hair, recession=min(1.0, hair.recession * float(smoothstep(age, 22, 62)))),
        hair_colour=(1 - grey) * identity.hair_colour + grey * _GREY.astype(F),
        brow_colour=(1 - F(0.4) * grey) * identity.brow_colour + F(0.4) * grey * F(0.6) * _GREY.astype(F),
    )
