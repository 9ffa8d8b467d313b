"""The pictures of the generated documentation: a rendered face, and what each operation makes of it."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.operations import OPERATIONS, Variant
from faceflow.components.common.synthetic.render import render

_IDENTITY, _SHOT, _SIZE_PX = 6, 1, 250
_QUALITY = 82
_TOLERANCE = 0.3  # grey levels, on average


@lru_cache(maxsize=1)
def aligned_face() -> NDArray[np.uint8]:
    """A synthetic face as align leaves it, (112, 112, 3) uint8 RGB."""
    face = render(_IDENTITY, _SHOT, _SIZE_PX)
    template = TEMPLATES["arcface_112"]
    return warp(face.image, similarity_transform(face.landmarks, template.points), template)


def operation_picture(name: str | None) -> NDArray[np.uint8]:
    """What an operation with its defaults makes of the face; None for the face itself."""
    face = aligned_face()
    return face if name is None else Variant.parse(OPERATIONS[name].usage).make(face, 0, "documentation")


def encoded(picture: NDArray[np.uint8]) -> bytes:
    """A small JPEG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def is_of(data: bytes, picture: NDArray[np.uint8]) -> bool:
    """Whether a file shows a picture, whichever processor has rendered it and whichever library has compressed it."""
    try:
        found, wanted = (np.asarray(Image.open(io.BytesIO(each)), np.float64) for each in (data, encoded(picture)))
    except OSError:
        return False
    return found.shape == wanted.shape and float(np.abs(found - wanted).mean()) < _TOLERANCE
