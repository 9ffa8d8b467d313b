"""Shapes cover the area that geometry says, and blending is the textbook formula."""

import numpy as np
import pytest

from faceflow.components.common.synthetic.noise import tile, window
from faceflow.components.common.synthetic.paint import blend, fill, mirrored, ring, shape_mask, stain, stroke

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(3, 1), (1, 3), (3, 3), (4, 4), (40, 30)])
@pytest.mark.parametrize("of", ["colour", "picture"])
def test_blending_mixes_by_alpha(size, of):
    canvas = RNG.uniform(size=(50, 40, 3)).astype(np.float32)
    before, part = canvas.copy(), (slice(2, 2 + size[0]), slice(5, 5 + size[1]))
    alpha = RNG.uniform(size=size).astype(np.float32)
    source = RNG.uniform(size=3 if of == "colour" else (*size, 3)).astype(np.float32)
    blend(canvas[part], source, alpha)
    expected = before.copy()
    expected[part] = before[part] * (1 - alpha[..., None]) + source * alpha[..., None]
    np.testing.assert_allclose(canvas, expected, atol=1e-6)


@pytest.mark.parametrize("softness", [0.0, 1.5])
def test_masks_have_the_area_of_their_shapes(softness):
    _, mask = shape_mask([ring(50.3, 40.7, 20, 10, 200)], 80, 100, softness)
    assert np.pi * 20 * 10 < mask.sum() < np.pi * 21 * 11  # OpenCV fills the pixels on the outline too


def test_a_shape_in_a_shape_is_a_hole_and_opacity_scales():
    (rows, columns), mask = shape_mask([ring(50, 40, 20, 10), ring(50, 40, 10, 5)], 80, 100, 0.0, opacity=0.5)
    assert mask[40 - rows.start, 50 - columns.start] == 0
    assert mask[40 - rows.start, 35 - columns.start] == pytest.approx(0.5)


def test_shapes_outside_the_picture_change_nothing():
    picture = np.zeros((20, 20, 3), np.float32)
    fill(picture, [ring(-50, 10, 5, 5)], (1, 1, 1))
    assert not picture.any() and shape_mask([ring(10, 90, 5, 5)], 20, 20, 1.0) is None


def test_a_row_of_colours_is_taken_from_the_columns_it_belongs_to():
    picture, row = np.zeros((10, 20, 3), np.float32), np.linspace(0, 1, 60, dtype=np.float32).reshape(20, 3)
    fill(picture, [np.array([[4, 2], [15, 2], [15, 8], [4, 8]])], row)
    np.testing.assert_allclose(picture[5, 6:14], row[6:14], atol=1e-6)


def test_staining_keeps_the_darker_mark():
    mask = np.full((20, 20), 0.5, np.float32)
    stain(mask, [ring(10, 10, 4, 4)], opacity=0.3)
    assert (mask == 0.5).all()
    stain(mask, [ring(10, 10, 4, 4)], opacity=0.8)
    assert mask[10, 10] == pytest.approx(0.8) and mask[0, 0] == 0.5


def test_strokes_and_mirrors_are_polygons():
    line = stroke(np.array([0.0, 1.0, 2.0]), np.array([5.0, 5.0, 5.0]), 0, np.array([1.0, 2.0, 1.0]))
    np.testing.assert_array_equal(line, [[0, 4], [1, 3], [2, 4], [2, 6], [1, 7], [0, 6]])
    left, right = mirrored(line)
    np.testing.assert_array_equal(left, right * (-1, 1))


def test_noise_repeats_without_a_seam_and_has_unit_variance():
    for kind in ("white", "blotches", "strands"):
        noise = tile(kind)
        np.testing.assert_array_equal(noise[:512], noise[512:])
        np.testing.assert_array_equal(noise[:, :512], noise[:, 512:])
        assert 0.8 < noise.std() < 1.2
        assert window(kind, np.random.default_rng(1), 512, 300).shape == (512, 300)
