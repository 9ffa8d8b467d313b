"""Pillow, used another way, is the oracle: every odd input must come out as the upright RGB picture it shows."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from faceflow.components.common import jpeg
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


def test_grey_with_alpha_and_one_bit_are_grey():
    grey = Image.fromarray(PICTURE[..., 0])
    alpha = Image.fromarray(np.full(PICTURE.shape[:2], 90, np.uint8))
    decoded = decode(saved(Image.merge("LA", [grey, alpha]), "PNG"))
    np.testing.assert_array_equal(decoded, np.repeat(PICTURE[..., :1], 3, axis=2))
    bits = PICTURE[..., 0] > 127
    np.testing.assert_array_equal(
        decode(saved(Image.fromarray(bits), "PNG")), np.repeat(np.uint8(255 * bits)[..., None], 3, 2)
    )


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_colour_becomes_the_upper_eight(channels):
    deep = RNG.integers(0, 65536, (6, 8, channels)).astype(np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()  # OpenCV writes BGR; Pillow cannot write 16-bit colour
    np.testing.assert_array_equal(decode(data), (deep[..., 2::-1] >> 8).astype(np.uint8))


def test_an_adobe_ycck_jpeg_is_converted():
    stored = np.full((16, 16, 4), (150, 110, 140, 180), np.uint8)
    data = bytearray(saved(Image.fromarray(255 - stored, "CMYK"), "JPEG", quality=100, subsampling=0))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0  # CMYK as it is; 2 says that the first three channels are Y, Cb and Cr
    data[marker + 11] = 2
    luma, cb, cr, key = 150.0, 110.0 - 128, 140.0 - 128, 180.0
    # T.871 for YCbCr. Adobe's files hold inverted inks, and YCC codes what the stored C, M and Y leave of 255.
    inks = np.array([luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb])
    assert np.abs(decode(bytes(data))[8, 8] - (255 - inks) * key / 255).max() < 3


def test_premultiplied_colours_are_what_they_were_before():
    colour, alpha = np.array([200, 120, 40]), 128
    pixels = np.full((4, 5, 4), [*np.round(colour * alpha / 255), alpha], np.uint8)
    tags = [(256, 3, 5), (257, 3, 4), (258, 3, 134), (259, 3, 1), (262, 3, 2), (273, 4, 142), (277, 3, 4), (278, 3, 4),
            (279, 4, pixels.size), (338, 3, 1)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 4 if tag == 258 else 1, value) for tag, kind, value in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0)
    data = head + struct.pack("<4H", 8, 8, 8, 8) + pixels.tobytes()
    assert len(head) == 134
    assert np.abs(decode(data).astype(int) - colour).max() <= 2


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture_counts(kind):
    first = Image.fromarray(PICTURE).quantize(64) if kind == "GIF" else Image.fromarray(PICTURE)
    options = {"lossless": True} if kind == "WEBP" else {}
    second = first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    data = saved(first, kind, save_all=True, append_images=[second], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 2
    np.testing.assert_array_equal(decode(data), np.asarray(first.convert("RGB")))


def ordinary_jpegs():
    picture, exif = Image.fromarray(PICTURE), Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker", 6
    grey = picture.convert("L")
    yield saved(picture, "JPEG")
    yield saved(grey, "JPEG")
    yield saved(picture, "JPEG", progressive=True)
    yield saved(grey, "JPEG", progressive=True, exif=exif)
    yield saved(picture, "JPEG", exif=exif, comment=b"\xff\xd8\xff\xc0", icc_profile=b"x" * 70_000)
    yield saved(picture, "JPEG", exif=b"Exif\0\0MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 8, 0, 0))
    yield saved(picture, "JPEG", keep_rgb=True)
    yield saved(picture, "JPEG", restart_marker_blocks=4)
    yield saved(picture.resize((3, 400)), "JPEG", quality=30, dpi=(72, 72))
    yield cv2.imencode(".jpg", PICTURE)[1].tobytes()


def pillow_says(data):
    with Image.open(io.BytesIO(data)) as image:
        return (*image.size, {"RGB": 3, "L": 1}.get(image.mode), image.getexif().get(0x0112, 0))


def test_the_quick_look_at_a_jpeg_says_what_pillow_says():
    for data in ordinary_jpegs():
        assert jpeg.measure(data) == pillow_says(data)
        assert (
            np.abs(
                decode(data).astype(int)
                - np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
            ).max()
            <= 1
        )


def test_the_quick_look_leaves_what_is_not_ordinary_to_pillow():
    picture = Image.fromarray(PICTURE)
    whole = saved(picture, "JPEG")
    frame = whole.index(b"\xff\xc0")
    others = {
        "another format": saved(picture, "PNG"),
        "four channels": saved(picture.convert("CMYK"), "JPEG"),
        "arithmetic coding": whole[:frame] + b"\xff\xc9" + whole[frame + 2 :],
        "12 bits": whole[: frame + 4] + b"\x0c" + whole[frame + 5 :],
        "no rows": whole[: frame + 5] + b"\0\0" + whole[frame + 7 :],
        "two frames": whole[:frame] + whole[frame : frame + 19] + whole[frame:],
        "cut in its header": whole[: frame + 8],
        "broken Exif": saved(picture, "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * 20),
        "no JPEG at all": b"\xff\xd8\xff",
        "nothing": b"",
    }
    for name, data in others.items():
        assert jpeg.measure(data) is None, name


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_harmed_jpegs_are_never_measured_as_something_else():
    rng = np.random.default_rng(3)
    compared = 0
    for data in ordinary_jpegs():
        for _ in range(100):
            harmed = bytearray(data)
            for place in rng.integers(2, min(len(data), 700), 2):
                harmed[place] = rng.integers(0, 256)
            quick = jpeg.measure(bytes(harmed))
            try:
                wanted = pillow_says(bytes(harmed))
            except Exception:
                continue
            if quick is not None:
                compared += 1
                assert quick[:3] == wanted[:3]
                # Pillow gives up at an Exif entry that it cannot read, wherever the orientation stands.
                assert quick[3] == wanted[3] or wanted[3] == 0
    assert compared > 300


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
