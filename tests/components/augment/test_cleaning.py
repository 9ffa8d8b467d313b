"""Cleaning: planted duplicates, overlaps and outliers, and perceptual hashes on their own."""

import csv
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.augment import stage
from faceflow.components.augment.cleaning import Cleaned, Rules, decide_file, measure_shard, name_of, read_names
from faceflow.components.augment.perceptual import distances, perceptual_hashes
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.model import ModelContract
from faceflow.components.common.record import Record

SIDE = 112


def colour(name):
    """The eight shades, in two rows of four, that an identity has in common."""
    return np.random.default_rng(list(name.encode())).uniform(60, 195, (2, 4, 3))


def face(name, number, shades=None):
    """A picture of an identity's shades, with detail and light of its own."""
    rng = np.random.default_rng([*name.encode(), 7, number])
    blocks = cv2.resize((colour(name) if shades is None else shades).astype(np.float32), (SIDE, SIDE))
    detail = np.zeros((SIDE, SIDE, 3), np.float32)
    for cells, strength in ((10, 24), (20, 16), (40, 10)):  # as in photographs, finer structure is fainter
        noise = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        detail += cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip((blocks + detail) * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)


def record(name, file, pixels, quality=92):
    return Record(f"s/{name}/{file}.jpg", f"s/{name}", encode_jpeg(pixels, quality), SIDE, SIDE)


def copies(pixels):
    """What becomes of a picture that others publish again."""
    half = cv2.resize(pixels, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
    return {
        "recompressed": (pixels, 30),
        "resized": (cv2.resize(half, (SIDE, SIDE)), 92),
        "cropped": (cv2.resize(pixels[3:-3, 3:-3], (SIDE, SIDE)), 92),
        "lighter": (np.clip(pixels * 1.15, 0, 255).astype(np.uint8), 92),
    }


@pytest.fixture
def planted(aligned):
    """Six identities of eight images, ann with four copies of her first one, and bob's with three faces of others."""
    records = [
        record(name, number, face(name, number))
        for name in ("ann", "bob", "cleo", "dan", "eve", "fay")
        for number in range(8)
    ]
    records += [record("ann", f"copy-{how}", *made) for how, made in copies(face("ann", 0)).items()]
    records += [record("bob", f"wrong-{other}", face(other, 20)) for other in ("una", "vic", "ugo")]
    return aligned("s", {}, records=records, shards=3)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A network whose embedding is the eight shades, by hand, in a model directory as train writes it."""
    import keras

    path = tmp_path_factory.mktemp("models") / "model"
    path.mkdir()
    entry = keras.Input((32, 32, 3), dtype="uint8")
    pooled = keras.layers.AveragePooling2D((16, 8))(keras.layers.Rescaling(1 / 127.5, offset=-1)(entry))
    keras.Model(entry, keras.layers.Flatten()(pooled)).save(path / "model.keras")
    with open(path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows([("label", "identity"), (0, "a"), (1, "b")])
    ModelContract("shades", 32, 32, "arcface_112", 24, 2, {}).write(path)
    return path


def run(tmp_path, *faces, at="out", **settings):
    out = tmp_path / at
    outputs = stage.Outputs(out / "augmented", out / "held_out", out / "report.html")
    settings = {"policy": "keep"} | settings
    stage.run(stage.Settings(**settings), stage.Inputs(faces), outputs)
    return Dataset(outputs.augmented_faces)


def dropped(dataset, reason):
    return {row["key"]: row["detail"] for row in dataset.ledger().to_pylist() if row["reason"] == reason}


def test_nothing_is_cleaned_unless_it_is_asked_for(tmp_path, planted):
    out = run(tmp_path, planted)
    assert out.manifest.images == 6 * 8 + 7
    assert not out.manifest.drops


def test_copies_of_one_photograph_are_found_and_other_photographs_stay(tmp_path, planted):
    out = run(tmp_path, planted, duplicate_distance=28)
    gone = dropped(out, "duplicate")
    family = {"s/ann/0.jpg", *(f"s/ann/copy-{how}.jpg" for how in copies(face("ann", 0)))}
    assert gone.keys() < family
    assert len(gone) == len(family) - 1
    (kept,) = family - gone.keys()
    assert all(f"bits from '{kept}'" in detail for detail in gone.values())
    assert out.manifest.drops == {"duplicate": 4}
    assert out.manifest.images == 6 * 8 + 7 - 4


def test_the_counts_that_the_policy_sees_are_those_of_the_clean_faces(tmp_path, planted):
    out = run(tmp_path, planted, duplicate_distance=28, policy="n > 8: drop | keep")
    assert {record.identity for record in out.records()} == {
        f"s/{name}" for name in ("ann", "cleo", "dan", "eve", "fay")
    }
    rows = [row for row in out.ledger().to_pylist() if row["reason"] == "policy_too_few"]
    assert {row["identity"] for row in rows} == {"s/bob"}


def test_which_copy_stays_hangs_on_seed_and_key_alone(tmp_path, planted, aligned):
    shuffled = aligned("s", {}, records=list(Dataset(planted).records()), shards=5, order=3, at="shuffled")
    kept = []
    for number, (faces, settings) in enumerate(
        [(planted, {}), (shuffled, {}), *((planted, {"seed": seed}) for seed in range(1, 4))]
    ):
        out = run(tmp_path, faces, at=str(number), duplicate_distance=28, **settings)
        kept.append({record.key for record in out.records()})
    assert kept[0] == kept[1]
    assert len(set(map(frozenset, kept))) > 1


def test_steps_done_twice_and_in_another_order_give_the_same_bytes(tmp_path, planted, model):
    """What an engine that retries, or has more workers, relies on."""
    rules = Rules(
        seed=1, names=frozenset(["dan"]), duplicate_distance=28, model=str(model), outlier_cosine=0.5, files=2
    )
    shards = list(enumerate(map(str, Dataset(planted).shards)))
    written = []
    for order in (shards, [*shards[::-1], shards[0]]):
        folder = tmp_path / str(len(written))
        folder.mkdir()
        for shard in order:
            measure_shard(shard, rules=rules, directory=str(folder))
        for place in (0, 1) if order is shards else (1, 0, 1):
            decide_file(place, rules=rules, directory=str(folder), shards=len(shards), evaluating=False)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]
    cleaned = Cleaned(str(folder), 2)
    assert len(cleaned.keys()) == 4 + 3 + 8
    assert cleaned.keys() == {key for index, _ in shards for key in cleaned.of_shard(index)}


def test_copies_under_two_identities_both_stay(tmp_path, planted, aligned):
    records = [*Dataset(planted).records(), record("eve", "of-fay", face("fay", 3))]
    out = run(tmp_path, aligned("s", {}, records=records, at="crossed"), duplicate_distance=28)
    assert {"s/eve/of-fay.jpg", "s/fay/3.jpg"} <= {record.key for record in out.records()}


def test_faces_of_others_are_outliers(tmp_path, planted, model):
    out = run(tmp_path, planted, cleaning_model=str(model), outlier_cosine=0.5)
    gone = dropped(out, "outlier")
    assert gone.keys() == {f"s/bob/wrong-{other}.jpg" for other in ("una", "vic", "ugo")}
    assert all("to the centre of its identity, below 0.5" in detail for detail in gone.values())


def evaluation(aligned, **shades):
    records = [
        replace(
            record(name, number, face(name, 50 + number, shade)), identity=f"lfw/{name}", key=f"lfw/{name}/{number}"
        )
        for name, shade in shades.items()
        for number in range(3)
    ]
    return aligned("lfw", {}, records=records, at="lfw")


def test_identities_like_those_of_the_evaluation_faces_go(tmp_path, planted, model, aligned):
    faces = evaluation(aligned, Catherine=colour("cleo"), Somebody=colour("somebody"))
    out = run(tmp_path, planted, cleaning_model=str(model), overlap_faces=[str(faces)], overlap_cosine=0.8)
    gone = dropped(out, "overlaps_evaluation")
    assert gone.keys() == {f"s/cleo/{number}.jpg" for number in range(8)}
    assert all("to evaluation identity 'lfw/Catherine', above 0.8" in detail for detail in gone.values())
    assert "s/cleo" not in {record.identity for record in out.records()}


def test_named_identities_go_whatever_their_spelling(tmp_path, planted):
    names = tmp_path / "names.txt"
    names.write_text("# people of LFW\nBob\tthird\n\n CLEO \nno_such-person\n", encoding="utf-8-sig")
    out = run(tmp_path, planted, overlap_names=str(names))
    assert {row["identity"] for row in out.ledger().to_pylist() if row["outcome"] == "dropped"} == {"s/bob", "s/cleo"}
    assert out.manifest.drops == {"overlaps_evaluation": 19}


def test_everything_at_once_keeps_the_counts_and_is_shown(tmp_path, planted, model, aligned):
    names = tmp_path / "names.txt"
    names.write_text("dan\n")
    settings = {
        "duplicate_distance": 28, "cleaning_model": str(model), "outlier_cosine": 0.5, "overlap_names": str(names),
        "overlap_faces": [str(evaluation(aligned, Catherine=colour("cleo")))], "overlap_cosine": 0.8,
        "policy": "keep, opening",
    }  # fmt: skip
    out = run(tmp_path, planted, **settings)
    assert out.manifest.drops == {"duplicate": 4, "outlier": 3, "overlaps_evaluation": 16}
    assert out.manifest.images == 2 * (55 - 4 - 3 - 16)
    told = out.manifest.inputs
    assert {"cleaning_model", "overlap_names", "overlap_faces[0]", "faces[0]"} == set(told)
    assert str(tmp_path) not in (out.path / "manifest.json").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    for said in ("Cleaning", "duplicate", "kept: s/ann/", "outlier", "overlaps evaluation", "lfw/Catherine"):
        assert said in page


def test_other_references_are_another_output(tmp_path, planted, model):
    """The manifest names no place, but tells what was there."""
    names = tmp_path / "names.txt"
    inputs = []
    for name in ("ann", "bob", "ann"):
        names.write_text(name)
        inputs.append(run(tmp_path, planted, at=f"{name}-{len(inputs)}", overlap_names=str(names)).manifest.inputs)
    assert inputs[0] == inputs[2] != inputs[1]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"outlier_cosine": 0.3}, "'outlier_cosine' is 0.3, but faces are compared by a model: set cleaning_model"),
        ({"overlap_faces": ["x"]}, "'overlap_faces' is .* set cleaning_model"),
        ({"cleaning_model": "x"}, "'cleaning_model' is 'x', but nothing uses it"),
        ({"duplicate_distance": 140}, "'duplicate_distance' is 140, but must be at most 100"),
    ],
)
def test_settings_that_say_half_are_refused(settings, told):
    with pytest.raises(SettingsError, match=told):
        stage.Settings(**settings)


def test_references_that_do_not_fit_are_told_before_the_work(tmp_path, planted, model, aligned):
    with pytest.raises(SettingsError, match="'overlap_names' is .*nowhere.txt', which cannot be read"):
        run(tmp_path, planted, overlap_names=str(tmp_path / "nowhere.txt"))
    (tmp_path / "empty.txt").write_text("# nobody\n")
    with pytest.raises(SettingsError, match="which names nobody"):
        run(tmp_path, planted, overlap_names=str(tmp_path / "empty.txt"))
    with pytest.raises(DatasetError, match="is not a faceflow model"):
        run(tmp_path, planted, cleaning_model=str(tmp_path), outlier_cosine=0.3)
    other = aligned("e", {"a": 2}, template="arcface_96x112")
    with pytest.raises(DatasetError, match="'overlap_faces', .* is of template 'arcface_96x112'.*align both"):
        run(tmp_path, planted, cleaning_model=str(model), overlap_faces=[str(other)])
    names = tmp_path / "all.txt"
    names.write_text("\n".join(("ann", "bob", "cleo", "dan", "eve")))
    with pytest.raises(SettingsError, match=r"cleaning leaves 1 of the identities \(47 overlaps_evaluation\)"):
        run(tmp_path, planted, overlap_names=str(names))
    assert not (tmp_path / "out" / "augmented").exists()


@given(st.lists(st.sampled_from(["George W Bush", "george_w._bush", "GEORGE-W-BUSH", " George  W.Bush "]), min_size=1))
def test_spellings_of_a_name_are_one(spellings):
    assert read_names("\n".join(spellings)) == {"george w bush"}
    assert {name_of(f"lfw/{spelling}") for spelling in spellings} == {"george w bush"}


# ---- perceptual hashes


def test_the_hash_is_the_sign_of_the_low_frequencies_about_their_median():
    from scipy.fft import dctn

    pixels = face("ann", 0)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float64)
    grey = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_AREA)
    low = dctn(grey, norm="ortho")[1:17, 1:17].ravel()
    bits = sum(1 << place for place, value in enumerate(low) if value > np.median(low))
    assert sum(int(word) << 64 * place for place, word in enumerate(perceptual_hashes(pixels)[0])) == bits


@given(st.lists(st.tuples(*[st.integers(0, 2**256 - 1)] * 3), min_size=2, max_size=4))
def test_distances_are_the_fewest_bits_apart(rows):
    hashes = np.array(
        [[[each >> 64 * word & 2**64 - 1 for word in range(4)] for each in row] for row in rows], np.uint64
    )
    for one, found in zip(rows, (distances(each, hashes) for each in hashes), strict=True):
        expected = [
            min((a ^ b).bit_count() for a, b in [*((one[0], b) for b in other), *((a, other[0]) for a in one)])
            for other in rows
        ]
        assert found.tolist() == expected


def test_real_photographs_of_one_person_are_not_duplicates():
    photographs = Path(__file__).parents[4] / "shared" / "data" / "johns"
    if not photographs.is_dir():
        pytest.skip("no photographs beside the checkout (../shared/data/johns)")
    near = pairs = 0
    for person in sorted(path for path in photographs.iterdir() if path.is_dir()):
        faces = [decode(path.read_bytes()) for path in sorted(person.glob("*.jpg"))]
        hashes = np.array([perceptual_hashes(pixels) for pixels in faces])
        for row, pixels in enumerate(faces):
            near += int((distances(hashes[row], hashes[row + 1 :]) <= 28).sum())
            pairs += len(faces) - row - 1
            recompressed = perceptual_hashes(decode(encode_jpeg(pixels, 40)))
            assert distances(recompressed, hashes[row : row + 1])[0] <= 28
    assert near <= 0.02 * pairs  # a few of these photographs are the same one
