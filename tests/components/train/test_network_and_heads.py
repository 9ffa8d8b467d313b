"""The network against the paper's numbers, the heads and the schedule against plain formulas."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from faceflow.components.train import mobilefacenet
from faceflow.components.train.heads import ArcFaceLoss, CosineHead, SoftmaxHead
from faceflow.components.train.schedule import LearningRate

# Chen et al. 2018, table 1: rows of operator, expansion, channels, repeats, stride
PAPER = [
    ("conv3x3", 0, 64, 1, 2),
    ("depthwise3x3", 0, 64, 1, 1),
    ("bottleneck", 2, 64, 5, 2),
    ("bottleneck", 4, 128, 1, 2),
    ("bottleneck", 2, 128, 6, 1),
    ("bottleneck", 4, 128, 1, 2),
    ("bottleneck", 2, 128, 2, 1),
    ("conv1x1", 0, 512, 1, 1),
    ("global", 0, 512, 1, 1),
    ("linear1x1", 0, 128, 1, 1),
]


def paper_cost():
    """Parameters and multiply-adds of the table at 112 x 112, from its rows alone."""
    channels, side, weights, biases, slopes, adds = 3, 112, 0, 0, 0, 0

    def layer(count, outputs, activated):
        nonlocal weights, biases, slopes, adds
        weights += count
        biases += outputs
        slopes += outputs if activated else 0
        adds += count * side * side

    for kind, expansion, outputs, repeats, stride in PAPER:
        for repeat in range(repeats):
            step = stride if repeat == 0 else 1
            if kind == "bottleneck":
                inner = expansion * channels
                layer(channels * inner, inner, True)
                side //= step
                layer(9 * inner, inner, True)
                layer(inner * outputs, outputs, False)
            elif kind == "global":
                pixels, side = side * side, 1
                layer(pixels * channels, channels, False)
            else:
                side //= step
                each = {"conv3x3": 9 * channels, "depthwise3x3": 9, "conv1x1": channels, "linear1x1": channels}[kind]
                layer(each * outputs, outputs, kind != "linear1x1")
            channels = outputs
    return weights + biases + slopes, adds


@pytest.fixture(scope="module")
def paper_network():
    return mobilefacenet.build(112, 112)


def test_the_full_network_costs_what_the_paper_says(paper_network):
    cost = mobilefacenet.cost(paper_network)
    assert tuple(cost) == paper_cost()
    assert round(cost.parameters / 1e6, 2) == 0.99
    assert round(cost.multiply_adds / 1e6) == 221
    assert round(4 * cost.parameters / 1e6, 1) == 4.0  # megabytes


def test_every_prelu_has_one_slope_a_channel(paper_network):
    prelus = [layer for layer in paper_network.layers if isinstance(layer, keras.layers.PReLU)]
    assert len(prelus) == 2 + 2 * 15 + 1
    assert all(layer.alpha.shape == (1, 1, layer.output.shape[-1]) for layer in prelus)


@pytest.mark.parametrize(
    ("size", "kernel"), [((112, 112), (7, 7)), ((64, 64), (4, 4)), ((112, 96), (7, 6)), ((50, 43), (4, 3))]
)
def test_the_global_convolution_covers_the_feature_map(size, kernel):
    network = mobilefacenet.build(*size, embedding_size=32, width=0.25)
    assert network.get_layer("global_conv").kernel_size == kernel
    assert network.output_shape == (None, 32)


def test_width_scales_channels_in_multiples_of_eight():
    assert [mobilefacenet.scaled(64, width) for width in (0.01, 0.25, 0.3, 0.5, 1, 2)] == [8, 16, 16, 32, 64, 128]
    network = mobilefacenet.build(32, 32, width=0.5)
    assert network.get_layer("last_conv").filters == 256
    assert network.get_layer("embedding_conv").filters == 128


def test_the_network_scales_pixels_itself():
    network = mobilefacenet.build(32, 32, width=0.1)
    scaling = keras.Model(network.input, network.get_layer("scaling").output)
    pixels = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(1, 32, 32, 3)
    np.testing.assert_allclose(scaling(pixels), (pixels.astype(np.float64) - 127.5) / 127.5, atol=1e-6)


@pytest.fixture(scope="module")
def small():
    network = mobilefacenet.build(32, 32, embedding_size=16, width=0.1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    return network, pixels


def test_a_saved_network_loads_without_our_code_and_embeds_alike(small, tmp_path):
    network, pixels = small
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch(pixels), network.predict_on_batch(pixels))
    assert keras.Model.from_config(network.get_config()).count_params() == network.count_params()


def test_the_network_works_inside_a_tf_data_pipeline(small):
    network, pixels = small
    stream = tf.data.Dataset.from_tensor_slices(pixels).batch(2).map(lambda batch: network(batch, training=False))
    np.testing.assert_allclose(np.concatenate(list(stream)), network(pixels, training=False), atol=1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_computes_small_and_embeds_in_float32(small, precision):
    network, pixels = small
    mixed = mobilefacenet.build(32, 32, embedding_size=16, width=0.1, precision=precision)
    mixed.set_weights(network.get_weights())
    assert mixed.get_layer("block1_expand_conv").compute_dtype == precision.removeprefix("mixed_")
    embeddings = mixed(pixels, training=False)
    assert embeddings.dtype == tf.float32
    plain = network(pixels, training=False).numpy()
    assert np.abs(embeddings - plain).max() < 0.05 * np.abs(plain).max()


# ---- heads


@pytest.mark.parametrize("head", [SoftmaxHead(7, name="head"), CosineHead(7, name="head")])
def test_a_head_survives_config_saving_and_mixed_precision(head, tmp_path):
    entry = keras.Input((4,))
    model = keras.Model(entry, head(entry))
    embeddings = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    model.save(tmp_path / "head.keras")
    loaded = keras.saving.load_model(tmp_path / "head.keras")
    np.testing.assert_array_equal(loaded(embeddings), model(embeddings))
    copy = type(head).from_config(head.get_config())
    assert (copy.classes, copy.name, copy.dtype) == (7, "head", "float32")
    keras.config.set_dtype_policy("mixed_float16")
    try:
        mixed = type(head)(7)
        assert mixed(embeddings.astype(np.float16)).dtype == tf.float32
    finally:
        keras.config.set_dtype_policy("float32")


def test_the_softmax_head_is_a_dense_layer():
    head = SoftmaxHead(3)
    head.build((None, 4))
    rng = np.random.default_rng(2)
    kernel, bias, x = rng.normal(size=(4, 3)), rng.normal(size=3), rng.normal(size=(5, 4))
    head.set_weights([kernel, bias])
    np.testing.assert_allclose(head(x.astype(np.float32)), x @ kernel + bias, atol=1e-5)


def test_the_cosine_head_gives_cosines_even_of_nothing():
    head = CosineHead(3)
    head.build((None, 4))
    rng = np.random.default_rng(3)
    kernel, x = rng.normal(size=(4, 3)), rng.normal(size=(5, 4))
    head.set_weights([kernel])
    wanted = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (kernel / np.linalg.norm(kernel, axis=0))
    np.testing.assert_allclose(head(x.astype(np.float32)), wanted, atol=1e-6)
    np.testing.assert_array_equal(head(np.zeros((1, 4), np.float32)), np.zeros((1, 3)))


# ---- ArcFace


def oracle(labels, cosines, margin, scale):
    """The loss as the paper writes it, with the arc cosine, in float64; beyond pi the usual substitute."""
    cosines = np.array(cosines, np.float64)
    losses = []
    for label, row in zip(labels, cosines, strict=True):
        angle = math.acos(row[label])
        logits = row.copy()
        beyond = angle + margin > math.pi
        logits[label] = row[label] - margin * math.sin(margin) if beyond else math.cos(angle + margin)
        logits *= scale
        top = logits.max()
        losses.append(top + math.log(np.exp(logits - top).sum()) - logits[label])
    return np.array(losses)


@pytest.mark.parametrize(("margin", "scale"), [(0.5, 64.0), (0.2, 16.0), (0.0, 30.0), (1.5, 64.0)])
def test_arcface_equals_the_papers_formula(margin, scale):
    rng = np.random.default_rng(4)
    cosines = rng.uniform(-0.999, 0.999, (400, 9))
    labels = rng.integers(0, 9, 400)
    loss = ArcFaceLoss(margin, scale, reduction=None)(labels, cosines.astype(np.float32)).numpy()
    np.testing.assert_allclose(loss, oracle(labels, cosines.astype(np.float32), margin, scale), rtol=2e-4, atol=2e-4)


def test_without_a_margin_arcface_is_a_scaled_softmax():
    rng = np.random.default_rng(5)
    cosines = rng.uniform(-1, 1, (50, 6)).astype(np.float32)
    labels = rng.integers(0, 6, 50)
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(labels, 20 * cosines)
    np.testing.assert_allclose(ArcFaceLoss(0.0, 20.0)(labels, cosines), plain, rtol=1e-4)


def test_the_targets_logit_falls_with_the_angle_all_the_way():
    for margin in (0.1, 0.5, 1.0):
        angles = np.linspace(0, math.pi, 2001)
        logits = ArcFaceLoss(margin).with_margin(np.cos(angles).astype(np.float32)).numpy()
        assert (np.diff(logits) <= 1e-6).all()


def test_a_million_logits_with_extremes_give_no_nan():
    rng = np.random.default_rng(6)
    loss = ArcFaceLoss(0.5, 64.0, reduction=None)
    for spread in (0.0, 1e-8, 1e-6, 1e-3, 1.0):
        cosines = rng.choice([-1.0, 0.0, 1.0], (10_000, 20)) + rng.normal(0, spread, (10_000, 20))
        cosines = tf.constant(np.clip(cosines, -1 - 2e-7, 1 + 2e-7), tf.float32)
        labels = tf.constant(rng.integers(0, 20, 10_000))
        with tf.GradientTape() as tape:
            tape.watch(cosines)
            losses = loss(labels, cosines)
        assert np.isfinite(losses).all()
        assert np.isfinite(tape.gradient(losses, cosines)).all()


def test_the_gradient_to_the_embedding_stays_bounded_at_the_extremes():
    head = CosineHead(2)
    head.build((None, 2))
    head.set_weights([np.eye(2)])
    for angle in (0.0, 1e-4, 1e-3, 1e-2, math.pi - 1e-3, math.pi):
        x = tf.constant([[math.cos(angle), math.sin(angle)]], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(x)
            value = ArcFaceLoss(0.5, 64.0)([0], head(x))
        # d cos(theta + m) / d theta is at most 1, so no part of the loss is steeper than its scale
        assert np.linalg.norm(tape.gradient(value, x)) <= 2 * 64 * 1.05


@pytest.mark.parametrize("label", [-1, 4, 10**6])
def test_a_label_that_is_no_class_gives_nan(label):
    losses = ArcFaceLoss(reduction=None)(np.array([0, label]), np.zeros((2, 4), np.float32)).numpy()
    assert np.isfinite(losses[0])
    assert np.isnan(losses[1])


def test_the_loss_takes_half_precision_and_survives_its_config():
    cosines = np.random.default_rng(7).uniform(-1, 1, (8, 5))
    labels = np.arange(8) % 5
    loss = ArcFaceLoss(0.3, 48.0, reduction=None)
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (copy.margin, copy.scale, copy.name) == (0.3, 48.0, "arcface")
    half = copy(labels, cosines.astype(np.float16))
    assert half.dtype == tf.float32
    np.testing.assert_allclose(half, loss(labels, cosines.astype(np.float16).astype(np.float32)), rtol=1e-5)


# ---- schedule


def test_the_cosine_warms_up_and_falls_to_zero():
    rate = LearningRate(0.4, total_steps=100, warmup_steps=10)
    wanted = [0.4 * min((step + 1) / 10, 0.5 * (1 + math.cos(math.pi * max(0, step - 10) / 90))) for step in range(101)]
    np.testing.assert_allclose([rate(step) for step in range(101)], wanted, atol=1e-6)
    assert float(rate(0)) == pytest.approx(0.04)
    assert float(rate(100)) == pytest.approx(0, abs=1e-8)


def test_the_steps_divide_by_ten():
    # MobileFaceNet's own: 0.1, divided at 36,000, 52,000 and 58,000 of 60,000 steps
    rate = LearningRate(0.1, 60_000, decay="step", drops=(0.6, 52 / 60, 58 / 60))
    steps = [0, 35_999, 36_000, 51_999, 52_001, 57_999, 58_001, 59_999]
    np.testing.assert_allclose(
        [rate(step) for step in steps], [0.1, 0.1, 0.01, 0.01, 1e-3, 1e-3, 1e-4, 1e-4], rtol=1e-5
    )


def test_a_later_phase_goes_on_along_the_same_curve():
    whole = LearningRate(0.1, 50, warmup_steps=5)
    second = LearningRate(0.1, 50, warmup_steps=5, first_step=20)
    np.testing.assert_allclose(
        [second(step) for step in range(30)], [whole(20 + step) for step in range(30)], atol=1e-8
    )
    copy = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(second))
    assert copy.get_config() == second.get_config()
