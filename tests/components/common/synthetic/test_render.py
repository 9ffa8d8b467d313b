"""Pictures repeat exactly, and their ground truth is where the ray caster puts it."""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.synthetic import grid
from faceflow.components.common.synthetic.head import draw_head
from faceflow.components.common.synthetic.identity import OLDEST, YOUNGEST, make_identity
from faceflow.components.common.synthetic.paint import ring
from faceflow.components.common.synthetic.render import render
from faceflow.components.common.synthetic.shape import shape_head
from faceflow.components.common.synthetic.shot import Light, take_shot

SEEDS = [(identity, image) for identity in (0, 7, 2**64 - 1) for image in (0, 5)]
DIGEST = """
import hashlib, sys
import cv2
cv2.setNumThreads(int(sys.argv[1]))
from faceflow.components.common.synthetic.render import render
for seeds in {seeds}:
    face = render(*seeds, 160)
    print(hashlib.sha256(face.image.tobytes() + face.landmarks.tobytes()).hexdigest())
"""


def digest(face):
    return hashlib.sha256(face.image.tobytes() + face.landmarks.tobytes()).hexdigest()


@pytest.mark.parametrize("threads", [1, 3])
def test_pictures_repeat_in_another_process_whatever_its_threads(threads):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": str(threads)}
    script = DIGEST.format(seeds=SEEDS)
    other = subprocess.run(
        [sys.executable, "-c", script, str(threads)], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    assert other == [digest(render(*seeds, 160)) for seeds in SEEDS]
    assert len(set(other)) == len(SEEDS)


def test_a_picture_does_not_depend_on_those_before_it():
    fresh = digest(render(3, 1, 128))
    for seed in range(20):
        render(seed, 0, 64)
    assert digest(render(3, 1, 128)) == fresh


@pytest.mark.parametrize("size", [64, 112, 250, 401, 512])
def test_every_size_is_rendered_with_everything_in_range(size):
    face = render(11, 2, size)
    assert face.image.shape == (size, size, 3) and face.image.dtype == np.uint8
    assert face.image.std() > 5
    assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float32
    x1, y1, x2, y2 = face.box
    for x, y in face.landmarks:
        assert 0 <= x1 < x < x2 < size and 0 <= y1 < y < y2 < size
    left, right, nose, mouth_left, mouth_right = face.landmarks
    assert left[0] < right[0] and mouth_left[0] < mouth_right[0]
    assert max(left[1], right[1]) < nose[1] < min(mouth_left[1], mouth_right[1])


@pytest.mark.parametrize("size", [63, 513])
def test_sizes_that_cannot_be_rendered_are_refused(size):
    with pytest.raises(ValueError, match=f"size is {size} px, but must lie in 64..512"):
        render(0, 0, size)


def test_landmarks_and_box_scale_with_the_picture():
    small, large = render(4, 9, 150), render(4, 9, 450)
    np.testing.assert_allclose(large.landmarks, 3 * small.landmarks, rtol=1e-5)
    np.testing.assert_allclose(large.box, 3 * small.box, rtol=1e-5)
    assert (large.gender, large.age, large.facts) == (small.gender, small.age, small.facts)


@pytest.mark.parametrize("identity", range(6))
def test_landmarks_are_where_the_ray_caster_shows_them(identity):
    """A dot painted into the texture at a landmark appears, ray cast, where the projected ground truth says it is."""
    size = 400
    shot = take_shot(make_identity(identity), np.random.default_rng(identity), size)
    dark = replace(shot.person, hair_colour=np.zeros(3, np.float32), skin=replace(shot.person.skin, gloss=0.0))
    shot = replace(shot, person=dark, light=Light(shot.light.direction, np.zeros(3), np.ones(3)))
    shape = shape_head(shot)
    reach, corner = shot.lip_corner
    eye, nose = dark.eyes.apart, dark.nose.v
    for u, v in ((-eye, 0), (eye, 0), (0, nose), (-reach, corner), (reach, corner)):
        texture = np.zeros((grid.ROWS, grid.COLUMNS, 3), np.float32)
        grid.paint(texture, [ring(u, v, 0.02, 0.02)], (1, 1, 1))
        canvas = np.zeros((size, size, 3), np.float32)
        draw_head(canvas, shot, shape, texture)
        brightness = canvas.mean(2)
        moments = cv2.moments(np.where(brightness > 0.1 * brightness.max(), brightness, 0))
        seen = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
        point = np.array([[u, v]])
        (expected,) = shot.view.project(np.column_stack([point, shape.front_at(point)]))
        between_eyes = 2 * eye * shot.view.scale
        # A dot on the steep tip of a turned nose is seen from one side, which moves its centre of gravity.
        assert np.linalg.norm(seen - expected) < (0.03 if u == 0 else 0.005) * between_eyes


def test_eyes_and_mouth_corners_are_darker_than_the_cheeks():
    template = TEMPLATES["arcface_112"]
    darker = {"eye": 0, "mouth": 0}
    faces = [face for seed in range(40) for face in [render(seed, 0)] if not (face.facts["hidden"] or face.age > 60)]
    for face in faces:
        crop = warp(face.image, similarity_transform(face.landmarks, template.points), template).mean(2)

        def around(x, y, crop=crop):
            return crop[round(y) - 2 : round(y) + 3, round(x) - 2 : round(x) + 3].mean()

        left, right, _, mouth_left, mouth_right = template.points
        cheeks = (around(left[0], 71) + around(right[0], 71)) / 2
        darker["eye"] += (around(*left) + around(*right)) / 2 < cheeks
        darker["mouth"] += (around(*mouth_left) + around(*mouth_right)) / 2 < cheeks
    assert darker["eye"] >= 0.95 * len(faces)
    assert darker["mouth"] >= 0.9 * len(faces)


def test_pictures_of_one_identity_differ_and_keep_its_attributes():
    identity = make_identity(21)
    faces = [render(21, image, 96) for image in range(12)]
    assert len({digest(face) for face in faces}) == 12
    assert {face.gender for face in faces} == {identity.gender}
    for face in faces:
        assert face.age == int(face.age) and YOUNGEST <= face.age <= OLDEST
        assert abs(face.age - identity.age) <= 4 * 2.5 + 0.5
        assert abs(face.facts["yaw"]) <= 25 and abs(face.facts["pitch"]) <= 15 and abs(face.facts["roll"]) <= 15
