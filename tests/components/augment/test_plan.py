import random
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from faceflow.components.augment import plan
from faceflow.components.augment.census import Census, count
from faceflow.components.augment.policy import DEFAULT, Policy
from faceflow.components.augment.report import bands
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.ledger import LEDGER_NAME, LedgerWriter, Reason
from faceflow.components.common.manifest import Manifest
from faceflow.components.common.smallest import Smallest

KEEP = Policy.parse("keep")
# Identities, and images of each: 67,960 with 15,090,270 images, of which 26,928 with 6,151,666 come out.
SEED_REPLICA = [(41_032, 20), (3_000, 31), (306, 91), (17_070, 201), (2, 202), (5_040, 1_636), (1_510, 1_637)]


def census(counts, *, sample=500, order=0, seed=0):
    """The census of a ledger with so many images of the identities s/0, s/1 .., its rows in some order."""
    owned = [(f"s/{number}", image) for number, images in enumerate(counts) for image in range(images)]
    rows = [(f"{identity}/{image}.jpg", identity) for identity, image in owned]
    random.Random(order).shuffle(rows)
    with TemporaryDirectory() as name:
        folder = Path(name)
        with LedgerWriter(folder / LEDGER_NAME, "align") as ledger:
            for key, identity in rows:
                ledger.kept(key, identity, [""])
                if order:
                    ledger.dropped(f"{key} {order}", identity, Reason.NO_FACE)
        Manifest("align", {}, "arcface_112", len(counts), len(rows), len(rows), variants={"": len(rows)}).write(folder)
        return count([Dataset(folder)], seed=seed, sample=sample)


def hashes(identity, images, seed=0):
    return sorted(stable_hash(seed, "sample", f"{identity}/{image}.jpg") for image in range(images))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 20), st.integers(0, 50))
@example([], 1, 0)
@example([3], 1, 0)
@example([30_000, 45_000], 20, 3)
def test_the_census_keeps_the_counts_and_the_smallest_hashes(counts, sample, order):
    found = census(counts, sample=sample, order=order, seed=order)
    assert found.identities == sorted(f"s/{number}" for number in range(len(counts)))
    for place, identity in enumerate(found.identities):
        images = counts[int(identity[2:])]
        assert found.images[place] == images
        assert found.smallest.of(place).tolist() == hashes(identity, images, order)[:sample]


@given(st.lists(st.integers(1, 420), min_size=2, max_size=40), st.integers(0, 1000))
def test_counts_of_a_random_data_set_equal_the_closed_form(counts, seed):
    counts = [100, 100, *counts]
    found = bands(plan.make(census(counts), Policy.parse(DEFAULT), 0, seed), Policy.parse(DEFAULT))
    over, large, medium, small, few = (
        [n for n in counts if low < n <= high] for low, high in ((350, 10**9), (200, 350), (90, 200), (30, 90), (0, 30))
    )
    assert [row[2] for row in found] == [*map(len, (over, large, medium, small, few)), len(counts)]
    assert [row[3] for row in found] == [*map(sum, (over, large, medium, small, few)), sum(counts)]
    out = [350 * len(over), sum(large), 2 * sum(medium), 4 * sum(small), 0]
    assert [row[4] for row in found] == [*out, sum(out)]


def counted(counts):
    """A census of identities with so many images without their keys: every hash that a sample could take."""
    images = np.asarray(counts, np.int64)
    smallest = Smallest(350)
    smallest._groups = np.repeat(np.arange(len(images)), np.minimum(images, 350))
    smallest._numbers = np.arange(len(smallest._groups), dtype=np.uint64)
    return Census([f"s/{number:06d}" for number in range(len(images))], images, smallest)


def test_a_replica_of_the_seeds_histogram_comes_out_to_the_image():
    """67,960 identities with 15,090,270 images in, and 26,928 with 6,151,666 out, as its project reports.

    How many identities fall into which band it does not say; these do, and meet all four totals exactly.
    """
    images = np.concatenate([np.full(identities, size, np.int64) for identities, size in SEED_REPLICA])
    assert (len(images), images.sum()) == (67_960, 15_090_270)
    policy = Policy.parse(DEFAULT)
    np.random.default_rng(0).shuffle(images)
    decided = plan.make(counted(images), policy, 0, 0)
    kept = [rule.kept(n) for rule, n in ((policy.rules[each.rule], each.images) for each in decided.values())]
    out = [policy.rules[each.rule].images_out(each.images) for each in decided.values()]
    assert (sum(n > 0 for n in kept), sum(out)) == (26_928, 6_151_666)
    closed = [
        350 if n > 350 else n if n > 200 else 2 * n if n > 90 else 4 * n if n > 30 else 0 for n in images.tolist()
    ]
    assert out == closed
    assert sum(row[4] for row in bands(decided, policy)[:-1]) == 6_151_666


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_sample_is_exact(images, size):
    decided = plan.make(census([images, images, 70], sample=size), Policy.parse(f"n < 65: sample({size}) | keep"), 0, 0)
    for identity in ("s/0", "s/1"):
        threshold = decided[identity].threshold
        assert sum(number <= threshold for number in hashes(identity, images)) == min(size, images)


@given(
    st.lists(st.integers(1, 5), min_size=6, max_size=60),
    st.floats(0.01, 0.6, allow_nan=False),
    st.integers(0, 10),
)
def test_held_out_identities_are_the_stated_fraction_of_those_with_two_images(counts, fraction, seed):
    counts = [2, 2, 2, 1, 1, *counts]
    eligible = {f"s/{number}" for number, images in enumerate(counts) if images >= 2}
    wanted = max(2, int(np.floor(fraction * len(eligible) + 0.5)))
    decided = plan.make(census(counts), KEEP, fraction, seed)
    held_out = {identity for identity, each in decided.items() if each.rule == plan.HELD_OUT}
    assert held_out <= eligible
    assert len(held_out) == wanted
    again = plan.make(census(counts, order=7), KEEP, fraction, seed)
    assert {identity for identity, each in again.items() if each.rule == plan.HELD_OUT} == held_out


def test_another_seed_holds_out_others():
    chosen = set()
    for seed in range(5):
        decided = plan.make(census([3] * 50), KEEP, 0.1, seed)
        chosen.add(tuple(sorted(identity for identity, each in decided.items() if each.rule == plan.HELD_OUT)))
    assert len(chosen) == 5


@pytest.mark.parametrize(
    ("counts", "fraction"),
    [([2, 2, 2], 0.1), ([1, 1, 1, 1, 2], 0.5), ([5] * 10, 0.9)],
)
def test_holding_out_more_than_there_is_is_refused(counts, fraction):
    with pytest.raises(SettingsError, match=r"'holdout_fraction' is .* Lower the fraction, set it to 0"):
        plan.make(census(counts), KEEP, fraction, 0)


def test_one_identity_is_not_enough():
    with pytest.raises(DatasetError, match="holds 1 identity: .* at least 2"):
        plan.make(census([40]), KEEP, 0, 0)
    with pytest.raises(DatasetError, match="holds 0 identities"):
        plan.make(census([]), KEEP, 0, 0)


def test_a_policy_that_drops_nearly_all_is_refused_with_the_histogram_and_a_policy_that_works():
    counts = [1, 2, 3, 3, 9, 11, 12, 40]
    with pytest.raises(SettingsError) as raised:
        plan.make(census(counts), Policy.parse(DEFAULT), 0, 0)
    message = str(raised.value)
    assert "leaves 1 identity of 8 to train on, but at least 2 are needed" in message
    lines = [line.split("|") for line in message.split("\n") if "|" in line and "n >" not in line]
    assert [(label.strip(), bar.split()[0]) for label, bar in lines[1:]] == [
        ("1", "1"), ("2 to 3", "3"), ("4 to 7", "0"), ("8 to 15", "3"), ("16 to 31", "0"), ("32 to 63", "1")
    ]  # fmt: skip
    advice = Policy.parse(message.split("\n")[-1].strip())
    assert sum(each.rule != len(advice.rules) - 1 for each in plan.make(census(counts), advice, 0, 0).values()) >= 5


@given(st.lists(st.integers(1, 800), min_size=2, max_size=50))
def test_the_suggested_policy_is_valid_and_leaves_two_identities(counts):
    found = plan.suggest(counts)
    several = [n for n in counts if n >= 2]
    if len(several) < 2:
        assert found is None
    else:
        kept = sum(found.rules[found.decide(n)].action != "drop" for n in counts)
        assert kept >= max(2, 0.7 * len(several))


def test_identities_with_one_image_each_get_no_thresholds():
    with pytest.raises(SettingsError, match="Fewer than two identities have two images or more: add images"):
        plan.make(census([1, 1, 1]), Policy.parse(DEFAULT), 0, 0)


def test_a_plan_reads_back_and_its_file_is_named_by_its_contents(tmp_path):
    first = plan.make(census([3, 4, 5]), Policy.parse("n > 3: sample(2) | keep"), 0, 0)
    second = plan.make(census([3, 4, 5]), KEEP, 0, 0)
    path = plan.write(first, tmp_path)
    assert plan.read(str(path)) == first
    assert plan.read(str(plan.write(second, tmp_path))) == second
    assert plan.write(first, tmp_path) == path
