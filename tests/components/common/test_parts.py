import os
import subprocess
from pathlib import Path

import pytest

from faceflow.components.common.errors import SourceError
from faceflow.components.common.parts import is_first_part, parts_of, same_part


@pytest.mark.parametrize(
    "options, count",
    [
        ([], 30),
        ([], 700),  # past yz, where split lengthens the suffixes
        (["-d"], 95),  # past 89, likewise
        (["-d", "-a", "3"], 120),
        (["--numeric-suffixes=1", "-a", "3"], 120),
        (["-a", "3"], 30),
    ],
)
def test_the_parts_that_split_makes_are_found_from_the_first(tmp_path, options, count):
    data = bytes(range(256)) * 3
    (tmp_path / "set").write_bytes(data[:count])
    subprocess.run(["split", "-b", "1", *options, "set", "set.tar.gz."], cwd=tmp_path, check=True)
    made = sorted(str(path) for path in tmp_path.glob("set.tar.gz.*"))
    assert len(made) == count
    found = parts_of(made[0], os.path.exists)
    assert found == made
    assert b"".join(Path(part).read_bytes() for part in found) == data[:count]


@pytest.mark.parametrize(
    "first, second",
    [
        ("http://host/train.tar.gz.aa?token=a/b.tar.gz.aa", "http://host/train.tar.gz.ab?token=a/b.tar.gz.aa"),
        ("s3://bucket/set.zip.001", "s3://bucket/set.zip.002"),
        ("set.tgz.part1", "set.tgz.part2"),
        ("set.tar.part-aa", "set.tar.part-ab"),
        ("set.tar.xz_part_00", "set.tar.xz_part_01"),
    ],
)
def test_first_parts_and_what_follows_them(first, second):
    assert is_first_part(first)
    assert parts_of(first, {first, second}.__contains__) == [first, second]
    assert parts_of(first, {first}.__contains__) == [first]


@pytest.mark.parametrize(
    "name", ["set.tar.gz", "set.tar.1", "set.tar.gz.a", "photo.jpg.00", "set.tar.gz.02", "aa", "x.001"]
)
def test_other_names_are_those_of_whole_files(name):
    assert not is_first_part(name)
    assert parts_of(name, lambda location: True) == [name]


def test_single_digits_grow():
    names = [f"set.tgz.part{number}" for number in range(1, 12)]
    assert parts_of(names[0], set(names).__contains__) == names


def test_a_gap_and_a_server_that_says_yes_to_everything_are_refused():
    with pytest.raises(SourceError, match=r"set\.tar\.ac is missing"):
        parts_of("set.tar.aa", {"set.tar.aa", "set.tar.ab", "set.tar.ad"}.__contains__)
    with pytest.raises(SourceError, match="give the list of parts"):
        parts_of("set.tar.aa", lambda location: True)


def test_a_part_has_the_same_ending_at_a_mirror():
    assert same_part("a/set.tgz.aa", "https://host/copy.tgz.aa?x=1", "a/set.tgz.ac") == "https://host/copy.tgz.ac?x=1"
    assert same_part("a/set.tgz.aa", "b/copy.tgz.aa", "a/set.tgz.aa") == "b/copy.tgz.aa"
