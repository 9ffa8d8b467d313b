"""Folds share no identity, hold distinct pairs, equally many of both kinds, and as many as there are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.synthetic.pairs import make_folds


def check(images, folds):
    people = [{who for pair in fold.same + fold.different for who, _ in pair} for fold in folds]
    assert sum(len(group) for group in people) == len(set.union(*people))
    for fold in folds:
        assert len(fold.same) == len(fold.different) == len(folds[0].same) > 0
        assert all(a[0] == b[0] and a[1] < b[1] for a, b in fold.same)
        assert all(a[0] != b[0] for a, b in fold.different)
        assert len({frozenset(pair) for pair in fold.same}) == len(fold.same)
        assert len({frozenset(pair) for pair in fold.different}) == len(fold.different)
        assert all(0 <= which < images[who] for pair in fold.same + fold.different for who, which in pair)


@settings(max_examples=60)
@given(st.lists(st.integers(2, 12), min_size=4, max_size=60), st.integers(0, 2**32))
def test_any_cast_gives_valid_folds(images, seed):
    folds = make_folds(images, seed)
    assert len(folds) == min(10, len(images) // 2)
    check(images, folds)


def test_a_rich_cast_gives_the_full_protocol():
    images = [20] * 100
    folds = make_folds(images, 0)
    check(images, folds)
    assert [(len(fold.same), len(fold.different)) for fold in folds] == [(300, 300)] * 10


def test_a_poor_cast_gives_every_distinct_pair():
    folds = make_folds([3] * 20, 0)  # a fold: two people, 2 * 3 pairs of one person, 9 of two
    check([3] * 20, folds)
    assert {len(fold.same) for fold in folds} == {6}


def test_pairs_of_two_people_are_the_limit_where_one_person_has_nearly_all_images():
    folds = make_folds([30, 1, 30, 1], 0)  # each fold: 435 pairs of one person, 30 of two
    check([30, 1, 30, 1], folds)
    assert {len(fold.same) for fold in folds} == {30}


def test_single_images_are_dealt_evenly():
    images = [1] * 40 + [5] * 10
    check(images, make_folds(images, 3))


def test_the_seed_decides():
    images = np.random.default_rng(0).integers(2, 9, 30).tolist()
    assert make_folds(images, 1) == make_folds(images, 1) != make_folds(images, 2)


def test_too_few_identities_or_images_are_explained():
    with pytest.raises(SettingsError, match="at least 4 identities for 2 folds, not 3"):
        make_folds([5, 5, 5], 0)
    with pytest.raises(
        SettingsError, match="only 9 of 20 identities have two images or more.*raise images_per_identity"
    ):
        make_folds([2] * 9 + [1] * 11, 0)
