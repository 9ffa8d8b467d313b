"""Rendering: one synthetic face from an identity's seed and an image's seed, with its exact ground truth.

No photograph, scan or trained model is inside, and no person is depicted. Scores on these faces say that a pipeline
learns, and nothing about real faces.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.synthetic import noise
from faceflow.components.common.synthetic.arrays import F
from faceflow.components.common.synthetic.camera import photograph
from faceflow.components.common.synthetic.features import paint_features
from faceflow.components.common.synthetic.hair import draw_back_hair
from faceflow.components.common.synthetic.head import draw_head
from faceflow.components.common.synthetic.identity import Gender, make_identity
from faceflow.components.common.synthetic.scene import background, draw_body, draw_glasses, draw_obstacle
from faceflow.components.common.synthetic.shape import Shape, shape_head
from faceflow.components.common.synthetic.shot import Shot, take_shot
from faceflow.components.common.synthetic.skin import skin_texture

SMALLEST_PX, LARGEST_PX = 64, noise.LARGEST
"""Sides of a picture that can be rendered, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One rendered picture and its ground truth.

    Attributes:
        image: (size, size, 3) RGB.
        landmarks: (5, 2) x, y in pixels: image-left eye, image-right eye, nose tip, image-left and -right mouth corner.
            The centre of the pixel in the upper left corner is (0, 0).
        box: (4,) x1, y1, x2, y2: cheek to cheek, hairline to chin.
        gender: ``female`` or ``male``.
        age: In whole years.
        facts: What was drawn: yaw, pitch and roll in degrees; smile, mouth_open; glasses, hidden (0 or 1).
    """

    image: NDArray[np.uint8]
    landmarks: NDArray[np.float32]
    box: NDArray[np.float32]
    gender: Gender
    age: float
    facts: dict[str, float]


def render(identity_seed: int, image_seed: int, size: int = 250) -> Face:
    """Render one picture of an identity; equal arguments give equal pixels.

    Args:
        identity_seed: What the person is drawn from, a non-negative integer.
        image_seed: What pose, expression, light, background and camera are drawn from, a non-negative integer.
        size: Side of the picture in pixels.

    Raises:
        ValueError: The size cannot be rendered.
    """
    if not SMALLEST_PX <= size <= LARGEST_PX:
        raise ValueError(f"size is {size} px, but must lie in {SMALLEST_PX}..{LARGEST_PX}.")
    identity, rng = make_identity(identity_seed), np.random.default_rng([103, identity_seed, image_seed])
    shot = take_shot(identity, rng, size)
    shape = shape_head(shot)
    texture = skin_texture(shot)
    paint_features(texture, shot)
    canvas = background(rng, size)
    draw_back_hair(canvas, shot, rng)
    draw_body(canvas, shot, rng)
    draw_head(canvas, shot, shape, texture)
    if shot.styling.glasses:
        draw_glasses(canvas, shot, rng)
    if shot.hidden:
        draw_obstacle(canvas, shot, rng)
    landmarks, box = _ground_truth(shot, shape)
    yaw, pitch, roll = shot.angles
    return Face(
        image=photograph(canvas, rng),
        landmarks=landmarks,
        box=box,
        gender=identity.gender,
        age=float(shot.age),
        facts={
            "yaw": yaw,
            "pitch": pitch,
            "roll": roll,
            "smile": shot.expression.smile,
            "mouth_open": shot.expression.mouth_open,
            "glasses": float(shot.styling.glasses),
            "hidden": float(shot.hidden),
        },
    )


def _ground_truth(shot: Shot, shape: Shape) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Landmarks (5, 2) and box (4,), from points of the displaced front."""
    person, (reach, corner) = shot.person, shot.lip_corner
    eye, cheek = person.eyes.apart, 0.9 * person.head.width
    marks = [[-eye, 0], [eye, 0], [0, person.nose.v], [-reach, corner], [reach, corner]]
    edges = [[-cheek, 0.2], [cheek, 0.2], [0, -1.0], [0, shot.chin - 0.02]]
    points = np.array(marks + edges, F)
    pixels = shot.view.project(np.column_stack([points, shape.front_at(points)])).astype(F)
    return pixels[:5], np.concatenate([pixels.min(0), pixels.max(0)])
