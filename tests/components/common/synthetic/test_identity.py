"""Identities are drawn from their seeds alone, in the proportions they are meant to have, and age in one direction."""

import numpy as np
import pytest

from faceflow.components.common.synthetic.cast import identity_seed, make_cast
from faceflow.components.common.synthetic.hair import STYLES
from faceflow.components.common.synthetic.identity import OLDEST, STYLE_ODDS, YOUNGEST, aged, make_identity, wrinkles

PEOPLE = [make_identity(seed) for seed in range(400)]


def test_genders_are_balanced_and_ages_lie_in_range():
    women = sum(person.gender == "female" for person in PEOPLE)
    assert abs(women - 200) < 4 * np.sqrt(400 / 4)  # four standard deviations of a fair coin
    ages = np.array([person.age for person in PEOPLE])
    assert ages.min() >= YOUNGEST and ages.max() <= OLDEST
    assert ages.max() - ages.min() > 40


def test_only_men_have_beards_and_recede_and_only_women_wear_makeup():
    for person in PEOPLE:
        if person.gender == "female":
            assert person.beard.density == 0 and person.hair.recession == 0
        else:
            assert person.makeup == 0
    assert any(person.beard.density > 0.5 for person in PEOPLE)
    assert any(person.makeup > 0.3 for person in PEOPLE)


@pytest.mark.parametrize(
    ("of", "larger"),
    [
        (lambda p: p.brows.thickness, "male"),
        (lambda p: p.brows.ridge, "male"),
        (lambda p: p.head.jaw, "male"),
        (lambda p: p.mouth.upper, "female"),
        (lambda p: p.eyes.height, "female"),
    ],
)
def test_genders_differ_in_the_features_that_tell_them_apart(of, larger):
    groups = {gender: [of(p) for p in PEOPLE if p.gender == gender] for gender in ("female", "male")}
    smaller = "male" if larger == "female" else "female"
    gap = np.mean(groups[larger]) - np.mean(groups[smaller])
    assert gap > 4 * np.sqrt(sum(np.var(values) / len(values) for values in groups.values()))


def test_every_style_that_is_worn_exists_and_odds_add_up():
    for odds in STYLE_ODDS.values():
        assert set(odds) <= set(STYLES)
        assert sum(odds.values()) == pytest.approx(1)


def test_age_greys_wrinkles_and_recedes_but_leaves_bone():
    man = next(p for p in PEOPLE if p.gender == "male" and p.hair.recession > 0.5 and p.hair_colour.max() < 0.05)
    looks = [aged(man, age) for age in (20, 40, 60, 80)]
    lightness = [look.hair_colour.mean() for look in looks]
    recession = [look.hair.recession for look in looks]
    folds = [wrinkles(man, age) for age in (20, 40, 60, 80)]
    for rising in (lightness, recession, folds):
        assert rising == sorted(rising) and rising[-1] > rising[0]
    assert folds[0] == 0
    assert len({(look.eyes.apart, look.nose.v, look.mouth.v, look.head.width) for look in looks}) == 1


def test_sets_of_different_seeds_share_nobody():
    casts = [{sitter.seed for sitter in make_cast(seed, 500, 1)} for seed in range(4)]
    assert len(set.union(*casts)) == 4 * 500
    assert identity_seed(1, 0) != identity_seed(1, 0, "distractor")
    assert casts[1] == {identity_seed(1, index) for index in range(500)}


def test_a_larger_cast_begins_with_the_smaller_one():
    assert make_cast(5, 8, (2, 9)) == make_cast(5, 20, (2, 9))[:8]


def test_images_per_identity_fill_the_whole_range():
    assert {sitter.images for sitter in make_cast(0, 200, (2, 5))} == {2, 3, 4, 5}
    assert {sitter.images for sitter in make_cast(0, 20, 3)} == {3}
