"""Training: a real run that is killed and goes on, and its parts on a network small enough to follow."""

import inspect
import json
import logging
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, SettingsError, TrainingError
from faceflow.components.common.model import embed, load_model, load_model_contract
from faceflow.components.train import component, devices, stage
from faceflow.components.train.checkpoint import Checkpoints, restore, variables_of
from faceflow.components.train.input import FaceReader, training_batches
from faceflow.components.train.packed import PackedFaces
from faceflow.components.train.schedule import LearningRate
from faceflow.components.train.training import EpochWatch, Phase, fit_phase, phase_model, plan, train

# ---- a real run


def outputs_in(folder):
    return stage.Outputs(folder / "model", folder / "metrics.json", folder / "report.html", folder / "scratch")


REAL = {"epochs": 4, "softmax_fraction": 0.0, "batch_size": 16, "width": 0.1, "input_size_px": 32, "embedding_size": 16}


@pytest.fixture(scope="module")
def resumed(packed, tmp_path_factory):
    """A training that was killed after its first epoch, and then run again to its end."""
    folder = tmp_path_factory.mktemp("run")
    outputs = outputs_in(folder)
    paths = {"packed": packed, **vars(outputs)}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in {**paths, **REAL}.items()]
    with open(folder / "log", "wb") as log:
        first = subprocess.Popen([sys.executable, "-m", "faceflow.components.train", *options], stderr=log)
    kept = []
    while not kept and first.poll() is None:
        kept = list(outputs.scratch.glob("train-*.npz"))
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL, (folder / "log").read_text()
    left = sorted(path.name for path in folder.iterdir())
    epoch = Checkpoints(outputs.scratch, kept[0].stem.removeprefix("train-")).load().epoch

    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("faceflow").addHandler(handler)
    logging.getLogger("faceflow").setLevel(logging.INFO)
    try:
        numbers = stage.run(stage.Settings(**REAL), stage.Inputs(packed), outputs)
    finally:
        logging.getLogger("faceflow").removeHandler(handler)
    return outputs, epoch, left, messages, numbers


def test_a_killed_training_leaves_nothing_that_looks_finished(resumed):
    _, _, left, _, _ = resumed
    assert set(left) <= {"log", "scratch", ".model.partial"}


def test_it_goes_on_after_the_last_finished_epoch(resumed):
    outputs, epoch, _, messages, _ = resumed
    assert 1 <= epoch < 4
    assert [said for said in messages if f"training continues from epoch {epoch + 1} of 4" in said]
    history = json.loads(outputs.metrics.read_text())["epochs"]
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert f"cut short after epoch {epoch}" in outputs.report.read_text()
    assert not list(outputs.scratch.iterdir())


def test_it_learns(resumed):
    history = json.loads(resumed[0].metrics.read_text())["epochs"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert history[-1]["accuracy"] > 0.9


def test_the_model_comes_with_its_contract(resumed, packed):
    outputs, _, _, _, numbers = resumed
    contract = load_model_contract(outputs.model)
    assert (contract.height_px, contract.width_px, contract.embedding_size) == (32, 32, 16)
    assert (contract.template, contract.interpolation) == ("arcface_112", "bilinear")
    assert (contract.identities, contract.channels) == (5, "RGB")
    assert contract.training["settings"] == stage.Settings(**REAL).for_manifest()
    assert (outputs.model / contract.labels_file).read_bytes() == (packed / "labels.csv").read_bytes()
    assert str(packed.parent) not in (outputs.model / "model.json").read_text()
    model = load_model(outputs.model)
    embeddings = embed(model, np.zeros((3, 32, 32, 3), np.uint8))
    assert embeddings.shape == (3, 16)
    assert numbers["identities"] == 5
    assert all(np.isfinite(value) for value in numbers.values())
    page = outputs.report.read_text()
    assert all(heading in page for heading in ("Accuracy", "Loss", "Learning rate", "What the network sees"))


def test_an_output_that_is_in_the_way_is_told_before_training(resumed, packed):
    with pytest.raises(DatasetError, match="exists already"):
        stage.run(stage.Settings(**REAL), stage.Inputs(packed), resumed[0])


def test_an_interruption_says_what_happens_next_and_leaves_nothing(packed, tmp_path, caplog):
    class Interrupt(logging.Handler):
        def emit(self, record):
            if "from epoch 1" in record.getMessage():
                raise KeyboardInterrupt

    log = logging.getLogger("faceflow.train")
    handler = Interrupt()
    log.addHandler(handler)
    try:
        with caplog.at_level(logging.INFO, "faceflow"), pytest.raises(KeyboardInterrupt):
            stage.run(stage.Settings(**REAL), stage.Inputs(packed), outputs_in(tmp_path))
    finally:
        log.removeHandler(handler)
    assert "interrupted before an epoch was kept: the same run begins anew" in caplog.text
    assert not list(tmp_path.iterdir())


# ---- the parts

STEPS, BATCH, EPOCHS = 4, 16, 4
READER = FaceReader((112, 112), (28, 28), 5)


def tiny_network(height=28, width=28, embedding_size=8, _=1.0, precision="float32"):
    pixels = keras.Input((height, width, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.AveragePooling2D(4)(x)
    x = keras.layers.Conv2D(6, 1, dtype=precision)(x)
    x = keras.layers.BatchNormalization(momentum=0.9, dtype=precision)(x)
    x = keras.layers.PReLU(shared_axes=[1, 2], dtype=precision)(x)
    x = keras.layers.Dense(embedding_size, dtype=precision)(keras.layers.Flatten()(x))
    return keras.Model(pixels, keras.layers.Activation("linear", dtype="float32")(x))


class Run:
    """A phase of the real training code over the tiny network."""

    def __init__(self, packed, scratch, *, head="arcface", bad_weights=False, **changes):
        keras.utils.set_random_seed(7)
        given = {"epochs": EPOCHS, "softmax_fraction": 0.0, "batch_size": BATCH, "learning_rate": 0.05, "scale": 16.0}
        self.settings = stage.Settings(**given | changes)
        self.dataset = Dataset(packed / "train")
        self.phase = Phase(head, 0, EPOCHS)
        self.rate = LearningRate(self.settings.learning_rate, EPOCHS * STEPS, warmup_steps=STEPS)
        network = tiny_network(precision=self.settings.precision)
        self.model = phase_model(network, self.phase, self.settings, 5, self.rate, jit_compile=False)
        self.checkpoints = Checkpoints(scratch, "key")
        self.history = []
        if bad_weights:
            self.model.layers[-1].kernel.assign(np.full((8, 5), np.nan))

    def fit(self, first, last):
        stream = training_batches(self.dataset, READER, batch_size=BATCH, epochs=range(first, last), seed=1)
        watch = EpochWatch(self.settings, self.phase, 0, first, BATCH, STEPS, self.rate, self.history, self.checkpoints)
        fit_phase(self.model, stream, None, first, last, STEPS, watch)
        return self

    @property
    def values(self):
        return [variable.numpy() for variable in variables_of(self.model)]


def train_tiny(packed, scratch, stop_at=None, caught=None, **changes):
    """Run the whole training over the tiny network, interrupted as soon as an epoch is logged if asked to."""

    class Interrupt(logging.Handler):
        def emit(self, record):
            if caught is not None:
                caught.append(record.getMessage())
            if stop_at is not None and record.getMessage().startswith(f"epoch {stop_at} of"):
                raise KeyboardInterrupt

    settings = stage.Settings(
        **{"epochs": 4, "softmax_fraction": 0.5, "batch_size": 16, "input_size_px": 28, "scale": 16.0} | changes
    )
    log, handler = logging.getLogger("faceflow.train"), Interrupt()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        opened = PackedFaces.open(packed)
        chosen = devices.choose("off", 16)
        return train(settings, opened, Checkpoints(scratch, "key"), chosen, build=tiny_network)
    finally:
        log.removeHandler(handler)


@pytest.fixture(scope="module")
def unbroken(packed):
    return train_tiny(packed, None)


def test_the_heads_take_turns_and_the_second_starts_from_the_firsts_weights(unbroken):
    assert [row["head"] for row in unbroken.history] == ["softmax", "softmax", "arcface", "arcface"]
    # from weights of nothing, five classes would be told at random after the switch
    assert unbroken.history[2]["accuracy"] > unbroken.history[0]["accuracy"] > 0.2
    assert unbroken.history[1]["validation_accuracy"] > 0.8


@pytest.mark.parametrize("stop_at", [3, 4])  # between the heads, and under the second
def test_an_interrupted_training_ends_where_an_unbroken_one_does(packed, tmp_path, unbroken, stop_at):
    with pytest.raises(KeyboardInterrupt):
        train_tiny(packed, tmp_path, stop_at)
    said = []
    resumed = train_tiny(packed, tmp_path, caught=said)
    assert resumed.resumed_from == stop_at - 1
    assert [line for line in said if line.startswith(f"training continues from epoch {stop_at} of 4")]
    for one, two in zip(unbroken.network.get_weights(), resumed.network.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    losses = [[row["loss"] for row in each.history] for each in (unbroken, resumed)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


def test_the_optimizers_state_and_the_loss_scale_are_kept(packed, tmp_path):
    changes = {"optimizer": "adamw", "precision": "mixed_float16", "learning_rate": 0.003}
    first = Run(packed, tmp_path, **changes).fit(0, 1)
    second = Run(packed, tmp_path, **changes)
    fresh = second.values
    assert restore(second.model, second.checkpoints.load().arrays)
    names = [variable.path for variable in variables_of(second.model)]
    assert [name for name in names if "dynamic_scale" in name]
    assert [name for name in names if "velocity" in name]
    changed = 0
    for one, two, new in zip(first.values, second.values, fresh, strict=True):
        np.testing.assert_array_equal(one, two)
        changed += not np.array_equal(one, new)
    assert changed > len(names) / 2


def test_several_devices_train_and_resume(packed, tmp_path):
    # one replica of the strategy that several GPUs get: mirrored variables, and reductions across replicas
    chosen = devices.mirrored(["CPU:0"], "auto", BATCH)
    assert not chosen.jit_compile
    with chosen.strategy.scope():
        first = Run(packed, tmp_path).fit(0, 2)
        second = Run(packed, tmp_path)
        assert restore(second.model, second.checkpoints.load().arrays)
    for one, two in zip(first.values, second.values, strict=True):
        np.testing.assert_array_equal(one, two)
    plain = Run(packed, tmp_path / "plain").fit(0, 2)
    for one, two in zip(first.values, plain.values, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("jit_compile", "batch_size", "told"), [("auto", 7, "'batch_size' is 7.*multiple of 2"), ("on", 8, "'jit_compile'")]
)
def test_what_several_devices_cannot_do_is_told(jit_compile, batch_size, told):
    with pytest.raises(SettingsError, match=told):
        devices.mirrored(["CPU:0", "CPU:1"], jit_compile, batch_size)


def test_xla_is_left_off_on_a_cpu_unless_asked_for():
    assert not devices.choose("auto", 8).jit_compile
    assert devices.choose("on", 8).jit_compile
    assert devices.choose("auto", 8).description == "CPU"


@pytest.mark.parametrize(("head", "remedy"), [("arcface", "softmax_fraction"), ("softmax", "warmup_epochs")])
def test_a_loss_that_is_not_finite_stops_with_a_remedy_and_is_not_kept(packed, tmp_path, head, remedy):
    run = Run(packed, tmp_path, head=head, bad_weights=True)
    with pytest.raises(
        TrainingError, match=rf"loss became nan in epoch 1 \({head}\), between batches 1 and 4 of 4.*{remedy}"
    ):
        run.fit(0, EPOCHS)
    assert run.checkpoints.load() is None


def test_a_label_that_is_no_class_is_told_in_our_words(make_packed, tmp_path):
    bad = make_packed(tmp_path / "packed", label=lambda identity: 5 if identity == 3 else identity)
    with pytest.raises(DatasetError, match=r"label outside 0\.\.4.*toy/id3/.*Run pack again"):
        Run(bad, tmp_path / "scratch").fit(0, 1)


def test_weight_decay_spares_what_only_scales_and_shifts(packed, tmp_path):
    run = Run(packed, tmp_path, weight_decay=0.5, clip_norm=0.0)
    variables = run.model.trainable_variables
    before = [variable.numpy() for variable in variables]
    run.model.optimizer.apply([np.zeros(variable.shape, np.float32) for variable in variables], variables)
    rate = float(run.rate(0))
    for variable, old in zip(variables, before, strict=True):
        factor = 1 - 0.5 * rate if variable.name == "kernel" else 1
        np.testing.assert_allclose(variable, old * factor, rtol=1e-6, err_msg=variable.path)
    assert {variable.name for variable in variables} == {"kernel", "bias", "gamma", "beta", "alpha"}


def test_a_checkpoint_of_another_network_or_a_damaged_one_is_not_used(packed, tmp_path, caplog):
    run = Run(packed, tmp_path).fit(0, 1)
    other = Run(packed, tmp_path, head="softmax")
    before = other.values
    assert not restore(other.model, run.checkpoints.load().arrays)
    assert all(np.array_equal(one, two) for one, two in zip(before, other.values, strict=True))
    run.checkpoints.path.write_bytes(run.checkpoints.path.read_bytes()[:1000])
    assert run.checkpoints.load() is None
    assert "cannot be read" in caplog.text
    assert Checkpoints(tmp_path, "another").load() is None
    run.checkpoints.remove()
    assert not list(tmp_path.iterdir())


def test_without_scratch_nothing_is_kept(packed):
    checkpoints = Checkpoints(None, "key")
    checkpoints.save(0, 1, [], Run(packed, None).model)
    assert checkpoints.load() is None


def test_the_phases_share_out_the_epochs():
    assert plan(6, 1 / 3) == [Phase("softmax", 0, 2), Phase("arcface", 2, 6)]
    assert plan(6, 0.0) == [Phase("arcface", 0, 6)]
    assert plan(6, 1.0) == [Phase("softmax", 0, 6)]
    assert plan(3, 0.1) == [Phase("softmax", 0, 1), Phase("arcface", 1, 3)]
    assert plan(1, 0.1) == [Phase("softmax", 0, 1)]


# ---- settings


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0}, "'epochs' is 0.*at least 1"),
        ({"softmax_fraction": 1.5}, "'softmax_fraction' is 1.5, but must be at most 1"),
        ({"epochs": 3, "warmup_epochs": 3.5}, "'warmup_epochs' is 3.5"),
        ({"decay_steps": [0.5, 0.4]}, "'decay_steps'.*rising"),
        ({"decay_steps": [1.5]}, "'decay_steps'.*between 0 and 1"),
        ({"precision": "float16"}, "'precision' is 'float16'.*mixed_float16"),
        ({"margin": 2.0}, "'margin' is 2.0.*at most 1.5"),
    ],
)
def test_settings_that_make_no_sense_are_told(changes, told):
    with pytest.raises(SettingsError, match=told):
        stage.Settings(**changes)


def test_the_components_parameters_have_the_settings_defaults():
    parameters = inspect.signature(component.train.python_func).parameters
    offered = {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
    extra = {name: offered.pop(name) for name in ("scratch", "options", "rerun")}
    assert extra == {"scratch": "", "options": {}, "rerun": ""}
    defaults = stage.Settings().for_manifest()
    assert offered == {name: defaults[name] for name in offered}


def test_the_checkpoints_key_hangs_on_data_and_settings(packed, make_packed, tmp_path):
    other = make_packed(tmp_path / "packed", images=6)
    assert PackedFaces.open(packed).fingerprint != PackedFaces.open(other).fingerprint
    assert stage.Settings(seed=1).for_manifest() != stage.Settings(seed=2).for_manifest()
