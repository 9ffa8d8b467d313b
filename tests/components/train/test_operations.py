"""The operations as TensorFlow graphs against the same operations with OpenCV."""

import cv2
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from faceflow.components.common.operations import OPERATIONS, Noise, Variant, operation
from faceflow.components.train import operations

# Grey levels by which the two may differ, and on average over an image: they round at different places.
TOLERANCE = {
    "hsv": (1, 0.01),
    "contrast": (1, 0.01),
    "grey": (1, 0.01),
    "blur": (1, 0.01),
    "motion_blur": (1, 0.01),
    "low_resolution": (2, 0.3),
    "rotate": (2, 0.01),
}
VARIANTS = [
    *(operation.usage for operation in OPERATIONS.values()),
    "opening(size=4)", "gaussian_noise(sigma=60)", "salt_pepper(fraction=0.5)", "blur(sigma=3.3)",
    "motion_blur(length=4.5)", "jpeg(quality=90)", "low_resolution(factor=2.7)", "brightness(amount=1)",
    "hsv(hue=180, saturation=1, value=1)", "rotate(degrees=180)", "cutout(size=0.13)", "mask(height=0.5)",
]  # fmt: skip


def picture(height=112, width=96):
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (9, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", VARIANTS)
def test_an_operation_does_online_what_it_does_offline(name):
    """Given the same random numbers, inside a tf.data pipeline."""
    variant, image = Variant.parse(name), picture()
    key = "s/a/1.jpg"
    stream = tf.data.Dataset.from_tensors(image).map(
        lambda pixels: operations.apply(variant, pixels, Noise(3, "noise", key, variant.name))
    )
    (online,) = stream.as_numpy_iterator()
    offline = variant.make(image, 3, key)
    assert online.dtype == offline.dtype == np.uint8
    apart = np.abs(online.astype(int) - offline)
    most, average = TOLERANCE.get(variant.operation, (0, 0))
    assert (apart.max() <= most) and (apart.mean() <= average)
    assert (offline != image).any()


def test_every_operation_has_a_graph():
    assert operations._FUNCTIONS.keys() == OPERATIONS.keys()


def test_an_operation_without_a_graph_runs_through_its_function():
    try:

        @operation(most=(1, 50))
        def darker(image, noise, *, most: int = 9):
            """Darken by a random number of levels."""
            return cv2.subtract(image, np.full_like(image, 1 + int(noise.uniform(1)[0] * most)))

        variant, image = Variant.parse("darker(most=30)"), np.full((8, 6, 3), 200, np.uint8)
        apart = []
        for seed in (1, 1, 2, 3):
            noise = operations.StatelessNoise(tf.constant([7, seed], tf.int64))
            changed = tf.function(lambda noise=noise: operations.apply(variant, tf.constant(image), noise))()
            apart.append(int(200 - changed.numpy()[0, 0, 0]))
            assert (changed.numpy() == 200 - apart[-1]).all()
        assert apart[0] == apart[1] and len(set(apart)) > 1 and all(1 <= each <= 30 for each in apart)
    finally:
        OPERATIONS.pop("darker", None)


def test_the_graphs_random_numbers_are_distributed_like_ours():
    online, ours = operations.StatelessNoise(tf.constant([1, 2], tf.int64)), Noise(1, 2)
    assert stats.kstest(online.uniform(20_000).numpy(), "uniform").pvalue > 1e-3
    assert stats.kstest(ours.uniform(20_000), "uniform").pvalue > 1e-3
    levels = np.arange(-40, 41)
    edges = np.concatenate([[-np.inf], levels[:-1] + 0.5, [np.inf]])
    expected = np.diff(stats.norm.cdf(edges, scale=12))
    for noise in (online, ours):
        drawn = np.clip(np.asarray(noise.normal(100, 200, sigma=12.0)), -40, 40)
        counts = np.array([(drawn == level).sum() for level in levels])
        assert stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-3


def test_two_draws_differ_and_the_same_seed_repeats_them():
    first, again, other = (operations.StatelessNoise(tf.constant([1, seed], tf.int64)) for seed in (2, 2, 3))
    draws = [noise.uniform(5).numpy() for noise in (first, first, again, other)]
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], draws[2])
    assert not np.array_equal(draws[0], draws[3])


def test_a_choice_of_variants_leaves_the_image_or_changes_it():
    variants = [Variant.parse(name) for name in ("opening", "gaussian_noise")]
    image = picture()
    seed = tf.constant([4, 5], tf.int64)
    made = [operations.choose(variants, tf.constant(choice), tf.constant(image), seed).numpy() for choice in range(3)]
    np.testing.assert_array_equal(made[0], image)
    np.testing.assert_array_equal(made[1], variants[0].make(image, 0, ""))
    noise = made[2].astype(int) - image
    assert noise[(image > 60) & (image < 195)].std() == pytest.approx(np.sqrt(100 + 1 / 12), rel=0.03)
