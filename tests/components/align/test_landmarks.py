import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from faceflow.components.align.landmarks import fault, of_68
from faceflow.components.common.geometry import TEMPLATES

FACE = TEMPLATES["arcface_112"].points * 2 + (80, 60)


def swapped(*pairs):
    points = FACE.copy()
    for one, other in pairs:
        points[[one, other]] = points[[other, one]]
    return points


@given(st.floats(-np.pi, np.pi), st.floats(0.2, 1.4), st.integers(0, 1000))
def test_a_face_at_any_angle_is_in_order(turn, scale, seed):
    points = SimilarityTransform(scale=scale, rotation=turn)(FACE - FACE.mean(0)) + 200
    points += np.random.default_rng(seed).normal(0, 3 * scale, (5, 2))
    assert fault(points, 400, 400) is None


@pytest.mark.parametrize(
    "points, words",
    [
        (swapped((0, 1)), "its eyes are in mirrored order"),
        (swapped((3, 4)), "its mouth corners are in mirrored order"),
        (swapped((0, 1), (3, 4)), "its eyes and mouth corners are in mirrored order"),
        (FACE[:, ::-1], "its eyes and mouth corners are in mirrored order"),  # y before x
        (FACE * (-1, 1) + (400, 0), "its eyes and mouth corners are in mirrored order"),  # of the mirrored image
        (swapped((0, 3), (1, 4)), "its eyes and mouth corners are in mirrored order"),  # the mouth first
        (np.full((5, 2), 50.0), "coincide"),
        (np.zeros((5, 2)), "coincide"),
        (np.where([[True], [False], [False], [False], [False]], np.nan, FACE), "not finite"),
        (FACE + 1000, "outside the image of 400x400 pixels"),
        (FACE - (250, 0), "outside the image"),
        (np.vstack([FACE[:4], [-400.0, 200.0]]), "one of its landmarks lies far outside"),
    ],
)
def test_landmarks_that_can_be_no_face_s_are_told(points, words):
    assert words in fault(points, 400, 400)


def test_a_profile_and_a_face_at_the_edge_are_faces():
    narrow = (FACE - FACE.mean(0)) * (0.02, 1) + 200
    assert fault(narrow, 400, 400) is None
    past = narrow.copy()
    past[1, 0] = past[0, 0] - 15  # the far eye seen beyond the near one, by a fifth of the face
    assert fault(past, 400, 400) is None
    assert fault(FACE - FACE.mean(0) + (5, 200), 400, 400) is None


def test_the_five_landmarks_of_68_lie_where_they_should():
    points = np.zeros((68, 2))
    angles = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * 8
    points[36:42], points[42:48] = FACE[0] + ring, FACE[1] + ring
    points[30], points[48], points[54] = FACE[2:]
    np.testing.assert_allclose(of_68(points), FACE, atol=1e-9)
