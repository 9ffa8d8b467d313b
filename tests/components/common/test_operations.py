import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, stats
from skimage import data, morphology

from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.operations import OPERATIONS, Noise, Variant


def variant(name, *arguments):
    defaults = [argument.default for argument in OPERATIONS[name].arguments]
    return Variant(name, (*arguments, *defaults[len(arguments) :]))


def picture():
    return np.ascontiguousarray(data.astronaut()[:90, 180:280])


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_keeps_the_house_rules(name):
    operation = OPERATIONS[name]
    assert operation.summary.endswith(".")
    for argument in operation.arguments:
        assert argument.check(argument.default) == argument.default
    image = picture()
    before = image.copy()
    changed = variant(name).make(image, 7, "s/a/1.jpg")
    assert (changed.shape, changed.dtype) == (image.shape, np.uint8)
    assert (image == before).all()
    assert (changed != image).any()
    assert (variant(name).make(image, 7, "s/a/1.jpg") == changed).all()


RANDOM = ["brightness", "contrast", "cutout", "gaussian_noise", "hsv", "mask", "motion_blur", "rotate", "salt_pepper"]


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - set(RANDOM)))
def test_the_other_operations_do_the_same_to_every_image(name):
    image = picture()
    assert (variant(name).make(image, 7, "s/a/1.jpg") == variant(name).make(image, 8, "s/a/2.jpg")).all()


@pytest.mark.parametrize("name", RANDOM)
def test_noise_depends_on_seed_key_and_operation_and_on_nothing_else(name):
    image = picture()
    first = variant(name).make(image, 7, "s/a/1.jpg")
    np.random.default_rng().random(3)
    variant(name).make(image, 7, "s/a/2.jpg")
    assert (variant(name).make(image, 7, "s/a/1.jpg") == first).all()
    assert (variant(name).make(image, 7, "s/a/2.jpg") != first).any()
    assert (variant(name).make(image, 8, "s/a/1.jpg") != first).any()


@pytest.mark.parametrize("size", [3, 5, 9])
def test_opening_equals_scikit_image(size):
    square = np.ones((size, size), bool)
    channels = np.moveaxis(picture(), 2, 0)
    expected = np.dstack([morphology.opening(channel, square, mode="ignore") for channel in channels])
    assert (variant("opening", size).make(picture(), 0, "") == expected).all()


@pytest.mark.parametrize("size", [2, 4, 8])
def test_opening_with_an_even_size_has_the_properties_of_an_opening(size):
    image = picture()
    opened = variant("opening", size).make(image, 0, "")
    assert (opened <= image).all()
    assert (variant("opening", size).make(opened, 0, "") == opened).all()
    square = np.zeros((30, 30, 3), np.uint8)
    square[10 : 10 + size, 12 : 12 + size] = 200
    assert (variant("opening", size).make(square, 0, "") == square).all()
    square[10, 12] = 0
    assert not variant("opening", size).make(square, 0, "").any()


def test_gaussian_noise_has_the_stated_distribution():
    grey = np.full((256, 256, 3), 128, np.uint8)
    noise = variant("gaussian_noise", 10.0).make(grey, 0, "s/a/1.jpg").astype(float) - 128
    # Rounding to whole grey levels adds a variance of 1/12.
    assert noise.std() == pytest.approx(np.sqrt(100 + 1 / 12), rel=0.01)
    assert abs(noise.mean()) < 5 * 10 / np.sqrt(noise.size)
    levels = np.arange(-45, 46)
    counts = [(noise == level).sum() for level in levels]
    expected = stats.norm.cdf(levels + 0.5, scale=10) - stats.norm.cdf(levels - 0.5, scale=10)
    inner = np.abs(levels) <= 30
    expected = expected[inner] / expected[inner].sum() * np.array(counts)[inner].sum()
    assert stats.chisquare(np.array(counts)[inner], expected).pvalue > 1e-4
    flat = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(flat.T) - np.eye(3)).max() < 0.02
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02


def test_gaussian_noise_stops_at_black_and_white():
    for level, share in ((0, 0.5), (255, 0.5)):
        noisy = variant("gaussian_noise", 20.0).make(np.full((200, 200, 3), level, np.uint8), 0, "k")
        # Half the values would leave the range, and so would those within half a level of its end.
        assert (noisy == level).mean() == pytest.approx(share + stats.norm.cdf(0.5 / 20) - 0.5, abs=0.01)
        assert np.abs(noisy.astype(int) - level).max() < 20 * 6


@pytest.mark.parametrize("fraction", [0.02, 0.3, 1.0])
def test_salt_and_pepper_changes_the_stated_fraction_of_whole_pixels(fraction):
    image = np.full((300, 300, 3), 90, np.uint8)
    noisy = variant("salt_pepper", fraction).make(image, 0, "s/a/1.jpg")
    salt, pepper = (noisy == 255).all(2), (noisy == 0).all(2)
    assert (salt | pepper | (noisy == 90).all(2)).all()
    pixels = image.shape[0] * image.shape[1]
    for found in (salt, pepper):
        assert stats.binomtest(int(found.sum()), pixels, fraction / 2).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.5, 1.5, 4])
def test_blur_equals_scipy(sigma):
    expected = ndimage.gaussian_filter(
        picture().astype(float), (sigma, sigma, 0), mode="mirror", radius=(int(np.ceil(3 * sigma)),) * 2 + (0,)
    )
    assert np.abs(variant("blur", sigma).make(picture(), 0, "") - expected).max() < 1


@pytest.mark.parametrize("quality", [10, 30, 95])
def test_jpeg_equals_pillow(quality):
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(file))
    apart = np.abs(variant("jpeg", quality).make(picture(), 0, "").astype(int) - expected)
    assert apart.max() <= 1


def test_grey_is_pillows_luma():
    expected = np.asarray(Image.fromarray(picture()).convert("L"))[..., None]
    assert np.abs(variant("grey").make(picture(), 0, "").astype(int) - expected).max() <= 1


def test_low_resolution_by_a_whole_factor_averages_blocks():
    image = picture()[:80, :96]
    small = image.reshape(20, 4, 24, 4, 3).mean((1, 3))
    expected = np.asarray(Image.fromarray(np.rint(small).astype(np.uint8)).resize((96, 80), Image.Resampling.BILINEAR))
    assert np.abs(variant("low_resolution", 4.0).make(image, 0, "").astype(int) - expected).max() <= 2


def test_hsv_turns_the_hue_as_colorsys_has_it():
    image = picture()
    shift = (2 * Noise(0, "noise", "k", "hsv(hue=90, saturation=0.8)").uniform(3) - 1) * [90 / 360, 0.8, 0.2]
    changed = variant("hsv", 90.0, 0.8).make(image, 0, "k")
    for row, column in ((3, 4), (40, 50), (80, 20), (10, 90)):
        hue, saturation, value = colorsys.rgb_to_hsv(*image[row, column] / 255.0)
        expected = colorsys.hsv_to_rgb(
            (hue + shift[0]) % 1, min(1, saturation * (1 + shift[1])), min(1, value * (1 + shift[2]))
        )
        assert changed[row, column] == pytest.approx(np.array(expected) * 255, abs=1)


def test_light_and_contrast_are_straight_lines():
    image = picture()
    for key in ("a", "b", "c"):
        factor = 1 + 0.4 * (2 * Noise(0, "noise", key, "brightness").uniform(1)[0] - 1)
        lit = variant("brightness").make(image, 0, key)
        assert np.abs(lit - np.clip(image * factor, 0, 255)).max() <= 0.5 + 1e-3
        factor = 1 + 0.5 * (2 * Noise(0, "noise", key, "contrast").uniform(1)[0] - 1)
        stretched = variant("contrast").make(image, 0, key)
        assert np.abs(stretched - np.clip((image - image.mean()) * factor + image.mean(), 0, 255)).max() <= 0.5 + 1e-3


def test_motion_blur_draws_a_point_as_a_line_of_the_stated_length():
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    angles = set()
    for key in range(5):
        line = variant("motion_blur", 9.0).make(point, 0, str(key))[..., 0].astype(float)
        assert line.sum() == pytest.approx(255, abs=20)
        rows, columns = np.nonzero(line)
        spread = np.cov(np.vstack([rows, columns]), aweights=line[rows, columns], ddof=0)
        thin, long = np.linalg.eigvalsh(spread)
        # A line of n equal pixels has a variance of (n^2 - 1) / 12.
        assert long == pytest.approx((81 - 1) / 12, rel=0.15)
        assert thin < 0.5
        angles.add(round(float(np.arctan2(spread[0, 1], spread[0, 0] - spread[1, 1])), 1))
    assert len(angles) > 2


def test_rotate_turns_about_the_middle_by_the_angle_that_was_drawn():
    rows, columns = np.mgrid[:81, :81] - 40.0
    for key in ("a", "b", "c"):
        angle = np.radians(60 * (2 * float(Noise(0, "noise", key, "rotate(degrees=60)").uniform(1)[0]) - 1))
        # A plane stays a plane, its slope turned with the image.
        plane = np.rint(128 + columns)[..., None].repeat(3, 2).astype(np.uint8)
        turned = variant("rotate", 60.0).make(plane, 0, key)[..., 0]
        inside = rows**2 + columns**2 < 38**2
        expected = 128 + columns * np.cos(angle) - rows * np.sin(angle)
        assert np.abs(turned - expected)[inside].max() < 1


def test_flip_mirrors():
    assert (variant("flip").make(picture(), 0, "") == picture()[:, ::-1]).all()


def test_cutout_covers_one_square_anywhere():
    image = np.full((60, 50, 3), 7, np.uint8)
    corners = set()
    for key in range(60):
        covered = (variant("cutout", 0.4).make(image, 0, str(key)) == 128).all(2)
        rows, columns = np.nonzero(covered)
        assert covered.sum() == 400
        assert (np.ptp(rows), np.ptp(columns)) == (19, 19)
        corners.add((int(rows[0]) // 21, int(columns[0]) // 16))
    assert corners == {(row, column) for row in range(2) for column in range(2)}


@pytest.mark.parametrize("name", ["arcface_112", "arcface_96x112"])
def test_mask_covers_nose_and_mouth_and_leaves_the_eyes(name):
    template = TEMPLATES[name]
    image = np.random.default_rng(0).integers(0, 256, (template.height, template.width, 3), np.uint8)
    changed = (variant("mask").make(image, 0, "k") != image).any(2)
    at = [bool(changed[round(y), round(x)]) for x, y in template.landmarks]
    assert at == [False, False, True, True, True]
    assert not changed[: round(0.5 * template.height)].any()
    assert 0.2 < changed.mean() < 0.45
