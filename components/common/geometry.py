"""Alignment templates, and the transforms that carry a face onto one.

Points are (x, y) in pixels with the centre of the first pixel at (0, 0), as OpenCV has it. Landmarks come in the
order image-left eye, image-right eye, nose tip, mouth left, mouth right.
"""

from __future__ import annotations

import cmath
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Framing = Literal["landmarks", "dlib_chip", "three_points", "box"]
Interpolation = Literal["bilinear", "halved, then bilinear"]


@dataclass(frozen=True)
class Template:
    """What an aligned image looks like, and how a face gets onto it.

    Attributes:
        name: The name that settings and manifests use.
        width: Columns of the aligned image, pixels.
        height: Rows of the aligned image, pixels.
        landmarks: Where its points come to lie, (x, y) in pixels; none for a box.
        framing: What a face must give, and how that fixes the transform. ``landmarks``: the five landmarks, by the best
            similarity. ``dlib_chip``: dlib's five points, as ``dlib.get_face_chip`` does it. ``three_points``: three of
            dlib's 68 points, by the one affine map that carries them exactly. ``box``: the face's box.
        parts: The numbers of the three among the 68 points, from 0.
        margin_px: Pixels of the original that are added to the box on each side.
        interpolation: How the aligned image is drawn. ``halved, then bilinear`` halves the original, with a Gaussian
            filter, until less than a factor of 2 is left; without that a large face is drawn from a few of its pixels.
        origin: The paper or program that the template is from.
    """

    name: str
    width: int
    height: int
    landmarks: tuple[tuple[float, float], ...] = ()
    framing: Framing = "landmarks"
    parts: tuple[int, ...] = ()
    margin_px: int = 0
    interpolation: Interpolation = "bilinear"
    origin: str = ""

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """Where its points come to lie, an array of shape (N, 2) that cannot be written."""
        points = np.array(self.landmarks, np.float64).reshape(-1, 2)
        points.flags.writeable = False
        return points


# The five points used since SphereFace (Liu et al., CVPR 2017) for 96x112 crops, moved 8 px right for square ones
# (Deng et al., ArcFace, CVPR 2019).
_ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))

# dlib's get_face_chip_details: image-right eye's outer and inner corner, image-left eye's outer and inner corner, base
# of the nose, in a square from the eyebrows to the mouth; a quarter of its side is added all round.
_DLIB_FIVE = (
    (0.8595674595992, 0.2134981538014),
    (0.6460604764104, 0.2289674387677),
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.4901123135679, 0.6277975316475),
)
_DLIB_PADDING = 0.25

# OpenFace's mean face (openface/align_dlib.py): of its 68 points, those that it aligns by and the outermost ones, which
# its aligned image touches.
_OPENFACE = {
    33: (0.520712933176, 0.634268222208),
    36: (0.252418718401, 0.331052263829),
    39: (0.403718978315, 0.33867711083),
    42: (0.631326076346, 0.334136672344),
    45: (0.782865376271, 0.321305281656),
    57: (0.525398405766, 0.841706377792),
}
_OPENFACE_LEAST, _OPENFACE_MOST = (0.0792396913815, 0.182360984545), (0.971193274221, 1.06080371126)


def _dlib_chip(side: int) -> Template:
    shown = 1 + 2 * _DLIB_PADDING
    places = tuple(
        ((x + _DLIB_PADDING) / shown * side - 0.5, (y + _DLIB_PADDING) / shown * side - 0.5) for x, y in _DLIB_FIVE
    )
    return Template(
        f"dlib_5point_{side}",
        side,
        side,
        places,
        framing="dlib_chip",
        interpolation="halved, then bilinear",
        origin="dlib, get_face_chip with padding 0.25",
    )


def _openface(name: str, side: int, parts: tuple[int, int, int], origin: str) -> Template:
    def place(part: int) -> tuple[float, float]:
        x, y = (
            side * (value - least) / (most - least)
            for value, least, most in zip(_OPENFACE[part], _OPENFACE_LEAST, _OPENFACE_MOST, strict=True)
        )
        return x, y

    return Template(
        name, side, side, tuple(place(part) for part in parts), framing="three_points", parts=parts, origin=origin
    )


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("arcface_112", 112, 112, _ARCFACE, origin="Deng et al., ArcFace, CVPR 2019"),
        Template(
            "arcface_96x112",
            96,
            112,
            tuple((round(x - 8, 4), y) for x, y in _ARCFACE),
            origin="Liu et al., SphereFace, CVPR 2017",
        ),
        _dlib_chip(224),
        _openface("openface_96", 96, (39, 42, 57), "OpenFace, align_dlib.py, innerEyesAndBottomLip"),
        _openface("openface_96_outer", 96, (36, 45, 33), "OpenFace, align_dlib.py, outerEyesAndNose"),
        Template(
            "facenet_160",
            160,
            160,
            framing="box",
            margin_px=16,
            interpolation="halved, then bilinear",
            origin="davidsandberg/facenet, align_dataset_mtcnn.py with image_size 160 and margin 32",
        ),
    )
}


def similarity_transform(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """The rotation, uniform scale and shift, without reflection, that best carries points onto points.

    Minimises the sum of squared distances (Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns", PAMI 1991). In the plane, with points as complex numbers about their means, the minimiser is
    ``sum(conj(s) t) / sum(|s|^2)``.

    Args:
        source: (N, 2) points, N >= 2.
        target: (N, 2) points.

    Returns:
        The (2, 3) matrix of the map from source to target.

    Raises:
        ValueError: The shapes differ, a coordinate is not finite, or the source points coincide.
    """
    s, t = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if s.shape != t.shape or s.ndim != 2 or s.shape[1] != 2 or len(s) < 2:
        raise ValueError(f"need two (N, 2) arrays with N >= 2, not {s.shape} and {t.shape}")
    # Plain numbers: numpy would take longer over five points than OpenCV over the face.
    s_plane, t_plane = ([complex(x, y) for x, y in points.tolist()] for points in (s, t))
    if not all(map(cmath.isfinite, s_plane + t_plane)):
        raise ValueError("landmarks must be finite numbers")
    s_mean, t_mean = sum(s_plane) / len(s), sum(t_plane) / len(t)
    spread, common = 0.0, 0j
    for place, wanted in zip(s_plane, t_plane, strict=True):
        arm = place - s_mean
        spread += arm.real * arm.real + arm.imag * arm.imag
        common += arm.conjugate() * (wanted - t_mean)
    if spread <= 1e-12 * max(1.0, *(max(abs(place.real), abs(place.imag)) for place in s_plane)) ** 2:
        raise ValueError("the source points coincide: no scale can be found")
    turn = common / spread
    shift = t_mean - turn * s_mean
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def apply(matrix: NDArray[np.float64], points: ArrayLike) -> NDArray[np.float64]:
    """Carry (N, 2) points through a (2, 3) affine matrix."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def affine_transform(source: ArrayLike, target: ArrayLike) -> NDArray[np.float64]:
    """The one affine map that carries three points onto three others.

    It may shear, and reflect if the two triangles turn in opposite directions.

    Args:
        source: (3, 2) points, not on one line.
        target: (3, 2) points.

    Returns:
        The (2, 3) matrix of the map from source to target.

    Raises:
        ValueError: A shape is wrong, a coordinate is not finite, or the source points lie on one line.
    """
    s, t = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if s.shape != (3, 2) or t.shape != (3, 2):
        raise ValueError(f"need two (3, 2) arrays, not {s.shape} and {t.shape}")
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        raise ValueError("points must be finite numbers")
    sides = s[1:] - s[0]
    twice_area = abs(sides[0, 0] * sides[1, 1] - sides[0, 1] * sides[1, 0])
    if twice_area <= 1e-9 * max(1.0, float((sides**2).sum())):
        raise ValueError("the source points lie on one line: no affine map can be found")
    return np.asarray(np.linalg.solve(np.column_stack([s, np.ones(3)]), t).T, np.float64)


def scale_of(matrix: NDArray[np.float64]) -> float:
    """How much a (2, 3) matrix enlarges; the geometric mean of both ways where they differ."""
    (a, b, _), (c, d, _) = matrix.tolist()
    return math.sqrt(abs(a * d - b * c))


def inverted(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """The (2, 3) matrix of the way back."""
    linear = np.linalg.inv(matrix[:, :2])
    return np.column_stack([linear, -linear @ matrix[:, 2]])


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], template: Template) -> NDArray[np.uint8]:
    """Draw an image through a transform onto a template's canvas.

    The interpolation is the template's; outside the image is black. Both are the convention of the published models
    that use the template.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3), from image to template pixels.
        template: The canvas.

    Returns:
        (template.height, template.width, 3) uint8.
    """
    if template.interpolation == "halved, then bilinear":
        image, matrix = _halved(image, matrix, template)
    size = (template.width, template.height)
    aligned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(aligned, np.uint8)


def _halved(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], template: Template
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Halve an image until the transform shrinks it by less than 2, and adapt the transform."""
    if scale_of(matrix) >= 0.5:
        return image, matrix
    # Only what the canvas shows is worth halving, and what the filter sees around that.
    corners = np.array([[0, 0], [template.width, 0], [0, template.height], [template.width, template.height]])
    frame = apply(inverted(matrix), corners)
    reach = 4 / scale_of(matrix)
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(frame.min(0) - reach), 0, [width - 1, height - 1]).astype(int).tolist()
    right, bottom = np.clip(np.ceil(frame.max(0) + reach), [left + 1, top + 1], [width, height]).astype(int).tolist()
    image = image[top:bottom, left:right]
    matrix = np.column_stack([matrix[:, :2], apply(matrix, [[left, top]])[0]])
    while scale_of(matrix) < 0.5:
        image = np.asarray(cv2.pyrDown(image), np.uint8)
        matrix = matrix * (2, 2, 1)
    return image, matrix
