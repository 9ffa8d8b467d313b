import csv
import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.ledger import LEDGER_NAME, LedgerWriter, Reason
from faceflow.components.common.manifest import Manifest, ShardInfo
from faceflow.components.pack import plan
from faceflow.components.pack import survey as surveys


def surveyed(counts, copies=0, size=1000):
    names = sorted(counts)
    images = np.array([counts[name] for name in names], np.int64)
    return surveys.Survey(names, images, images * (1 + copies), size)


def planned(survey, fraction=0.0, by="image", shard_bytes=10**6, grouped=False, seed=0):
    taken = plan.split(survey, fraction, by, seed)
    return plan.make(
        survey, taken, np.zeros(len(taken), np.uint64), shard_bytes=shard_bytes, grouped=grouped, seed=seed
    )


images_of_identities = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 60), min_size=2, max_size=60)


@given(images_of_identities, st.floats(0, 0.5), st.integers(0, 99))
def test_the_split_is_exact_and_even(counts, fraction, seed):
    taken = plan.split(surveyed(counts), fraction, "image", seed)
    total = sum(n for n in counts.values() if n >= 2)
    wanted = max(1, int(np.floor(fraction * total + 0.5))) if fraction > 0 and total else 0
    assert taken.sum() == wanted
    for identity, mine in zip(sorted(counts), taken.tolist(), strict=True):
        images = counts[identity]
        assert mine < images
        assert abs(mine - (wanted * images / total if images >= 2 else 0)) < 1


@given(images_of_identities, st.floats(0.01, 0.5), st.integers(0, 99))
def test_a_split_by_identity_takes_whole_identities_which_are_no_classes(counts, fraction, seed):
    wanted = max(1, int(fraction * len(counts) + 0.5))
    if len(counts) - wanted < 2:
        with pytest.raises(SettingsError, match=r"by identity, which takes .* lower it, or set 'validation_by'"):
            planned(surveyed(counts), fraction, "identity", seed=seed)
        return
    decided = planned(surveyed(counts), fraction, "identity", seed=seed)
    held = [name for name, label in zip(decided.identities, decided.label, strict=True) if label == plan.NO_LABEL]
    assert len(held) == wanted
    assert decided.validation_images == sum(counts[name] for name in held)
    assert decided.classes == sorted(counts.keys() - set(held))
    assert decided.label[decided.label != plan.NO_LABEL].tolist() == list(range(len(counts) - wanted))


def test_the_seed_decides_who_gives_an_image():
    givers = set()
    for seed in range(6):
        taken = plan.split(surveyed(dict.fromkeys(map(str, range(100)), 10)), 0.005, "image", seed)
        givers.add(tuple(np.flatnonzero(taken)))
    assert {len(each) for each in givers} == {5}
    assert len(givers) == 6


@given(images_of_identities)
def test_labels_are_dense_and_sorted(counts):
    decided = planned(surveyed(counts), 0.1)
    assert decided.label.tolist() == list(range(len(counts)))
    assert decided.classes == list(decided.identities) == sorted(counts)


def test_labels_read_back_with_any_identity(tmp_path):
    names = ['s/Ann "A", Smith', "s/Zoë Müller", "s/two\nlines", "s/李", "s/ blank ", "a/last, first"]
    plan.write_labels(planned(surveyed(dict.fromkeys(names, 3))), tmp_path / "labels.csv")
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["label"]), row["identity"]) for row in rows] == list(enumerate(sorted(names)))


@given(st.integers(2, 30), st.integers(0, 3), st.floats(0, 0.5), st.integers(500, 100_000))
def test_shards_have_the_size_asked_for(images, copies, fraction, shard_bytes):
    decided = planned(surveyed(dict.fromkeys("abcdefgh", images), copies), fraction, shard_bytes=shard_bytes)
    validation = decided.validation_images
    assert decided.train_images + validation == 8 * images
    for shards, size in (
        (decided.train_shards, 1000 * (8 * images - validation) * (1 + copies)),
        (decided.validation_shards, 1000 * validation),
    ):
        assert shards == (max(1, round(size / shard_bytes)) if size else 0)


@given(images_of_identities, st.integers(2_000, 50_000), st.integers(0, 9))
def test_identities_that_stand_together_fill_the_shards_evenly(counts, shard_bytes, seed):
    decided = planned(surveyed(counts), 0.1, shard_bytes=shard_bytes, grouped=True, seed=seed)
    assert sorted(decided.rank) == list(range(len(counts)))
    in_order = decided.train_shard[np.argsort(decided.rank)]
    assert (np.diff(in_order) >= 0).all()
    learnt = np.array([counts[name] for name in decided.identities]) - decided.validation
    filled = np.bincount(decided.train_shard, learnt, decided.train_shards)
    # No shard is further from its share than the largest identity.
    assert (abs(filled - learnt.sum() / decided.train_shards) <= learnt.max() + 1e-9).all()


def on_disk(folder, counts, copies, online, order):
    """A dataset's ledger and manifest, with images that augment dropped among the others."""
    families = [(f"{identity}/{n}.jpg", identity) for identity, images in counts.items() for n in range(images)]
    random.Random(order).shuffle(families)
    with LedgerWriter(folder / LEDGER_NAME, "augment") as ledger:
        for number, (key, identity) in enumerate(families):
            ledger.kept(key, identity, ["", *map(str, range(copies))])
            if number % 3 == 0:
                ledger.dropped(f"gone/{key}", f"gone/{identity}", Reason.POLICY_TOO_FEW)
    images = len(families) * (1 + copies)
    records = len(families) if online else images
    (folder / "shard").write_bytes(b"x" * 10)
    Manifest(
        "augment", {}, "arcface_112", len(counts), images, len(families), shards=[ShardInfo("shard", records, 10, "")]
    ).write(folder)
    return Dataset(folder)


@given(
    st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 30), min_size=1),
    st.integers(0, 3),
    st.booleans(),
    st.floats(0, 0.5),
)
def test_the_survey_counts_and_thresholds_take_as_many_as_planned(counts, copies, online, fraction):
    with TemporaryDirectory() as name:
        faces = on_disk(Path(name), counts, copies, online, order=copies)
        found = surveys.count(faces)
        taken = plan.split(found, fraction, "image", 5)
        upto = surveys.thresholds(faces, found, taken, 5)
    assert found.identities == sorted(counts)
    assert found.images.tolist() == [counts[identity] for identity in found.identities]
    assert found.records.tolist() == [n * (1 if online else 1 + copies) for n in found.images]
    for identity, images, wanted, threshold in zip(found.identities, found.images, taken, upto, strict=True):
        hashes = [stable_hash(5, "split", f"{identity}/{n}.jpg") for n in range(images)]
        assert wanted == 0 or sum(number <= threshold for number in hashes) == wanted


def test_a_ledger_of_another_dataset_is_refused(tmp_path):
    faces = on_disk(tmp_path, {"a": 3, "b": 4}, 1, False, 0)
    with LedgerWriter(tmp_path / LEDGER_NAME, "augment") as ledger:
        ledger.kept("a/0.jpg", "a", [""])
    with pytest.raises(DatasetError, match=r"14 records and 14 images by its manifest, but its ledger names 1 source"):
        surveys.count(faces)


def test_one_identity_is_not_enough():
    with pytest.raises(DatasetError, match="of 1 identity, but a classifier needs at least 2"):
        planned(surveyed({"a": 9}))


def test_a_plan_reads_back(tmp_path):
    decided = planned(surveyed({"a": 9, "b": 2, "c": 1}), 0.3, grouped=True)
    read = plan.read(str(plan.write(decided, tmp_path)))
    for name, value in vars(decided).items():
        assert np.array_equal(getattr(read, name), value), name
