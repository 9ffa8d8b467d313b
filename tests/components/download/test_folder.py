import pytest

from faceflow.components.common.errors import ArchiveError
from faceflow.components.download.folder import IdentityFolders
from faceflow.components.download.members import Members

CONTAINERS = ["folder", "a.zip", "a.tar.gz"]


def read(path, strip=-1):
    """(identity, file) of what can be used, and reason by path of what cannot."""
    usable, unusable = set(), {}
    for item in IdentityFolders(Members(path, "the set"), strip).items():
        if item.unusable is None:
            assert item.read()
            usable.add((item.identity, item.file))
        else:
            unusable[item.path] = str(item.unusable[0])
    return usable, unusable


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("wrapper", ["", "set/", "data/set/"])
def test_folders_around_the_identities_do_not_matter(write, picture, container, wrapper):
    names = ["Ann Lee/a 1.jpg", "Ann Lee/b.png", "Zoë/1.jpg"]
    path = write(container, {wrapper + name: picture() for name in names})
    assert read(path)[0] == {("Ann Lee", "a 1.jpg"), ("Ann Lee", "b.png"), ("Zoë", "1.jpg")}


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_beside_the_images_is_told_apart(write, picture, container):
    files = {"set/README.txt": b"text", "set/Ann/1.jpg": picture(), "set/Ann/.DS_Store": b"x", "stray.jpg": picture()}
    files |= {"set/Bo/1.jpg": picture(), "__MACOSX/set/Bo/._1.jpg": b"x", "set/Bo/Thumbs.db": b"x"}
    usable, unusable = read(write(container, files))
    assert usable == {("Ann", "1.jpg"), ("Bo", "1.jpg")}
    assert unusable == {
        "set/README.txt": "not_an_image",
        "set/Ann/.DS_Store": "not_an_image",
        "__MACOSX/set/Bo/._1.jpg": "not_an_image",
        "set/Bo/Thumbs.db": "not_an_image",
        "stray.jpg": "no_identity",
    }


@pytest.mark.parametrize("container", ["folder", "a.zip"])
def test_deeper_folders_stay_within_their_identity(write, picture, container):
    path = write(container, {name: picture() for name in ("Ann/0/1.jpg", "Ann/1/1.jpg", "Bo/0/1.jpg")})
    assert read(path)[0] == {("Ann", "0/1.jpg"), ("Ann", "1/1.jpg"), ("Bo", "0/1.jpg")}


def test_deeper_folders_in_a_tar_are_asked_about_instead_of_merging_people(write, picture):
    path = write("a.tar", {name: picture() for name in ("Ann/0/1.jpg", "Ann/1/1.jpg", "Bo/0/1.jpg")})
    with pytest.raises(ArchiveError, match=r"Bo/0/1\.jpg does not lie in Ann/.*\"strip\": 0"):
        read(path)
    assert read(path, strip=0)[0] == {("Ann", "0/1.jpg"), ("Ann", "1/1.jpg"), ("Bo", "0/1.jpg")}


def test_a_number_of_wrappers_can_be_said(write, picture):
    path = write("folder", {name: picture() for name in ("x/Ann/1.jpg", "y/Bo/1.jpg")})
    assert read(path)[0] == {("x", "Ann/1.jpg"), ("y", "Bo/1.jpg")}
    assert read(path, strip=1)[0] == {("Ann", "1.jpg"), ("Bo", "1.jpg")}


def test_in_a_tar_an_image_without_an_ending_decides_too_and_is_not_lost(write, picture):
    path = write("a.tar", {"set/info": b"text", "set/Ann/first": picture(), "set/Bo/second": picture(1)})
    assert read(path)[0] == {("Ann", "first"), ("Bo", "second")}


def test_the_number_of_files_is_known_where_it_can_be(write, picture):
    files = {f"Ann/{i}.jpg": picture() for i in range(3)}
    totals = [IdentityFolders(Members(write(name, files), "the set")).total for name in CONTAINERS]
    assert totals == [3, 3, None]


def test_identities_that_may_be_one_folder_further_in_are_told(write, picture, caplog):
    files = {f"{part}/n00000{who}/{i}.jpg": picture() for part in ("train", "test") for who in (1, 2) for i in (1, 2)}
    path = write("vggface2.zip", files)
    items = list(IdentityFolders(Members(path, "the set")).items())
    assert {item.identity for item in items} == {"train", "test"}
    assert "all 8 images lie in folders below those taken for identities" in caplog.text and '"strip": 1' in caplog.text
    caplog.clear()
    assert {item.identity for item in IdentityFolders(Members(path, "the set"), 1).items()} == {"n000001", "n000002"}
    assert not caplog.text
