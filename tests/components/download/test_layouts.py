"""Landmark files, pairs files, image lists and attribute tables, and the readers that join them to images."""

import gzip
import io
import json
import tarfile

import numpy as np
import pytest

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.download.attributes import Attributes
from faceflow.components.download.items import Item
from faceflow.components.download.landmarks import Landmarks, parse_line
from faceflow.components.download.lfw import LfwReader, read_pairs
from faceflow.components.download.megaface import ListedImages
from faceflow.components.download.members import Members
from faceflow.components.download.trillion_pairs import TrillionPairsReader

POINTS = " ".join(str(10.5 + i) for i in range(10))
VALUES = [10.5 + i for i in range(10)]


@pytest.mark.parametrize(
    "line, path",
    [
        (f"msra/m.0107_f/10-FaceId-0_align.jpg 17 {POINTS}", "msra/m.0107_f/10-FaceId-0_align.jpg"),
        (f"celebrity/a b/c d 3.jpg 86877 {POINTS}\r\n", "celebrity/a b/c d 3.jpg"),
        (f"testdata/000001/x.jpg {POINTS}\n", "testdata/000001/x.jpg"),
        (f"testdata/000001/my 12.jpg {POINTS}", "testdata/000001/my 12.jpg"),
    ],
)
def test_a_landmark_row_is_parsed_from_the_right(line, path):
    row = parse_line(line)
    assert row is not None and (row.path, row.values) == (path, VALUES)


@pytest.mark.parametrize(
    "line", ["", "msra/a/b.jpg 3", f"{POINTS}", f"a/b.jpg 1 {POINTS[:-4]} nan", f"a.jpg x y {POINTS[5:]}"]
)
def test_other_lines_are_no_landmark_rows(line):
    assert parse_line(line) is None


def landmark_rows(*names, label=86_876):
    return "".join(f"celebrity/{name} {label + 3 * i} {POINTS}\n" for i, name in enumerate(names)).encode()


def test_landmarks_may_be_plain_gzipped_or_in_a_tar(tmp_path):
    rows = landmark_rows("A/1.jpg", "Zoë/2.jpg")
    (tmp_path / "plain_lmk").write_bytes(rows)
    (tmp_path / "lmk.gz").write_bytes(gzip.compress(rows))
    with tarfile.open(tmp_path / "lmk.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("celebrity_lmk")
        info.size = len(rows)
        archive.addfile(info, io.BytesIO(rows))
    for name in ("plain_lmk", "lmk.gz", "lmk.tar.gz"):
        found = Landmarks(tmp_path / name, name)
        assert found.rows == 2
        np.testing.assert_array_equal(found.find("Zoë", "2.jpg").ravel(), VALUES)
        assert found.find("Zoë", "1.jpg") is None
        assert found.unused == 1
    (tmp_path / "lmk.gz").write_bytes(gzip.compress(rows)[:-6])
    with pytest.raises(ArchiveError, match="cut short"):
        Landmarks(tmp_path / "lmk.gz", "lmk.gz")


def joined(archive, lmk):
    return TrillionPairsReader(Members(archive, "archive"), Landmarks(lmk, "landmarks lmk"), "landmarks lmk")


def test_trillion_pairs_are_joined_by_path_and_what_is_left_over_is_counted(write, tmp_path, picture):
    images = {f"celebrity/{name}": picture() for name in ("A/1.jpg", "A/2.jpg", "B b/1.jpg")}
    rows = landmark_rows("A/1.jpg", "B b/1.jpg", "C/1.jpg", "A/1.jpg") + b"a broken line\n"
    (tmp_path / "lmk").write_bytes(rows)
    reader = joined(write("celebrity.tar.gz", images), tmp_path / "lmk")
    items = {item.path: item for item in reader.items()}
    assert {path: item.landmarks is not None for path, item in items.items()} == {
        "A/1.jpg": True, "A/2.jpg": False, "B b/1.jpg": True,
    }  # fmt: skip
    assert reader.unmatched == {
        "images without landmarks": 1,
        "landmark rows without an image": 1,
        "landmark rows repeated": 1,
        "lines that are no landmark row": 1,
        "label numbers that no identity has": 4,
        "rows with a label out of range": 0,
        "identities with several labels": 1,
        "identities that share their label with another": 0,
    }
    assert list(reader.unmatched_rows()) == [("C", "1.jpg", "a landmark row without an image")]
    assert set(reader.digests) == {"archive", "landmarks"}


def test_a_landmark_file_of_another_set_is_an_error(write, tmp_path, picture):
    (tmp_path / "lmk").write_bytes(landmark_rows("Z/1.jpg"))
    reader = joined(write("msra.tar.gz", {"msra/A/1.jpg": picture()}), tmp_path / "lmk")
    with pytest.raises(SourceError, match=r"celebrity/Z/1\.jpg.*msra/A/1\.jpg"):
        list(reader.items())
    (tmp_path / "lmk").write_bytes(b"nothing\nof the kind\n")
    with pytest.raises(SourceError, match=r"has no landmark row \(2 other lines\)"):
        Landmarks(tmp_path / "lmk", "the file")


LFW_PAIRS = """2\t2
Ann_Lee\t1\t2
Bo\t1\t2
Ann_Lee\t1\tBo\t1
Ann_Lee\t2\tBo\t2
Cy\t1\t2
Di\t1\t2
Cy\t1\tDi\t2
Cy\t2\tDi\t1
"""


def lfw_files(picture, *, wrapper="lfw/", skip=()):
    names = [f"{who}/{who}_{i:04d}.jpg" for who in ("Ann_Lee", "Bo", "Cy", "Di") for i in (1, 2)]
    return {wrapper + name: picture() for name in names if name not in skip}


@pytest.mark.parametrize("container", ["lfw.tgz", "folder"])
@pytest.mark.parametrize("wrapper", ["lfw/", ""])
def test_lfw_pairs_become_paths_and_folds(write, tmp_path, picture, container, wrapper):
    (tmp_path / "pairs.txt").write_text(LFW_PAIRS)
    reader = LfwReader(
        Members(write(container, lfw_files(picture, wrapper=wrapper)), "lfw"), tmp_path / "pairs.txt", "pairs.txt"
    )
    assert len(list(reader.items())) == 8
    pairs = list(reader.pairs())
    assert [(pair.same, pair.fold) for pair in pairs] == [
        (True, 0), (True, 0), (False, 0), (False, 0), (True, 1), (True, 1), (False, 1), (False, 1),
    ]  # fmt: skip
    assert (pairs[3].first, pairs[3].second) == ("Ann_Lee/Ann_Lee_0002.jpg", "Bo/Bo_0002.jpg")


def test_a_missing_image_of_a_pair_is_named_with_its_line(write, tmp_path, picture):
    (tmp_path / "pairs.txt").write_text(LFW_PAIRS)
    archive = write("lfw.tgz", lfw_files(picture, skip=["Cy/Cy_0002.jpg"]))
    reader = LfwReader(Members(archive, "lfw"), tmp_path / "pairs.txt", "pairs pairs.txt")
    list(reader.items())
    with pytest.raises(SourceError, match=r"pairs\.txt, line 6: Cy/Cy_0002\.jpg is not among the images \(1 of the 8"):
        list(reader.pairs())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda text: "", "begins with ''"),
        (lambda text: text.replace("2\t2\n", "ten folds\n", 1), "begins with 'ten folds'"),
        (lambda text: text.replace("2\t2\n", "10\t300\n", 1), "has 8 pairs, but its header says 10 folds of 2 x 300"),
        (lambda text: text.replace("Cy\t1\t2\n", "Cy\t1\tDi\t2\n", 1), "line 6: .* 'name i j'"),
        (lambda text: text.replace("Bo\t1\t2\n", "Bo\tone\t2\n", 1), "line 3"),
    ],
)
def test_a_malformed_pairs_file_is_refused_with_its_line(tmp_path, change, words):
    (tmp_path / "pairs.txt").write_text(change(LFW_PAIRS))
    with pytest.raises(SourceError, match=words):
        read_pairs(tmp_path / "pairs.txt", "pairs.txt")


def test_a_header_with_one_number_means_one_fold_as_in_the_development_lists(tmp_path):
    (tmp_path / "dev.txt").write_text("1\nAnn Lee\t1\t2\nAnn Lee\t1\tBo\t13\n")
    first, second = read_pairs(tmp_path / "dev.txt", "dev.txt")
    assert (first.first, first.second) == ("Ann Lee/Ann Lee_0001", "Ann Lee/Ann Lee_0002")
    assert (first.same, first.fold) == (True, 0)
    assert (second.second, second.same) == ("Bo/Bo_0013", False)


@pytest.mark.parametrize("wrapper", ["", "facescrub_images/"])
@pytest.mark.parametrize("container", ["folder", "images.tar.gz"])
def test_only_listed_images_are_read_and_each_must_be_there(write, tmp_path, picture, wrapper, container):
    paths = ["Ann_Lee/Ann_Lee_1.jpg", "Ann_Lee/Ann_Lee_2.jpg", "Bo/Bo_9.png"]
    images = {wrapper + path: picture() for path in [*paths, "Bo/unlisted.jpg"]}
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps({"path": paths, "id": ["ann", "ann", "bo"]}))
    reader = ListedImages(Members(write(container, images), "probes"), listed, "list")
    assert {(item.identity, item.file) for item in reader.items()} == {
        ("ann", "Ann_Lee_1.jpg"), ("ann", "Ann_Lee_2.jpg"), ("bo", "Bo_9.png"),
    }  # fmt: skip
    assert reader.unmatched["files that the list does not name"] == 1
    listed.write_text(json.dumps({"path": [*paths, "Cy/Cy_1.jpg"]}))
    with pytest.raises(SourceError, match=r"names Cy/Cy_1\.jpg.*1 of 4 are missing"):
        list(ListedImages(Members(write(container, images), "probes"), listed, "list").items())


def test_distractors_belong_to_the_folders_they_lie_in(write, tmp_path, picture):
    (tmp_path / "list.json").write_text(json.dumps({"path": ["100/10007500@N06/1_0.jpg"]}))
    reader = ListedImages(
        Members(write("images", {"100/10007500@N06/1_0.jpg": picture()}), "path"), tmp_path / "list.json", "list"
    )
    assert [(item.identity, item.file) for item in reader.items()] == [("100/10007500@N06", "1_0.jpg")]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"path": []}', '{"path": ["flat.jpg"]}', '{"path": ["a/b.jpg"], "id": [1, 2]}']
)
def test_a_malformed_list_is_refused(write, tmp_path, picture, text):
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(SourceError, match=r"list\.json"):
        ListedImages(Members(write("images", {"a/b.jpg": picture()}), "path"), tmp_path / "list.json", "list list.json")


def item(identity, file, name):
    return Item(identity, file, name, 1, bytes)


def test_attributes_are_found_by_any_name_that_an_image_goes_by(tmp_path):
    table = tmp_path / "a.csv"
    table.write_text(
        "Path,GENDER,age,note\nset/Ann/1.jpg,F,31,x\nBo/1.jpg,male,,\n12,,7.5,\ndeep/set/Cy/1.jpg,m,9,\nno/one.jpg,m,1,\n",
        encoding="utf-8-sig",
    )
    attributes = Attributes(table, "a.csv")
    assert attributes.find(item("Ann", "1.jpg", "set/Ann/1.jpg")) == ("female", 31.0)
    assert attributes.find(item("Bo", "1.jpg", "wrapper/Bo/1.jpg")) == ("male", None)
    assert attributes.find(item("3", "00000012.jpg", "12")) == (None, 7.5)
    assert attributes.find(item("set/Cy", "1.jpg", "Cy/1.jpg")) == ("male", 9.0)
    assert attributes.find(item("Di", "1.jpg", "set/Di/1.jpg")) == (None, None)
    assert attributes.unused == 1


@pytest.mark.parametrize(
    "text, words",
    [
        ("name,gender\nx,f\n", "needs 'path'"),
        ("path,sex\nx,f\n", "'gender' or 'age'"),
        ("", "needs 'path'"),
        ("path,gender\na,f\nb,woman\n", "line 3: gender is 'woman'"),
        ("path,age\na,young\n", "line 2: age is 'young'"),
        ("path,age\na,-3\n", "line 2: age is '-3'"),
        ("path,age\na,nan\n", "line 2: age is 'nan'"),
    ],
)
def test_a_malformed_attribute_table_is_refused_with_its_line(tmp_path, text, words):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(SourceError, match=words):
        Attributes(tmp_path / "a.csv", "a.csv")
