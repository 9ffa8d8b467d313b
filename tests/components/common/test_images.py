"""Pillow, used another way, is the oracle: every odd input must come out as the upright RGB picture it shows."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from faceflow.components.common.errors import ImageError
from faceflow.components.common.images import decode, encode_jpeg, inspect

RNG = np.random.default_rng(0)
SMALL = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
PICTURE = np.asarray(Image.fromarray(SMALL).resize((80, 60), Image.Resampling.BICUBIC))


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reason_of(data, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_come_out_exactly(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(saved(Image.fromarray(PICTURE), kind, **options)), PICTURE)


def test_jpeg_comes_out_in_rgb_order():
    decoded = decode(saved(Image.fromarray(PICTURE), "JPEG", quality=100, subsampling=0))
    assert np.abs(decoded.astype(int) - PICTURE).mean() < 1.5


def test_our_jpeg_is_read_by_others_in_rgb_order():
    again = np.asarray(Image.open(io.BytesIO(encode_jpeg(PICTURE, 100))))
    assert np.abs(again.astype(int) - PICTURE).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = saved(Image.fromarray(PICTURE), kind, exif=exif, **options)
    wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    decoded = decode(data)
    assert decoded.shape == wanted.shape == (inspect(data).height, inspect(data).width, 3)
    assert np.abs(decoded.astype(int) - wanted).mean() < 1.5


def test_a_wrong_orientation_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 77
    assert decode(saved(Image.fromarray(PICTURE), "JPEG", exif=exif)).shape == PICTURE.shape


def test_grey_becomes_three_equal_channels():
    decoded = decode(saved(Image.fromarray(PICTURE[..., 0]), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(PICTURE[..., :1], 3, axis=2))


def test_sixteen_bits_become_the_upper_eight():
    deep = PICTURE[..., 0].astype(np.uint16) * 256 + 128
    decoded = decode(saved(Image.fromarray(deep), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(PICTURE[..., :1], 3, axis=2))


def test_cmyk_jpeg_is_converted():
    data = saved(Image.fromarray(PICTURE).convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert inspect(data).mode == "CMYK"
    assert np.abs(decode(data).astype(int) - PICTURE).mean() < 3


def test_transparency_and_palettes_are_dealt_with():
    clear = np.dstack([PICTURE, np.full(PICTURE.shape[:2], 200, np.uint8)])
    np.testing.assert_array_equal(decode(saved(Image.fromarray(clear), "PNG")), PICTURE)
    palette = Image.fromarray(PICTURE).quantize(64)
    np.testing.assert_array_equal(decode(saved(palette, "PNG")), np.asarray(palette.convert("RGB")))


def test_one_pixel_is_an_image():
    np.testing.assert_array_equal(decode(saved(Image.fromarray(SMALL[:1, :1]), "PNG")), SMALL[:1, :1])


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_image_is_refused_not_filled_with_grey(kind, share):
    data = saved(Image.fromarray(PICTURE), kind)
    assert reason_of(data[: int(len(data) * share)]) == "undecodable"


@pytest.mark.parametrize("data", [b"", b"hello, I am a text file named .jpg", b"\x00" * 1000])
def test_other_files_are_not_images(data):
    assert reason_of(data) == "not_an_image"


def test_a_broken_header_is_undecodable():
    data = saved(Image.fromarray(PICTURE), "JPEG")
    assert reason_of(data[:25]) in ("undecodable", "not_an_image")


def huge_png(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_huge_picture_is_refused_by_its_header():
    data = huge_png(30_000, 30_000)
    header = inspect(data)
    assert (header.width, header.height) == (30_000, 30_000)
    assert reason_of(data) == "too_large"


def test_the_limit_on_pixels_is_exact():
    data = saved(Image.fromarray(PICTURE), "PNG")
    assert decode(data, max_pixels=80 * 60).shape == PICTURE.shape
    assert reason_of(data, max_pixels=80 * 60 - 1) == "too_large"


def test_anything_cut_or_flipped_gives_pixels_or_a_typed_error():
    data = saved(Image.fromarray(PICTURE), "JPEG")
    rng = np.random.default_rng(7)
    for _ in range(300):
        harmed = bytearray(data)
        for place in rng.integers(0, len(data), 4):
            harmed[place] = rng.integers(0, 256)
        try:
            decoded = decode(bytes(harmed), max_pixels=1_000_000)
        except ImageError:
            continue
        assert decoded.ndim == 3 and decoded.shape[2] == 3 and decoded.dtype == np.uint8
