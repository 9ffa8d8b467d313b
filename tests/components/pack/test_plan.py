import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.pack import plan
from faceflow.components.pack.survey import Owned


def survey(counts, copies=0, size=1000):
    return {
        identity: Owned(
            np.sort(np.array([stable_hash(0, identity, image) for image in range(images)], np.uint64)),
            images * (1 + copies),
            images * size,
            images * (1 + copies) * size,
        )
        for identity, images in counts.items()
    }


images_of_identities = st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 60), min_size=2, max_size=60)


@given(images_of_identities, st.floats(0, 0.5), st.integers(0, 99))
def test_the_split_is_exact_and_even(counts, fraction, seed):
    taken = plan.split(counts, fraction, seed)
    total = sum(n for n in counts.values() if n >= 2)
    wanted = max(1, int(np.floor(fraction * total + 0.5))) if fraction > 0 and total else 0
    assert sum(taken.values()) == wanted
    for identity, images in counts.items():
        assert taken[identity] < images
        assert abs(taken[identity] - (wanted * images / total if images >= 2 else 0)) < 1
    assert plan.split(dict(reversed(list(counts.items()))), fraction, seed) == taken


def test_the_seed_decides_who_gives_an_image():
    givers = set()
    for seed in range(6):
        taken = plan.split(dict.fromkeys(map(str, range(100)), 10), 0.005, seed)
        givers.add(tuple(identity for identity, images in taken.items() if images))
    assert {len(each) for each in givers} == {5}
    assert len(givers) == 6


@given(images_of_identities)
def test_labels_are_dense_and_sorted(counts):
    places = plan.make(survey(counts), 0.1, 10**6, 0).places
    assert [place.label for place in places.values()] == list(range(len(counts)))
    assert list(places) == sorted(counts)


def test_labels_read_back_with_any_identity(tmp_path):
    names = ['s/Ann "A", Smith', "s/Zoë Müller", "s/two\nlines", "s/李", "s/ blank ", "a/last, first"]
    decided = plan.make(survey(dict.fromkeys(names, 3)), 0, 10**6, 0)
    plan.write_labels(decided, tmp_path / "labels.csv")
    with open(tmp_path / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(int(row["label"]), row["identity"]) for row in rows] == list(enumerate(sorted(names)))


@given(st.integers(2, 30), st.integers(0, 3), st.floats(0, 0.5), st.integers(500, 100_000))
def test_shards_have_the_size_asked_for(images, copies, fraction, shard_bytes):
    counts = dict.fromkeys("abcdefgh", images)
    decided = plan.make(survey(counts, copies), fraction, shard_bytes, 0)
    validation = decided.validation_images
    assert decided.train_images + validation == 8 * images
    for shards, size in (
        (decided.train_shards, 1000 * (8 * images * (1 + copies) - validation)),
        (decided.validation_shards, 1000 * validation),
    ):
        assert shards == (max(1, round(size / shard_bytes)) if size else 0)


def test_thresholds_take_as_many_as_planned():
    surveyed = survey({"a": 9, "b": 2, "c": 1, "d": 30})
    for identity, place in plan.make(surveyed, 0.3, 10**6, 0).places.items():
        assert sum(place.validates(int(number)) for number in surveyed[identity].hashes) == place.validation


def test_one_identity_is_not_enough():
    with pytest.raises(DatasetError, match="of 1 identity, but a classifier needs at least 2"):
        plan.make(survey({"a": 9}), 0, 10**6, 0)


def test_a_plan_reads_back(tmp_path):
    decided = plan.make(survey({"a": 9, "b": 2, "c": 1}), 0.3, 10**6, 0)
    assert plan.read(str(plan.write(decided, tmp_path))) == decided
