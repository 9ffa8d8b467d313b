import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.download import tables
from faceflow.components.download.tables import NameIndex, NameSet


@given(st.lists(st.text(max_size=3)), st.text(max_size=3))
def test_an_index_finds_what_a_list_finds(names, other):
    index = NameIndex(names)
    assert index.repeated == len(names) - len(set(names))
    asked = [*names[::2], other]
    for name in asked:
        assert index.find(name) == (names.index(name) if name in names else -1)
    left = {name for name in names if name not in asked}
    assert {names[place] for place in np.flatnonzero(~index.found)} == left


def test_a_name_set_tells_the_first_time_from_the_next(monkeypatch):
    monkeypatch.setattr(tables, "_MERGE_AT", 7)
    rng = np.random.default_rng(0)
    drawn = [f"name {number}" for number in rng.integers(0, 300, 1000)]
    ours, theirs = NameSet(), set()
    for name in drawn:
        assert ours.add(name) == (name not in theirs)
        theirs.add(name)
