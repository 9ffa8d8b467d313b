"""scikit-image as the oracle for the transform; hand-made pictures for the warp."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage.transform import SimilarityTransform

from faceflow.components.common.geometry import TEMPLATES, apply, similarity_transform, warp

POINTS = TEMPLATES["arcface_112"].points


@given(st.integers(0, 2**32 - 1))
def test_the_transform_is_scikit_images(seed):
    rng = np.random.default_rng(seed)
    source = rng.uniform(0, 400, (5, 2))
    target = POINTS + rng.normal(0, 8, (5, 2))
    oracle = SimilarityTransform.from_estimate(source, target).params[:2]
    np.testing.assert_allclose(similarity_transform(source, target), oracle, rtol=0, atol=1e-9 * abs(oracle).max())


def test_a_known_transform_is_found_exactly():
    angle, scale, shift = 0.7, 2.5, (30.0, -4.0)
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = similarity_transform(POINTS, POINTS @ linear.T + shift)
    np.testing.assert_allclose(matrix, np.column_stack([linear, shift]), atol=1e-9)


def test_a_mirrored_face_is_never_reflected():
    matrix = similarity_transform(POINTS * (-1, 1), POINTS)
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize(
    "source", [np.zeros((5, 2)), np.full((5, 2), 1e6), np.full((5, 2), np.nan), np.zeros((5, 3)), np.zeros((1, 2))]
)
def test_points_that_fix_no_transform_are_refused(source):
    with pytest.raises(ValueError):
        similarity_transform(source, np.zeros_like(source) + 1)


def test_the_narrow_template_is_the_square_one_moved_by_eight_pixels():
    np.testing.assert_allclose(TEMPLATES["arcface_96x112"].points, POINTS - (8, 0), atol=1e-9)


def test_landmarks_land_on_the_template():
    template = TEMPLATES["arcface_112"]
    linear = np.array([[1.9, -0.8], [0.8, 1.9]])
    placed = template.points @ linear.T + (120, 40)
    image = np.zeros((400, 400, 3), np.uint8)
    for x, y in placed.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    matrix = similarity_transform(placed, template.points)
    aligned = warp(image, matrix, template)
    assert aligned.shape == (112, 112, 3)
    np.testing.assert_allclose(apply(matrix, placed), template.points, atol=1e-9)
    for x, y in template.points.round().astype(int):
        assert aligned[y, x].min() > 200
