import os

import pytest

from faceflow.components.common import memory


@pytest.mark.parametrize(
    "told, limits, expected",
    [
        ("MemTotal: 9 kB\nMemAvailable:    5000 kB\n", [], 5_120_000),
        ("MemAvailable: 5000 kB\n", ["max\n"], 5_120_000),
        ("MemAvailable: 5000 kB\n", ["4000000\n"], 4_000_000),
        ("MemAvailable: 5000 kB\n", ["9223372036854771712\n", "3000000\n"], 3_000_000),
    ],
)
def test_a_containers_limit_counts_where_it_is_lower(tmp_path, told, limits, expected):
    (tmp_path / "meminfo").write_text(told)
    paths = tuple(tmp_path / f"limit-{index}" for index in range(2))
    for path, limit in zip(paths, limits, strict=False):
        path.write_text(limit)
    assert memory.available(tmp_path / "meminfo", paths) == expected


def test_this_machine_has_memory(tmp_path):
    everything = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < memory.available() <= everything
    assert memory.available(tmp_path / "no meminfo", ()) == everything
