"""Decoding and encoding, in the one place where colour order, bit depth and orientation are dealt with.

Inside faceflow an image is (height, width, 3) uint8 RGB, upright.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from faceflow.components.common import jpeg
from faceflow.components.common.errors import ImageError
from faceflow.components.common.ledger import Reason
from faceflow.components.common.storage import readable_bytes

DEFAULT_MAX_PIXELS = 64_000_000

# The limit on pixels is a setting, checked here against the header before anything is decoded.
Image.MAX_IMAGE_PIXELS = None

_EXIF_ORIENTATION = 0x0112
_ENDINGS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
# For each EXIF orientation: whether to mirror left-right, and then how many quarter turns anticlockwise.
_UPRIGHT = {2: (True, 0), 3: (False, 2), 4: (True, 2), 5: (True, 1), 6: (False, 3), 7: (True, 3), 8: (False, 1)}


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded.

    Attributes:
        format: The container, for instance ``JPEG``.
        mode: The pixel layout in Pillow's words, for instance ``RGB``, ``L``, ``CMYK``, ``I;16``.
        width: Columns of the upright image, pixels.
        height: Rows of the upright image, pixels.
        orientation: The EXIF orientation, 1 to 8; 1 is upright.
    """

    format: str
    mode: str
    width: int
    height: int
    orientation: int


def inspect(data: bytes) -> Header:
    """Read an image's header without decoding its pixels.

    Raises:
        ImageError: The bytes are no image that can be read (``not_an_image``), or its header is broken
            (``undecodable``).
    """
    if not data:
        raise ImageError("the file is empty", Reason.NOT_AN_IMAGE)
    ordinary = jpeg.measure(data)
    if ordinary is not None:
        width, height, components, orientation = ordinary
        return _header("JPEG", "RGB" if components == 3 else "L", width, height, orientation)
    try:
        with Image.open(io.BytesIO(data)) as image:
            # PngImageFile.getexif() decodes the whole picture to find a chunk behind it; info holds what stands before.
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            orientation = exif.get(_EXIF_ORIENTATION, 1)
            width, height = image.size
            kind, mode = image.format or "", image.mode
    except UnidentifiedImageError as error:
        start = data[:12].hex(" ")
        raise ImageError(f"not an image: the file begins with {start}", Reason.NOT_AN_IMAGE) from error
    except Exception as error:  # Pillow's parsers raise whatever a broken header leads them to
        raise ImageError(f"the image's header is broken: {error}", Reason.UNDECODABLE) from error
    return _header(kind, mode, width, height, orientation)


def _header(kind: str, mode: str, width: int, height: int, orientation: int) -> Header:
    if orientation not in _UPRIGHT:
        orientation = 1
    if orientation >= 5:
        width, height = height, width
    return Header(kind, mode, width, height, orientation)


def check_pixels(header: Header, max_pixels: int) -> None:
    """Refuse an image with more pixels than allowed.

    Raises:
        ImageError: Reason ``too_large``.
    """
    if header.width * header.height > max_pixels:
        raise ImageError(
            f"{header.width:,} x {header.height:,} pixels are more than the {max_pixels:,} allowed", Reason.TOO_LARGE
        )


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS, header: Header | None = None) -> NDArray[np.uint8]:
    """Decode an image file to upright RGB.

    Grey becomes three equal channels, 16 bits become the upper 8, CMYK is converted, transparency is dropped, and the
    EXIF orientation is applied.

    Args:
        data: The file's bytes.
        max_pixels: Largest number of pixels allowed, checked before decoding.
        header: What :func:`inspect` says of it, if that is known.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: ``not_an_image``, ``undecodable`` (a truncated file among them) or ``too_large``.
    """
    header = header or inspect(data)
    check_pixels(header, max_pixels)
    ending = _ENDINGS.get(header.format)
    # OpenCV fills the missing part of a truncated file with grey and says nothing; Pillow refuses it.
    whole = ending is not None and (data.endswith(ending) or data[-64:].rstrip(b"\0\r\n ").endswith(ending))
    pixels = _decode_strictly(data) if not whole or header.mode == "CMYK" else None
    if pixels is None or header.mode.startswith("I"):
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        try:
            decoded = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
        except cv2.error as error:
            raise ImageError(f"the image cannot be decoded: {error}", Reason.UNDECODABLE) from error
        if decoded is not None:
            pixels = np.asarray(decoded, np.uint8)
    if pixels is None:
        pixels = _decode_strictly(data)
    return upright(pixels, header.orientation)


def _decode_strictly(data: bytes) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"), np.uint8)
    except Exception as error:  # as in inspect()
        size = readable_bytes(len(data))
        raise ImageError(f"the image cannot be decoded ({size}): {error}", Reason.UNDECODABLE) from error


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Apply an EXIF orientation (Exif 2.32, tag 0x0112) to (H, W, 3) pixels."""
    if orientation not in _UPRIGHT:
        return pixels
    mirrored, turns = _UPRIGHT[orientation]
    if mirrored:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(np.rot90(pixels, turns))


def encode_jpeg(image: NDArray[np.uint8], quality: int = 95) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG.

    Args:
        image: The pixels.
        quality: libjpeg quality, 1 to 100.
    """
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"an image of shape {image.shape} cannot be encoded", Reason.UNDECODABLE)
    return encoded.tobytes()
