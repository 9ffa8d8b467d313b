"""The model artifact's contract, the one way to resize, and embedding."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from PIL import Image

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.model import ModelContract, embed, load_model, load_model_contract, normalise, resize

CONTRACT = ModelContract("toy", 8, 6, "arcface_96x112", 4, 3, {"fingerprint": "ab", "settings": {"width": 0.5}})


def write_model(path, contract=CONTRACT, shape=(8, 6, 3), size=4):
    path.mkdir()
    keras.utils.set_random_seed(3)
    pixels = keras.Input(shape)
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, -1.0)(pixels))
    keras.Model(pixels, keras.layers.Dense(size)(x)).save(path / "model.keras")
    (path / "labels.csv").write_text("label,identity\n")
    contract.write(path)
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model")


def test_a_contract_is_read_as_it_was_written(path):
    assert load_model_contract(path) == CONTRACT
    assert (path / "model.json").read_text() == (path / "model.json").read_text().strip() + "\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, "is not a faceflow model: it has no model.json"),
        ("{", "model.json is damaged"),
        ({"schema_version": 2}, "schema version 2, this faceflow reads 1"),
        ({"colour": "blue"}, "lacks or adds a field"),
        ({"channels": "BGR"}, "asks for channels 'BGR'"),
        ({"scaling": "x / 255"}, "scaling 'x / 255'"),
        ({"resizing": "nearest"}, "resizing.*'nearest'"),
        ({"model_file": "other.keras"}, "other.keras is missing"),
        ({"labels_file": "names.csv"}, "names.csv is missing"),
    ],
)
def test_a_contract_that_cannot_be_kept_is_told(tmp_path, change, told):
    path = write_model(tmp_path / "model")
    file = path / "model.json"
    if change is None:
        file.unlink()
    elif isinstance(change, str):
        file.write_text(change)
    else:
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError, match=told):
        load_model_contract(path)


def test_a_network_that_is_not_what_the_contract_says_is_told(tmp_path):
    path = write_model(tmp_path / "model", replace(CONTRACT, embedding_size=5))
    with pytest.raises(DatasetError, match=r"model\.keras maps .*4.* where model\.json says .*5.*run train again"):
        load_model(path)


@pytest.mark.parametrize("size", [(56, 56), (64, 64), (48, 96), (112, 112)])
def test_resizing_is_pillows_bilinear(size):
    rng = np.random.default_rng(1)
    image = np.asarray(Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)).resize((112, 112)))
    wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).astype(int)
    found = np.asarray(resize(image, *size))
    assert (found.dtype, found.shape) == (np.uint8, (*size, 3))
    assert np.abs(found - wanted).max() <= 1
    batch = np.asarray(resize(np.stack([image, image[::-1]]), *size))
    np.testing.assert_array_equal(batch[0], found)


def test_an_embedding_is_the_unit_sum_of_image_and_mirror_image(path):
    model = load_model(path)
    images = np.random.default_rng(2).integers(0, 256, (5, 8, 6, 3), dtype=np.uint8)
    kernel, bias = (np.asarray(weights, np.float64) for weights in model.get_weights())

    def by_hand(pixels):
        return ((pixels.reshape(len(pixels), -1) - 127.5) / 127.5) @ kernel + bias

    single, total = by_hand(images), by_hand(images) + by_hand(images[:, :, ::-1])
    for flip, wanted in ((False, single), (True, total)):
        found = embed(model, images, flip=flip)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(embed(model, iter(images), batch_size=2), embed(model, images), atol=1e-6)
    assert embed(model, []).shape == (0, 4)


def test_normalising_leaves_nothing_at_nothing():
    np.testing.assert_allclose(normalise(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
