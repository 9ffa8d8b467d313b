"""What each kind of template does with a face; dlib, OpenCV and Pillow say what it should be."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform

from faceflow.components.align.framing import frame, onto, span
from faceflow.components.common.geometry import TEMPLATES, apply, similarity_transform, warp

RNG = np.random.default_rng(5)
WIDTH, HEIGHT = 400, 300
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (30, 40, 3)).astype(np.uint8)).resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC
    )
)
POINTS = {name: template for name, template in TEMPLATES.items() if template.framing != "box"}


def parts_of(template, points):
    """dlib's points, of which a template uses some."""
    if template.framing == "landmarks":
        return None
    if template.framing == "dlib_chip":
        return points
    parts = RNG.uniform(0, 300, (68, 2))
    parts[list(template.parts)] = points
    return parts


@pytest.mark.parametrize("name", POINTS)
def test_points_that_fit_come_to_lie_on_the_template(name):
    template = TEMPLATES[name]
    seen = SimilarityTransform(scale=1.0, rotation=0.4, translation=(90, 40))
    points = seen(template.points)
    landmarks = points if template.framing == "landmarks" else None
    matrix = onto(template, landmarks=landmarks, parts=parts_of(template, points), width=WIDTH, height=HEIGHT)
    np.testing.assert_allclose(apply(matrix, points), template.points, atol=1e-9)
    assert span(matrix, template) == pytest.approx(template.width)
    np.testing.assert_allclose(apply(matrix, frame(matrix, template))[[0, 2]],
                               [[-0.5, -0.5], [template.width - 0.5, template.height - 0.5]], atol=1e-9)  # fmt: skip


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("noise", [0.0, 6.0])
def test_a_dlib_chip_is_dlibs_to_the_pixel(scale, noise):
    dlib = pytest.importorskip("dlib", reason="the extra dlib is not installed")
    template = TEMPLATES["dlib_5point_224"]
    rng = np.random.default_rng(int(scale * 10 + noise))
    for turn in rng.uniform(-3, 3, 5):
        fitted = SimilarityTransform(scale=scale, rotation=turn)(template.points - 111.5)
        points = np.round(fitted + (WIDTH / 2, HEIGHT / 2) + rng.normal(0, noise + 1e-9, (5, 2)))
        shape = dlib.full_object_detection(
            dlib.rectangle(0, 0, 10, 10), [dlib.point(*point) for point in points.astype(int).tolist()]
        )
        wanted = dlib.get_face_chip(PICTURE, shape, size=224, padding=0.25).astype(int)
        matrix = onto(template, landmarks=None, parts=points, width=WIDTH, height=HEIGHT)
        drawn = warp(PICTURE, matrix, template).astype(int)
        inner = cv2.erode((wanted.min(2) > 0).astype(np.uint8), np.ones((5, 5))).astype(bool)
        assert inner.sum() > 5000
        assert np.abs(drawn - wanted)[inner].max() <= 2  # dlib cuts off the fraction, OpenCV rounds


@pytest.mark.parametrize("scale, halvings", [(2.5, 1), (4.5, 2)])
def test_a_large_dlib_chip_is_dlibs_but_for_the_shift_of_its_pyramid(scale, halvings):
    dlib = pytest.importorskip("dlib", reason="the extra dlib is not installed")
    template = TEMPLATES["dlib_5point_224"]
    large = cv2.resize(PICTURE, (1600, 1200), interpolation=cv2.INTER_CUBIC)
    points = np.round(SimilarityTransform(scale=scale, rotation=0.3)(template.points - 111.5) + (800, 600))
    shape = dlib.full_object_detection(
        dlib.rectangle(0, 0, 10, 10), [dlib.point(*point) for point in points.astype(int).tolist()]
    )
    wanted = dlib.get_face_chip(large, shape, size=224, padding=0.25).astype(int)[10:-10, 10:-10]
    matrix = onto(template, landmarks=None, parts=points, width=1600, height=1200)
    # Each halving of dlib's pyramid (pyramid_down<2>) is off by a quarter of its pixels, right and up; ours are not.
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, -0.5]) * (2**halvings - 1)
    exact, moved = (
        np.abs(warp(large, each, template)[10:-10, 10:-10].astype(int) - wanted).mean() for each in (matrix, shifted)
    )
    assert moved < 1.6 and exact < 5


@pytest.mark.parametrize("name", ["openface_96", "openface_96_outer"])
def test_openface_takes_exactly_three_points(name):
    template = TEMPLATES[name]
    parts = np.float32(RNG.uniform(50, 250, (68, 2)))
    chosen = parts[list(template.parts)]
    matrix = onto(template, landmarks=None, parts=parts.astype(float), width=WIDTH, height=HEIGHT)
    oracle = cv2.getAffineTransform(chosen, np.float32(template.points))
    np.testing.assert_allclose(matrix, oracle, atol=1e-3)
    np.testing.assert_allclose(apply(matrix, chosen), template.points, atol=1e-6)


@pytest.mark.parametrize(
    "box, cut",
    [
        ((100.7, 60.2, 190.9, 170.4), (84, 44, 206, 186)),
        ((5.5, 3.0, 120.0, 150.0), (0, 0, 136, 166)),  # the margin ends at the image
        ((300.0, 200.0, 420.0, 310.0), (284, 184, 400, 300)),  # and so does the box
        ((180.0, 100.0, 200.0, 130.0), (164, 84, 216, 146)),
    ],
)
def test_facenet_stretches_the_box_with_its_margin(box, cut):
    template = TEMPLATES["facenet_160"]
    matrix = onto(template, landmarks=None, box=np.array(box), width=WIDTH, height=HEIGHT)
    wanted = np.asarray(Image.fromarray(PICTURE).crop(cut).resize((160, 160), Image.Resampling.BILINEAR)).astype(int)
    drawn = warp(PICTURE, matrix, template).astype(int)
    assert np.abs(drawn - wanted)[2:-2, 2:-2].max() <= 3
    assert (matrix[0, 1], matrix[1, 0]) == (0, 0)
    corners = frame(matrix, template)
    np.testing.assert_allclose([corners[0], corners[2]], np.reshape(cut, (2, 2)) - 0.5, atol=1e-9)


def test_what_a_template_needs_and_does_not_get_is_named():
    for template in TEMPLATES.values():
        with pytest.raises(ValueError, match=f"template {template.name} needs"):
            onto(template, landmarks=None, width=WIDTH, height=HEIGHT)


@pytest.mark.parametrize(
    "template, given",
    [
        ("arcface_112", {"landmarks": np.zeros((5, 2))}),
        ("dlib_5point_224", {"parts": np.full((5, 2), np.nan)}),
        ("openface_96", {"parts": np.full((68, 2), 7.0)}),
        ("facenet_160", {"box": np.array([500.0, 10.0, 600.0, 90.0])}),
        ("facenet_160", {"box": np.array([10.0, -90.0, 60.0, -20.0])}),
        ("facenet_160", {"box": np.array([10.0, np.inf, 60.0, 20.0])}),
    ],
)
def test_a_face_that_cannot_be_framed_is_refused(template, given):
    with pytest.raises(ValueError):
        onto(TEMPLATES[template], **{"landmarks": None, **given}, width=WIDTH, height=HEIGHT)


def test_the_size_of_a_face_is_counted_in_pixels_of_the_original():
    template = TEMPLATES["arcface_112"]
    matrix = similarity_transform(template.points * 3 + 7, template.points)
    assert span(matrix, template) == pytest.approx(336)
    assert span(np.array([[0.5, 0, 0], [0, 0.125, 0]]), template) == pytest.approx(448)
