"""The evaluate stage on a model whose embeddings can be computed by hand: block means of the picture."""

import csv
import inspect
import json
import logging

import cv2
import keras
import numpy as np
import pytest
from kfp import dsl

from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.ledger import Reason
from faceflow.components.common.model import ModelContract, resize
from faceflow.components.common.record import Record
from faceflow.components.evaluate import component, stage

SIZE = 56


def picture(identity, image, noise):
    shared = np.random.default_rng([1, identity]).uniform(40, 215, (7, 7, 3))
    rng = np.random.default_rng([2, identity, image])
    blocks = np.kron(shared + rng.normal(0, noise, shared.shape), np.ones((16, 16, 1)))
    return np.clip(blocks + rng.normal(0, 10, blocks.shape), 0, 255).astype(np.uint8)


def write_faces(path, name, people, images, *, noise=90.0, pairs=None, template="arcface_112", lost=(), first=0):
    """Aligned faces of a source; those in ``lost`` are dropped, as align drops what it finds no face in."""
    total = 0
    with publishing(path) as directory:
        with ShardWriter(directory, 0, stage="align") as out:
            for identity in range(first, first + people):
                for image in range(images):
                    key, whose = f"{name}/id{identity}/{image}.jpg", f"{name}/id{identity}"
                    total += 1
                    if key in lost:
                        out.dropped(key, whose, Reason.NO_FACE)
                        continue
                    encoded = encode_jpeg(picture(identity, image, noise))
                    out.write(Record(key, whose, encoded, 112, 112))
                    out.kept(key, whose)
        attachments = []
        if pairs is not None:
            attachments.append(directory / "pairs.csv")
            with open(attachments[0], "w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["key_a", "key_b", "same", "fold"])
                rows.writerows(pairs)
        finish(
            directory,
            stage="align",
            settings={},
            template=template,
            inputs={},
            images_in=total,
            attachments=attachments,
        )
    return path


def lfw_pairs(name="lfw", people=8, folds=4):
    """In each fold the same and the different pairs of two people, in the order of an LFW list."""
    rows = []
    for fold in range(folds):
        one, other = (f"{name}/id{(2 * fold + side) % people}" for side in (0, 1))
        rows += [(f"{who}/{i}.jpg", f"{who}/{i + 1}.jpg", 1, fold) for who in (one, other) for i in range(3)]
        rows += [
            (f"{one}/{i}.jpg", f"{other}/{j}.jpg", 0, fold) for i, j in ((0, 0), (0, 1), (1, 2), (2, 2), (3, 3), (3, 0))
        ]
    return rows


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network that averages 8 x 8 blocks: not trained, but with a contract like any other."""
    path = tmp_path_factory.mktemp("model") / "model"
    path.mkdir()
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(pixels)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(x))
    keras.Model(pixels, x).save(path / "model.keras")
    (path / "labels.csv").write_text("label,identity\n0,a\n1,b\n")
    training = {"fingerprint": "f" * 64, "settings": {"width": 1.0}}
    ModelContract("blocks", SIZE, SIZE, "arcface_112", 147, 2, training).write(path)
    return path


def embedding_by_hand(image):
    """What the model and the flip sum give, with numpy alone but for the shared resize."""
    small = np.asarray(resize(image, SIZE, SIZE)).astype(np.float64)
    total = np.zeros(147)
    for side in (small, small[:, ::-1]):
        total += ((side - 127.5) / 127.5).reshape(7, 8, 7, 8, 3).mean((1, 3)).reshape(-1)
    return total / np.linalg.norm(total)


def outputs_in(folder):
    return stage.Outputs(folder / "scores.json", folder / "roc.json", folder / "report.html")


def evaluate(folder, model, faces=(), held_out=None, **settings):
    outputs = outputs_in(folder)
    summary = stage.run(stage.Settings(**settings), stage.Inputs(model, tuple(faces), held_out), outputs)
    return summary, json.loads(outputs.scores.read_text()), outputs


@pytest.fixture(scope="module")
def evaluated(model, tmp_path_factory):
    """LFW-like faces with pairs, faces of two kinds without, a placeholder and held-out identities."""
    folder = tmp_path_factory.mktemp("evaluated")
    lost = ["lfw/id1/3.jpg"]
    sets = [
        write_faces(folder / "placeholder", "held_out", 0, 0),
        write_faces(folder / "lfw", "lfw", 8, 4, pairs=lfw_pairs(), lost=lost),
        write_faces(folder / "folder", "folder", 3, 5, first=50),
        write_faces(folder / "again", "folder", 4, 3, first=60),
        write_faces(folder / "alone", "alone", 1, 5),
    ]
    held_out = write_faces(folder / "held", "train_source", 9, 4, first=100)
    return *evaluate(folder, model, sets, held_out, max_missing_pairs_fraction=0.1, seed=5), folder


def test_every_set_with_faces_is_scored_under_a_name_of_its_own(evaluated):
    _, scores, _, _ = evaluated
    assert [each["name"] for each in scores["sets"]] == ["lfw", "folder", "folder_2", "held_out"]
    assert scores["unscored"] == [{"name": "alone", "reason": "1 identity gives no pair of two identities"}]
    assert [each["folds"] for each in scores["sets"]] == [4, 2, 2, 4]
    assert [each["folds_note"] for each in scores["sets"]] == [
        "",
        "both folds share the 3 identities: too few to divide",
        "no two folds share an identity",
        "no two folds share an identity",
    ]
    assert scores["model"] == "f" * 64


def test_the_score_is_that_of_embeddings_computed_by_hand(evaluated):
    _, scores, _, folder = evaluated
    rows = {record.key: embedding_by_hand(decode(record.image)) for record in Dataset(folder / "lfw").records()}
    pairs = [row for row in lfw_pairs() if row[0] in rows and row[1] in rows]
    distances = np.array([((rows[one] - rows[other]) ** 2).sum() for one, other, _, _ in pairs])
    same = np.array([row[2] for row in pairs], bool)
    folds = np.array([row[3] for row in pairs])
    accuracies = []
    for fold in range(4):
        rest = folds != fold
        right = [((distances[rest] < threshold) == same[rest]).mean() for threshold in np.arange(0, 4, 0.01)]
        threshold = np.arange(0, 4, 0.01)[np.argmax(right)]
        accuracies.append(((distances[~rest] < threshold) == same[~rest]).mean())
    result = scores["sets"][0]
    assert result["accuracy"] == pytest.approx(np.mean(accuracies))
    assert result["accuracy_std"] == pytest.approx(np.std(accuracies))
    assert [fold["accuracy"] for fold in result["per_fold"]] == pytest.approx(accuracies)
    beats = distances[same][:, None] - distances[~same][None]
    assert result["auc"] == pytest.approx((beats < 0).mean(), abs=1e-3)
    assert 0.5 < result["accuracy"] < 1  # neither trivial nor hopeless, or the comparison would show little


def test_a_lost_image_costs_its_pairs_and_is_stated(evaluated):
    _, scores, outputs, _ = evaluated
    result = scores["sets"][0]
    wanted = sum("lfw/id1/3.jpg" in row[:2] for row in lfw_pairs())
    assert result["missing_pairs"] == wanted > 0
    assert result["pairs"] + wanted == len(lfw_pairs())
    assert f"{wanted} pairs were left out" in outputs.report.read_text()


def test_only_rates_that_the_pairs_can_show_are_given(evaluated):
    _, scores, outputs, _ = evaluated
    for result in scores["sets"]:
        given = [entry["far"] for entry in result["tar_at_far"]]
        assert given == [0.1]
        assert result["fars_without_enough_pairs"] == [0.01, 0.001, 0.0001, 0.00001, 0.000001]
    assert "too few for a FAR of 0.01 or less" in outputs.report.read_text()


def test_the_run_page_gets_finite_numbers_and_the_first_curve(evaluated):
    summary, scores, outputs, _ = evaluated
    metrics = dsl.Metrics(uri="scores")
    curve = dsl.ClassificationMetrics(uri="roc")
    summary.publish(metrics, curve)
    first = scores["sets"][0]
    assert metrics.metadata["lfw_accuracy"] == first["accuracy"]
    assert metrics.metadata["lfw_raw_pixels_accuracy"] == first["baselines"]["raw_pixels"]
    assert metrics.metadata["held_out_tar_at_far_0.1"] == scores["sets"][3]["tar_at_far"][0]["tar"]
    points = curve.metadata["confidenceMetrics"]
    assert all(np.isfinite(value) for point in points for value in point.values())
    stored = json.loads(outputs.roc.read_text())["sets"]
    assert [each["name"] for each in stored] == ["lfw", "folder", "folder_2", "held_out"]
    assert np.trapezoid(stored[0]["tar"], stored[0]["far"]) == pytest.approx(first["auc"])


def test_the_report_shows_scores_pictures_and_folds(evaluated):
    page = evaluated[2].report.read_text()
    for heading in (
        "Results",
        "ROC",
        "lfw: Hardest pairs of one person",
        "held_out: Folds",
        "Sets that were not scored",
    ):
        assert heading in page
    assert page.count("data:image/jpeg") > 20


def test_scores_repeat_and_the_seed_moves_only_pairs_that_are_made(evaluated, model, tmp_path):
    _, scores, _, folder = evaluated
    faces = [folder / "lfw", folder / "folder"]
    again = evaluate(tmp_path, model, faces, max_missing_pairs_fraction=0.1, seed=5, batch_size=7)[1]["sets"]
    assert again == scores["sets"][:2]
    other = evaluate(tmp_path, model, faces, max_missing_pairs_fraction=0.1, seed=6)[1]["sets"]
    assert other[0] == scores["sets"][0]
    assert other[1] != scores["sets"][1]


def test_without_the_mirror_image_the_score_is_another(evaluated, model, tmp_path):
    _, scores, _, folder = evaluated
    plain = evaluate(tmp_path, model, [folder / "lfw"], max_missing_pairs_fraction=0.1, flip=False)[1]["sets"][0]
    assert plain["auc"] != scores["sets"][0]["auc"]
    assert plain["baselines"] == scores["sets"][0]["baselines"]


def test_with_nothing_to_score_it_says_so_and_does_not_fail(model, tmp_path, caplog):
    empty = write_faces(tmp_path / "empty", "held_out", 0, 0, template=None)
    with caplog.at_level(logging.WARNING, "faceflow"):
        summary, scores, outputs = evaluate(tmp_path, model, [empty], empty)
    assert (scores["sets"], summary.numbers, summary.curve) == ([], {}, None)
    assert "nothing was scored: give evaluation sets" in caplog.text
    assert "Nothing was scored" in outputs.report.read_text()
    assert json.loads(outputs.roc.read_text()) == {"sets": []}
    summary.publish(dsl.Metrics(uri="scores"), dsl.ClassificationMetrics(uri="roc"))


def test_faces_drawn_in_another_way_are_refused(model, tmp_path):
    faces = write_faces(tmp_path / "faces", "lfw", 2, 2)
    manifest = json.loads((faces / "manifest.json").read_text())
    (faces / "manifest.json").write_text(json.dumps({**manifest, "interpolation": "nearest"}))
    with pytest.raises(DatasetError, match="interpolation 'bilinear', but 'lfw' .* with 'nearest': align both"):
        evaluate(tmp_path, model, [faces])


def test_faces_of_another_template_are_refused_before_the_model_is_loaded(model, tmp_path):
    faces = write_faces(tmp_path / "faces", "lfw", 2, 2, template="arcface_96x112")
    (tmp_path / "broken").mkdir()
    for file in model.iterdir():
        content = b"no model" if file.name == "model.keras" else file.read_bytes()
        (tmp_path / "broken" / file.name).write_bytes(content)
    with pytest.raises(
        DatasetError, match="trained on.*'arcface_112'.*'lfw'.*'arcface_96x112': align to 'arcface_112'"
    ):
        evaluate(tmp_path, tmp_path / "broken", [faces])
    good = write_faces(tmp_path / "good", "lfw", 2, 3)
    with pytest.raises(DatasetError, match=r"model\.keras cannot be loaded.*run train again"):
        evaluate(tmp_path, tmp_path / "broken", [good])


def test_too_many_missing_pairs_fail_and_the_ledger_says_why(model, tmp_path):
    lost = [f"lfw/id{identity}/3.jpg" for identity in range(8)]
    pairs = [*lfw_pairs(), ("lfw/id0/0.jpg", "lfw/nobody/0.jpg", 0, 3)]
    faces = write_faces(tmp_path / "faces", "lfw", 8, 4, pairs=pairs, lost=lost)
    with pytest.raises(
        DatasetError,
        match="lacks an image for 17 of its 49 pairs.*0.05.*9 images.*8 no_face, 1 that align never saw.*Loosen",
    ):
        evaluate(tmp_path, model, [faces])
    assert not (tmp_path / "scores.json").exists()


ONE_FOLD = [(*row[:3], 0) for row in lfw_pairs()]
ONE_KIND = [row for row in lfw_pairs() if row[2] == 1]


@pytest.mark.parametrize("pairs", [ONE_FOLD, ONE_KIND], ids=["one fold", "one kind"])
def test_pairs_of_one_fold_or_one_kind_are_passed_over(model, tmp_path, pairs):
    faces = write_faces(tmp_path / "faces", "lfw", 8, 4, pairs=pairs)
    _, scores, _ = evaluate(tmp_path, model, [faces])
    assert scores["sets"] == []
    assert "needs two folds, and pairs of one identity as well as of two" in scores["unscored"][0]["reason"]


def test_an_image_that_does_not_decode_is_told_with_its_key(model, tmp_path):
    with publishing(tmp_path / "faces") as directory:
        with ShardWriter(directory, 0, stage="align") as out:
            for identity in range(2):
                for image in range(3):
                    key = f"lfw/id{identity}/{image}.jpg"
                    out.write(Record(key, f"lfw/id{identity}", encode_jpeg(picture(0, 0, 1))[:500], 112, 112))
                    out.kept(key, f"lfw/id{identity}")
        finish(directory, stage="align", settings={}, template="arcface_112", inputs={}, images_in=6)
    with pytest.raises(DatasetError, match=r"image 'lfw/id./.\.jpg' cannot be used.*run align again"):
        evaluate(tmp_path, model, [tmp_path / "faces"])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"folds": 1}, "'folds' is 1"),
        ({"fars": [0.1, 0.0]}, "'fars'.*between 0 and 1"),
        ({"fars": ["a"]}, "'fars'"),
        ({"max_missing_pairs_fraction": 1.1}, "at most 1"),
    ],
)
def test_settings_that_make_no_sense_are_told(changes, told):
    with pytest.raises(SettingsError, match=told):
        stage.Settings(**changes)


def test_the_components_parameters_have_the_settings_defaults():
    parameters = inspect.signature(component.evaluate.python_func).parameters
    offered = {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
    assert offered == {"seed": stage.Settings().seed, "options": {}, "rerun": ""}


def test_the_size_of_an_image_may_differ_from_the_models(model, tmp_path):
    # 56 x 56 pictures need no resize: the model must see them as they are
    with publishing(tmp_path / "faces") as directory:
        with ShardWriter(directory, 0, stage="align") as out:
            for identity in range(4):
                for image in range(3):
                    small = cv2.resize(picture(identity, image, 20), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
                    key = f"s/id{identity}/{image}.jpg"
                    out.write(Record(key, f"s/id{identity}", encode_jpeg(small), SIZE, SIZE))
                    out.kept(key, f"s/id{identity}")
        finish(directory, stage="align", settings={}, template="arcface_112", inputs={}, images_in=12)
    _, scores, _ = evaluate(tmp_path, model, [tmp_path / "faces"])
    assert scores["sets"][0]["accuracy"] > 0.9
