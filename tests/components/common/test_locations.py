import os

import pytest

from faceflow.components.common.errors import SourceError
from faceflow.components.common.locations import FileEntry, Patience, describe, listing, local_path
from faceflow.components.common.sources import parse

PATIENCE = Patience(timeout_seconds=1, retries=0, wait_seconds=0)


@pytest.fixture
def people(tmp_path):
    for name in ("Zoë Smith/b.jpg", "Zoë Smith/a.jpg", "Al/1.jpg"):
        file = tmp_path / "people" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * len(name))
    return tmp_path / "people"


def test_a_listing_is_in_the_order_of_names_with_sizes(people):
    assert [(entry.path, entry.size) for entry in listing(people)] == [
        ("Al/1.jpg", 8),
        ("Zoë Smith/a.jpg", 15),
        ("Zoë Smith/b.jpg", 15),
    ]
    assert all(isinstance(entry, FileEntry) and entry.mtime_ns > 0 for entry in listing(people))


def test_links_are_followed_and_a_link_to_a_folder_above_is_refused(people):
    (people / "Bo").symlink_to(people / "Al", target_is_directory=True)
    assert [entry.path for entry in listing(people)][:2] == ["Al/1.jpg", "Bo/1.jpg"]
    (people / "Al" / "round").symlink_to(people, target_is_directory=True)
    with pytest.raises(SourceError, match="link to a folder that holds it"):
        list(listing(people))


def test_a_broken_link_is_named(people):
    (people / "Al" / "gone.jpg").symlink_to(people / "nowhere")
    with pytest.raises(SourceError, match=r"gone\.jpg cannot be read"):
        list(listing(people))


@pytest.mark.parametrize("change", ["touch", "grow", "add", "remove", "rename"])
def test_the_description_of_a_folder_changes_with_every_change_in_it(people, change):
    source = parse({"kind": "folder", "path": str(people)})
    before = describe(source, PATIENCE)
    assert before == describe(source, PATIENCE)
    file = people / "Al" / "1.jpg"
    if change == "touch":
        os.utime(file, ns=(1, 1))
    elif change == "grow":
        told = file.stat()
        file.write_bytes(b"xx" * 9)
        os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
    elif change == "add":
        (people / "Al" / "2.jpg").write_bytes(b"x")
    elif change == "remove":
        (people / "Zoë Smith" / "a.jpg").unlink()
    else:
        file.rename(people / "Al" / "3.jpg")
    assert describe(source, PATIENCE) != before


def test_a_file_is_described_by_size_and_time(tmp_path):
    for name in ("lfw.tgz", "pairs.txt"):
        (tmp_path / name).write_bytes(b"12345")
    source = parse({"kind": "lfw", "archive": str(tmp_path / "lfw.tgz"), "pairs": f"file://{tmp_path}/pairs.txt"})
    found = describe(source, PATIENCE)
    assert found["archive"] == {"size": 5, "mtime_ns": (tmp_path / "lfw.tgz").stat().st_mtime_ns}
    assert set(found) == {"archive", "pairs"}
    os.utime(tmp_path / "pairs.txt", ns=(5, 5))
    assert describe(source, PATIENCE)["pairs"] != found["pairs"]


def test_an_escaped_file_address_is_understood():
    assert str(local_path("file:///data/my%20photos")) == "/data/my photos"


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda root: None, "cannot be opened"),
        (lambda root: root.mkdir(), "is an empty folder"),
        (lambda root: (root / "Al").mkdir(parents=True), "is an empty folder"),
        (lambda root: (root.mkdir(), (root / ".DS_Store").write_bytes(b"x")), "is an empty folder"),
        (lambda root: (root.mkdir(), (root / "a.jpg").write_bytes(b"x")), "holds its files directly"),
        (lambda root: ((root / "Al").mkdir(parents=True), (root / "Al/a.jpg").write_bytes(b"x")), "single identity"),
    ],
)
def test_a_folder_that_cannot_be_learnt_from_is_refused(tmp_path, make, words):
    make(tmp_path / "set")
    with pytest.raises(SourceError, match=words):
        describe(parse({"kind": "folder", "path": str(tmp_path / "set")}), PATIENCE)
