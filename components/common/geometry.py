"""Alignment templates and the similarity transform that carries a face onto one.

Points are (x, y) in pixels with the centre of the first pixel at (0, 0), as OpenCV has it. Landmarks come in the
order image-left eye, image-right eye, nose tip, mouth left, mouth right.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Template:
    """Where the five landmarks lie in an aligned image.

    Attributes:
        name: The name that settings and manifests use.
        width: Columns of the aligned image, pixels.
        height: Rows of the aligned image, pixels.
        landmarks: The five (x, y) places, pixels.
    """

    name: str
    width: int
    height: int
    landmarks: tuple[tuple[float, float], ...]

    @property
    def points(self) -> NDArray[np.float64]:
        """The landmarks as an array of shape (5, 2)."""
        return np.array(self.landmarks)


# The five points used since SphereFace (Liu et al., CVPR 2017) for 96x112 crops, moved 8 px right for square ones
# (Deng et al., ArcFace, CVPR 2019).
_ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        Template("arcface_112", 112, 112, _ARCFACE),
        Template("arcface_96x112", 96, 112, tuple((round(x - 8, 4), y) for x, y in _ARCFACE)),
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
    if not (np.isfinite(s).all() and np.isfinite(t).all()):
        raise ValueError("landmarks must be finite numbers")
    s_mean, t_mean = s.mean(0), t.mean(0)
    s_plane, t_plane = ((points - mean) @ np.array([1, 1j]) for points, mean in ((s, s_mean), (t, t_mean)))
    spread = float((np.abs(s_plane) ** 2).sum())
    if spread <= 1e-12 * max(1.0, float(np.abs(s).max()) ** 2):
        raise ValueError("the source points coincide: no scale can be found")
    turn = complex((np.conj(s_plane) * t_plane).sum()) / spread
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.column_stack([linear, t_mean - linear @ s_mean])


def apply(matrix: NDArray[np.float64], points: ArrayLike) -> NDArray[np.float64]:
    """Carry (N, 2) points through a (2, 3) affine matrix."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def warp(image: NDArray[np.uint8], matrix: NDArray[np.float64], template: Template) -> NDArray[np.uint8]:
    """Draw an image through a transform onto a template's canvas.

    Bilinear interpolation, black outside the image: the convention of the published models that use these templates.

    Args:
        image: (H, W, 3) uint8.
        matrix: (2, 3), from image to template pixels.
        template: The canvas.

    Returns:
        (template.height, template.width, 3) uint8.
    """
    size = (template.width, template.height)
    aligned = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(aligned, np.uint8)
