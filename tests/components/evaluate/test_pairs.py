"""Pairs: read from a file, or drawn balanced, disjoint and never twice."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceflow.components.common.errors import DatasetError
from faceflow.components.evaluate.pairs import make_pairs, read_pairs, share_out, unrank


def faces(*counts):
    return {f"id{index}": [f"id{index}/{image}.jpg" for image in range(count)] for index, count in enumerate(counts)}


def identity(key):
    return key.split("/")[0]


@settings(max_examples=150)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30), st.integers(0, 5), st.integers(1, 12))
def test_what_is_drawn_keeps_every_promise(counts, seed, limit):
    made = make_pairs(faces(*counts), seed, pairs_per_fold=limit)
    if isinstance(made, str):
        assert len(counts) < 2 or max(counts) == 1 or len(counts) < 4 or sum(count > 1 for count in counts) < 2
        return
    folds = sorted(set(made.folds.tolist()))
    assert folds == list(range(len(folds)))
    assert len({frozenset(pair) for pair in made.keys}) == len(made)
    for (one, other), same in zip(made.keys, made.same, strict=True):
        assert one != other
        assert (identity(one) == identity(other)) == same
    people = []
    for fold in folds:
        inside = made.folds == fold
        kinds = Counter(made.same[inside].tolist())
        assert kinds[True] == kinds[False] <= limit
        people.append({identity(key) for pair, here in zip(made.keys, inside, strict=True) if here for key in pair})
    if "share none" in made.note or "no two folds" in made.note:
        assert sum(map(len, people)) == len(set().union(*people))
        assert len(folds) == min(10, len(counts) // 2, sum(count > 1 for count in counts))
        assert made.protocol == f"{len(folds)}-fold over seeded pairs"
    else:
        assert len(folds) == 2
        assert "share" in made.note


@pytest.mark.parametrize(("people", "folds"), [(4, 2), (5, 2), (9, 4), (20, 10), (21, 10), (60, 10)])
def test_the_number_of_folds_is_half_the_identities_up_to_ten(people, folds):
    made = make_pairs(faces(*[4] * people), seed=1)
    assert made.folds.max() + 1 == folds
    assert made.note == "no two folds share an identity"


@pytest.mark.parametrize("people", [2, 3])
def test_few_identities_give_two_folds_that_share_them(people):
    made = make_pairs(faces(*[4] * people), seed=1)
    assert made.note == f"both folds share the {people} identities: too few to divide"
    assert Counter(made.folds.tolist()) == {0: 6 * people, 1: 6 * people}


def test_all_pairs_are_used_where_the_limit_allows_and_no_more_than_balance():
    # every fold has two people with 3 images: 6 pairs of one person, 9 of two
    made = make_pairs(faces(*[3] * 8), seed=2)
    assert Counter(made.folds.tolist()) == dict.fromkeys(range(4), 12)


def test_large_folds_stop_at_the_limit():
    made = make_pairs(faces(*[40] * 20), seed=0)
    assert Counter(zip(made.folds.tolist(), made.same.tolist(), strict=True)) == {
        (fold, same): 300 for fold in range(10) for same in (True, False)
    }


def test_one_person_with_many_images_does_not_outweigh_the_others():
    made = make_pairs(faces(200, 20, 20, 20, 20, 20, 20, 20), seed=0, most_folds=2, pairs_per_fold=100)
    counts = Counter(identity(one) for (one, _), same in zip(made.keys, made.same, strict=True) if same)
    assert set(counts.values()) == {25}


def test_the_seed_alone_decides():
    people = faces(5, 6, 7, 3, 9, 4, 1, 1, 8, 6)
    backwards = {name: images[::-1] for name, images in reversed(people.items())}
    first = make_pairs(people, seed=3, pairs_per_fold=10)
    assert make_pairs(backwards, seed=3, pairs_per_fold=10).keys == first.keys
    assert make_pairs(people, seed=4, pairs_per_fold=10).keys != first.keys


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([], "0 identity"),
        ([7], "1 identity"),
        ([1, 1, 1], "no identity has two images"),
        ([2, 1], "too few pairs for two folds"),
        ([2, 1, 1, 1], "too few pairs for two folds"),
    ],
)
def test_it_says_why_no_pairs_can_be_made(counts, why):
    assert why in make_pairs(faces(*counts), seed=0)


def test_pairs_are_numbered_each_once():
    assert [unrank(place) for place in range(6)] == [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    big = 10**12
    i, j = unrank(big)
    assert 0 <= i < j
    assert j * (j - 1) // 2 + i == big


def test_a_number_is_shared_out_evenly_within_capacities():
    rng = np.random.default_rng(0)
    assert share_out([5, 5, 5], 9, rng) == [3, 3, 3]
    assert share_out([1, 10, 10], 11, rng) == [1, 5, 5]
    assert share_out([0, 2, 9], 11, rng) == [0, 2, 9]
    assert sorted(share_out([4, 4, 4], 10, rng)) == [3, 3, 4]


# ---- files

HEADER = "key_a,key_b,same,fold\n"


def test_a_file_of_pairs_is_read(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(HEADER + 'lfw/José "P",x/1.jpg,0,3\n'.replace('lfw/José "P",x/1.jpg', '"lfw/José ""P"",x/1.jpg",b'))
    pairs = read_pairs(file)
    assert pairs.keys == [('lfw/José "P",x/1.jpg', "b")]
    assert (pairs.same.tolist(), pairs.folds.tolist()) == ([False], [3])
    file.write_text(HEADER + "a,b,1,0\nc,d,False,1\ne,f,TRUE,1\n")
    pairs = read_pairs(file)
    assert (pairs.same.tolist(), pairs.folds.tolist()) == ([True, False, True], [0, 1, 1])
    assert pairs.protocol == "2-fold over the set's own pairs"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "must begin with the header"),
        ("key_a,key_b,same\na,b,1\n", "must begin with the header"),
        (HEADER + "a,b,1,0\na,b,maybe,0\n", r"line 3: .*'maybe'.* is no pair"),
        (HEADER + "a,b,1,x\n", "line 2"),
        (HEADER + "a,,1,0\n", "line 2"),
        (HEADER + "a,b\n", "line 2"),
    ],
)
def test_a_damaged_file_is_told_with_its_line(tmp_path, text, told):
    file = tmp_path / "pairs.csv"
    file.write_text(text)
    with pytest.raises(DatasetError, match=told):
        read_pairs(file)
