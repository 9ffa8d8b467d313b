"""Faces by dlib: its HOG detector, and its 5 and 68 landmarks (Kazemi and Sullivan, CVPR 2014).

dlib and its models are the extra ``dlib``. The detector's smallest face is 80 pixels, so an image is searched at a size
that is set by its shorter side. The points are whole pixels: they are sought in the image as it is, or, if that is
smaller, as it was enlarged for the search.
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.faces import Face
from faceflow.components.align.landmarks import of_68
from faceflow.components.common.errors import SettingsError

Image = NDArray[np.uint8]

INSTALL = 'pip install "faceflow[dlib]"'
_MODELS = "face_recognition_models"
_LARGEST_SCALE = 4.0
_BORDER_SHARE = 0.15
_LEAST_SCORE = -0.5

_of_thread = threading.local()
_predictors: dict[int, Any] = {}
_loading = threading.Lock()


def require() -> None:
    """Refuse to begin where dlib or its models are not installed.

    Raises:
        SettingsError: Says what to install.
    """
    absent = [
        package
        for package, module in (("dlib-bin", "dlib"), ("face-recognition-models==0.3.0", _MODELS))
        if importlib.util.find_spec(module) is None
    ]
    if absent:
        raise SettingsError(
            f"setting 'landmarks' is 'dlib', but {' and '.join(absent)} "
            f"{'is' if len(absent) == 1 else 'are'} not installed: {INSTALL}"
        )


def _model(name: str) -> str:
    # The package's own __init__ imports pkg_resources, which setuptools no longer has; its files are all we want.
    spec = importlib.util.find_spec(_MODELS)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    path = Path(folders[0] if folders else ".") / "models" / name
    if not path.is_file():
        raise SettingsError(f"{_MODELS} holds no {name}: {INSTALL} brings the version that does.")
    return str(path)


def _detector() -> Any:
    """This thread's detector: dlib lets other threads run while it searches, and keeps its state in the detector."""
    if not hasattr(_of_thread, "detector"):
        import dlib

        _of_thread.detector = dlib.get_frontal_face_detector()
    return _of_thread.detector


def _predictor(points: int) -> Any:
    """The model of 5 or 68 points, loaded once a process; threads may share it."""
    with _loading:
        if points not in _predictors:
            import dlib

            _predictors[points] = dlib.shape_predictor(_model(f"shape_predictor_{points}_face_landmarks.dat"))
        return _predictors[points]


def detect(images: Sequence[Image], min_score: float, search_px: int, *, five: bool = False) -> list[list[Face]]:
    """Find the faces in images of any sizes.

    Where no face reaches the score, the image is searched once more with its border continued outwards, so that a face
    that fills it has the surroundings that the detector knows.

    Args:
        images: (H, W, 3) uint8 RGB each.
        min_score: Lowest of dlib's confidences, which are 0 for a face that it is undecided about and rarely above 3.
        search_px: Shorter side, in pixels, at which an image is searched; it is never enlarged more than 4 times.
        five: Whether ``parts`` holds dlib's 5 points, and not the 68.

    Returns:
        For each image its faces of at least that score, or else the best that was found: box, the five standard
        landmarks (from the 68 points) and ``parts``.
    """
    return [_faces(image, min_score, search_px, five) for image in images]


def _faces(image: Image, min_score: float, search_px: int, five: bool) -> list[Face]:
    found = _search(image, search_px, 0.0)
    if all(score < min_score for _, score in found):
        found = max(found, _search(image, search_px, _BORDER_SHARE), key=lambda each: each[0][1] if each else -np.inf)
    good = [each for each in found if each[1] >= min_score] or found[:1]
    scale = _scale(image, search_px)
    fine, factors = _resized(image, scale) if scale > 1 else (image, np.ones(2))
    return [_face(fine, factors, box, score, five) for box, score in good]


def _scale(image: Image, search_px: int) -> float:
    return float(min(search_px / min(image.shape[:2]), _LARGEST_SCALE))


def _resized(image: Image, scale: float) -> tuple[Image, NDArray[np.float64]]:
    """The image at another size, and the (2,) factors that this is in x and y."""
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(image, size, interpolation=method), np.uint8), np.array(size) / (width, height)


def _search(image: Image, search_px: int, border_share: float) -> list[tuple[NDArray[np.float64], float]]:
    """Boxes, in the image's pixels, and scores, best first."""
    searched, factors = _resized(image, _scale(image, search_px))
    border = round(border_share * min(searched.shape[:2]))
    if border:
        searched = np.pad(searched, ((border, border), (border, border), (0, 0)), mode="edge")
    rectangles, scores, _ = _detector().run(np.ascontiguousarray(searched), 0, _LEAST_SCORE)
    boxes = [
        np.array([[each.left(), each.top()], [each.right() + 1, each.bottom() + 1]], np.float64) for each in rectangles
    ]
    return [(((box - border) / factors - 0.5).ravel(), float(score)) for box, score in zip(boxes, scores, strict=True)]


def _face(fine: Image, factors: NDArray[np.float64], box: NDArray[np.float64], score: float, five: bool) -> Face:
    import dlib

    left, top, right, bottom = np.round(((box.reshape(2, 2) + 0.5) * factors).ravel()).astype(int).tolist()
    place = dlib.rectangle(left, top, right - 1, bottom - 1)

    def points(count: int) -> NDArray[np.float64]:
        shape = _predictor(count)(fine, place)
        whole = np.array([(part.x, part.y) for part in shape.parts()], np.float64)
        return (whole + 0.5) / factors - 0.5

    all_points = points(68)
    return Face(box, score, of_68(all_points), points(5) if five else all_points)
