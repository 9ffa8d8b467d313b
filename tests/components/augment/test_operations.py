import numpy as np
import pytest
from scipy import stats
from skimage import data, morphology

from faceflow.components.augment.operations import OPERATIONS, Variant


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


@pytest.mark.parametrize("name", ["gaussian_noise", "salt_pepper"])
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
