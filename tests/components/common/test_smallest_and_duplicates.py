from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.common import smallest
from faceflow.components.common.duplicates import Duplicates
from faceflow.components.common.smallest import Smallest

numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1)), max_size=80)


@given(numbers, st.integers(0, 5), st.integers(1, 9))
def test_the_smallest_of_each_group_are_kept(pairs, most, together):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smallest, "_PENDING", together)
        kept = Smallest(most)
        for begin in range(0, len(pairs), 3):
            groups, values = zip(*pairs[begin : begin + 3], strict=True)
            kept.add(np.array(groups, np.int64), np.array(values, np.uint64))
        expected = {group: sorted(value for one, value in pairs if one == group)[:most] for group in range(7)}
        assert {group: kept.of(group).tolist() for group in range(7)} == expected
        places = np.array([5, 0, 3])
        moved = kept.renumbered(places)
        assert [moved.of(new).tolist() for new in range(3)] == [expected[old] for old in places.tolist()]
        full = [group for group in range(7) if expected[group]]
        last = [len(expected[group]) - 1 for group in full]
        assert kept.nth(np.array(full, np.int64), np.array(last, np.int64)).tolist() == [
            expected[group][-1] for group in full
        ]


def test_memory_is_bounded_by_what_is_kept():
    kept = Smallest(4)
    rng = np.random.default_rng(0)
    for _ in range(40):
        kept.add(rng.integers(0, 50, 100_000), rng.integers(0, 2**63, 100_000, np.uint64))
        assert len(kept._groups) <= 4 * 50
        assert kept._pending_count < 400_000


def test_each_group_may_keep_another_number():
    kept = Smallest(np.array([0, 2, 1]))
    kept.add(np.array([0, 1, 1, 1, 2, 2]), np.array([9, 8, 7, 6, 5, 4], np.uint64))
    assert [kept.of(group).tolist() for group in range(3)] == [[], [6, 7], [4]]


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 5, 2**63, 2**64 - 1]), max_size=60), st.integers(1, 70))
def test_duplicates_are_found_in_memory_and_on_disk(hashes, in_memory):
    with Duplicates(len(hashes), in_memory) as twice:
        for begin in range(0, len(hashes), 7):
            twice.add(np.array(hashes[begin : begin + 7], np.uint64))
        assert twice.found() == {number for number, count in Counter(hashes).items() if count > 1}
