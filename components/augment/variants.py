"""What is made of one kept image: itself, and its rule's variants, either drawn now or left to the training.

Both ways count the same: an image with two variants is three images, whether they are three records or one record that
carries the names of two variants for the training to draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import wire
from faceflow.components.common.errors import DatasetError, ImageError
from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.operations import Variant
from faceflow.components.common.record import Record, glanced, variant_key


def online(payload: bytes, place: int, names: tuple[str, ...]) -> bytes:
    """A record that carries the names of its variants, for the training to draw.

    Args:
        payload: The serialised record.
        place: Where in it the entry of its key ends; 0 where that is not known.
        names: The variants' names.
    """
    quickly = wire.with_online_variants(payload, place, names) if place else None
    return quickly or glanced(payload).with_online_variants(names)


def drawn(payload: bytes, variants: Sequence[Variant], *, seed: int, jpeg_quality: int) -> list[bytes]:
    """A record and, behind it, one for each variant, with all but the image, the key and the variant as in the source.

    Args:
        payload: The serialised record, which keeps its bytes.
        variants: What its rule makes of it.
        seed: The stage's seed.
        jpeg_quality: libjpeg quality of the variants.

    Raises:
        DatasetError: The image cannot be decoded.
    """
    source = Record.decode(payload)
    image = pixels_of(source)
    made = [
        replace(
            source,
            key=variant_key(source.key, variant.name),
            image=encode_jpeg(variant.make(image, seed, source.key), jpeg_quality),
            variant=variant.name,
        )
        for variant in variants
    ]
    return [payload, *(record.encode() for record in made)]


def pixels_of(record: Record) -> NDArray[np.uint8]:
    """Decode an aligned face, (H, W, 3) uint8 RGB.

    Raises:
        DatasetError: It cannot be decoded.
    """
    try:
        return decode(record.image)
    except ImageError as error:
        raise DatasetError(
            f"image '{record.key}' of an aligned dataset cannot be decoded: {error}. Run align again."
        ) from error
