"""scikit-image and OpenCV as oracles for the transforms; hand-made pictures for the warp."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from skimage.transform import SimilarityTransform

from faceflow.components.common.geometry import (
    TEMPLATES,
    affine_transform,
    apply,
    inverted,
    similarity_transform,
    warp,
)

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


@given(st.integers(0, 2**32 - 1))
def test_the_affine_map_of_three_points_is_opencvs(seed):
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(0, 400, (2, 3, 2)).astype(np.float32)
    oracle = cv2.getAffineTransform(source, target)
    found = affine_transform(source, target)
    np.testing.assert_allclose(apply(found, source), apply(oracle, source), atol=1e-3)
    np.testing.assert_allclose(
        apply(inverted(found), target), source, atol=1e-3 * max(1, np.abs(inverted(found)).max())
    )


@pytest.mark.parametrize(
    "source", [np.zeros((3, 2)), np.array([[0, 0], [1, 2], [2, 4.0]]), np.full((3, 2), np.inf), np.zeros((5, 2))]
)
def test_three_points_that_fix_no_affine_map_are_refused(source):
    with pytest.raises(ValueError):
        affine_transform(source, np.eye(3)[:, :2])


def test_openfaces_templates_are_the_published_mean_face_s_points():
    # What imgDim * MINMAX_TEMPLATE[landmarkIndices] of openface/align_dlib.py gives at 96 pixels, in float32.
    inner = [[34.923355, 17.0829], [59.420467, 16.5867], [48.01958, 72.05611]]
    outer = [[18.639072, 16.249624], [75.73048, 15.184431], [47.515285, 49.38637]]
    np.testing.assert_allclose(TEMPLATES["openface_96"].points, inner, atol=2e-5)
    np.testing.assert_allclose(TEMPLATES["openface_96_outer"].points, outer, atol=2e-5)


@pytest.mark.parametrize("shrink", [1.3, 2.5, 6.0, 11.0])
def test_a_large_face_is_halved_before_it_is_drawn(shrink):
    side = 64
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (int(side * shrink) + 40, int(side * shrink) + 40, 3)).astype(np.uint8)
    plain = dataclasses.replace(TEMPLATES["arcface_112"], name="plain", width=side, height=side)
    halved = dataclasses.replace(plain, interpolation="halved, then bilinear")
    matrix = np.array([[1 / shrink, 0, -20 / shrink], [0, 1 / shrink, -20 / shrink]])
    drawn = {template.interpolation: warp(picture, matrix, template) for template in (plain, halved)}
    if shrink < 2:
        np.testing.assert_array_equal(drawn["bilinear"], drawn["halved, then bilinear"])
        return
    part = Image.fromarray(picture).crop((20, 20, 20 + int(side * shrink), 20 + int(side * shrink)))
    wanted = np.asarray(part.resize((side, side), Image.Resampling.BILINEAR)).astype(float)
    spread = {name: image.astype(float).std() for name, image in drawn.items()}
    # Noise that is drawn from a few of its pixels stays noise; properly shrunk, it turns grey.
    assert spread["bilinear"] > 2 * spread["halved, then bilinear"] > wanted.std()
    assert abs(drawn["halved, then bilinear"].mean() - wanted.mean()) < 1


def test_halving_moves_nothing():
    template = dataclasses.replace(TEMPLATES["facenet_160"], width=100, height=80)
    y, x = np.mgrid[:1000, :1200]
    ramp = np.stack([x * 255 / 1200, y * 255 / 1000, (x + y) * 255 / 2200], axis=2)
    matrix = np.array([[0.09, 0.02, 3.0], [-0.015, 0.085, 4.0]])
    drawn = warp(np.uint8(np.round(ramp)), matrix, template).astype(float)
    rows, columns = np.mgrid[:80, :100]
    back = apply(inverted(matrix), np.stack([columns.ravel(), rows.ravel()], axis=1)).reshape(80, 100, 2)
    inside = ((back > 20) & (back < [1179, 979])).all(2)
    wanted = np.stack([back[..., 0] * 255 / 1200, back[..., 1] * 255 / 1000, back.sum(2) * 255 / 2200], axis=2)
    assert inside.sum() > 4000
    # One grey level of the ramps is 4.7 pixels: a shift of one pixel would be 0.2.
    assert np.abs((drawn - wanted)[inside].mean(0)).max() < 0.1


def test_what_lies_outside_the_image_is_black_however_far():
    template = TEMPLATES["facenet_160"]
    picture = np.full((300, 300, 3), 200, np.uint8)
    for shift in (-5000.0, 5000.0):
        assert not warp(picture, np.array([[0.2, 0, shift], [0, 0.2, shift]]), template).any()
