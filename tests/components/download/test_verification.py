"""CFP-FP, CALFW, CPLFW and AgeDB-30, as their publishers lay them out; written by hand, in small."""

import csv

import pytest

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import parse
from faceflow.components.download import stage
from faceflow.components.download.members import Members
from faceflow.components.download.verification import CfpReader, FlatReader, person_of, read_pair_list

CONTAINERS = ["folder", "set.zip", "set.tar.gz"]


def run(source, out):
    stage.run(stage.Settings(), stage.Inputs(source), stage.Outputs(out))
    return Dataset(out)


def cfp_files(picture, folds=2, people=4):
    """CFP in small: two frontal and two profile images of each of four people, two pairs of each kind in a fold."""
    files, lists = {}, {"F": [], "P": []}
    for person in range(1, people + 1):
        for pose, kind in (("frontal", "F"), ("profile", "P")):
            for image in (1, 2):
                path = f"Data/Images/{person:03d}/{pose}/{image:02d}.jpg"
                files[f"cfp-dataset/{path}"] = picture(len(files))
                lists[kind].append(f"../{path}")
    files["cfp-dataset/Data/Fiducials/001/frontal/01.txt"] = b"1,2\n"
    for kind, paths in lists.items():
        text = "".join(f"{number} {path}\n" for number, path in enumerate(paths, start=1))
        files[f"cfp-dataset/Protocol/Pair_list_{kind}.txt"] = text.encode()
    for fold in range(1, folds + 1):
        files[f"cfp-dataset/Protocol/Split/FP/{fold:02d}/same.txt"] = f"{2 * fold},{2 * fold - 1}\n1,2\n".encode()
        files[f"cfp-dataset/Protocol/Split/FP/{fold:02d}/diff.txt"] = b"1,8\n3,1"
        files[f"cfp-dataset/Protocol/Split/FF/{fold:02d}/same.txt"] = b"1,2\n"
    return files


@pytest.mark.parametrize("container", CONTAINERS)
def test_cfp_pairs_are_those_of_the_frontal_profile_splits(write, tmp_path, picture, container):
    path = write(container, cfp_files(picture))
    path = path / "cfp-dataset" if container == "folder" else path
    dataset = run({"kind": "lfw", "layout": "cfp_fp", "archive": str(path)}, tmp_path / "out")
    assert {record.key for record in dataset.records()} == {
        f"lfw/{person:03d}/{pose}/{image:02d}.jpg"
        for person in range(1, 5) for pose in ("frontal", "profile") for image in (1, 2)
    }  # fmt: skip
    assert {record.identity for record in dataset.records()} == {f"lfw/{person:03d}" for person in range(1, 5)}
    assert dataset.manifest.drops == {"not_an_image": 1 + 2 + 3 * 2}
    with open(dataset.attachment("pairs.csv"), newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    front, side = "lfw/{:03d}/frontal/{:02d}.jpg".format, "lfw/{:03d}/profile/{:02d}.jpg".format
    assert rows == [
        (front(1, 2), side(1, 1), "1", "0"), (front(1, 1), side(1, 2), "1", "0"),
        (front(1, 1), side(4, 2), "0", "0"), (front(2, 1), side(1, 1), "0", "0"),
        (front(2, 2), side(2, 1), "1", "1"), (front(1, 1), side(1, 2), "1", "1"),
        (front(1, 1), side(4, 2), "0", "1"), (front(2, 1), side(1, 1), "0", "1"),
    ]  # fmt: skip


def test_the_protocol_of_cfp_may_lie_elsewhere(write, tmp_path, picture):
    files = cfp_files(picture)
    images = write("images.zip", {name: data for name, data in files.items() if "Protocol" not in name})
    protocol = write("elsewhere", {name: data for name, data in files.items() if "Protocol" in name})
    source = {"kind": "lfw", "layout": "cfp_fp", "archive": str(images)}
    assert run(source | {"pairs": str(protocol)}, tmp_path / "out").attachment("pairs.csv")
    with pytest.raises(SourceError, match="the protocol lacks Pair_list_F.txt, Pair_list_P.txt, Split/FP"):
        run(source, tmp_path / "other")


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("Split/FP/02/same.txt", b"1,2\n", r"folds of Split/FP are not equal \(same/diff: 01: 2/2, 02: 1/2\)"),
        ("Split/FP/02/same.txt", b"1,2\n1,9\n", r"Split/FP/02/same\.txt, line 2: Pair_list_P\.txt has no number 9"),
        ("Split/FP/02/same.txt", b"1,2\n1\n", r"Split/FP/02/same\.txt, line 2: '1' must read"),
        ("Pair_list_F.txt", b"one ../a/b/c.jpg\n", r"Pair_list_F\.txt, line 1: 'one"),
        (
            "Pair_list_P.txt",
            b"1 Data/Images/009/profile/01.jpg\n2 a/b/c.jpg\n3 a/b/e.jpg\n8 a/b/d.jpg\n",
            "is not among the images",
        ),
    ],
)
def test_a_cfp_protocol_that_does_not_fit_is_refused(write, picture, name, text, words):
    files = cfp_files(picture) | {f"cfp-dataset/Protocol/{name}": text}
    reader = CfpReader(Members(write("set.zip", files), "the set"), None, "the set")
    with pytest.raises(SourceError, match=words):
        list(reader.items())
        list(reader.pairs())


def flat_names(people, images=2):
    return [f"Person_{chr(65 + person)}_{image + 1:04d}.jpg" for person in range(people) for image in range(images)]


def two_lines_a_pair(same, different):
    """As CALFW and CPLFW have it: all pairs of one person first."""
    return "".join(f"{a} {label}\n{b} {label}\n" for label, pairs in ((1, same), (0, different)) for a, b in pairs)


SAME = [(f"Person_{chr(65 + k)}_0001.jpg", f"Person_{chr(65 + k)}_0002.jpg") for k in range(20)]
DIFFERENT = [(SAME[k][0], SAME[(k + 1) % 20][1]) for k in range(20)]


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("layout", ["calfw", "cplfw"])
def test_pairs_listed_with_those_of_one_person_first_are_dealt_out_to_the_folds(
    write, tmp_path, picture, container, layout
):
    path = write(container, {f"{layout}/aligned images/{name}": picture() for name in flat_names(20)})
    (tmp_path / "pairs.txt").write_text(two_lines_a_pair(SAME, DIFFERENT))
    source = {"kind": "lfw", "layout": layout, "archive": str(path), "pairs": str(tmp_path / "pairs.txt")}
    dataset = run(source, tmp_path / "out")
    assert dataset.manifest.identities == 20 and dataset.manifest.images == 40
    with open(dataset.attachment("pairs.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    # Two pairs of one person and two of two in each fold, each kind in the order of the list.
    assert [(row["same"], row["fold"]) for row in rows] == [
        (kind, str(fold)) for fold in range(10) for kind in "1100"
    ]  # fmt: skip
    for kind, listed in (("1", SAME), ("0", DIFFERENT)):
        found = [(row["key_a"], row["key_b"]) for row in rows if row["same"] == kind]
        assert found == [(f"lfw/{a[:8]}/{a}", f"lfw/{b[:8]}/{b}") for a, b in listed]


def test_a_list_that_is_dealt_out_already_keeps_its_order(tmp_path):
    listed = []
    for fold in range(10):
        listed += [(*pair, 1) for pair in SAME[2 * fold : 2 * fold + 2]]
        listed += [(*pair, 0) for pair in DIFFERENT[2 * fold : 2 * fold + 2]]
    for form in ("{0} {1} {2}", "{2} set/{0} set/{1}"):
        (tmp_path / "pairs.txt").write_text("\n".join(form.format(*row) for row in listed))
        pairs = read_pair_list(tmp_path / "pairs.txt", "pairs.txt")
        assert [(f"{pair.first}.jpg", f"{pair.second}.jpg", pair.same) for pair in pairs] == listed
        assert [pair.fold for pair in pairs] == [index // 4 for index in range(40)]


def test_agedb_names_tell_the_person(write, tmp_path, picture):
    assert person_of("0_MariaCallas_35_f") == "MariaCallas"
    assert person_of("10001_Jean Paul_Belmondo_70_m") == "Jean Paul_Belmondo"
    assert person_of("Adam_Sandler_0003") == "Adam_Sandler"
    assert person_of("single") == "single"
    names = [f"{k}_Star{k // 2}_{30 + k}_{'fm'[k // 2 % 2]}.jpg" for k in range(40)]
    rows = [f"{names[2 * k]} {names[2 * k + 1]} 1" for k in range(20)]
    rows += [f"{names[2 * k]} {names[(2 * k + 2) % 40]} -1" for k in range(20)]
    (tmp_path / "pairs.txt").write_text("\n".join(rows))
    path = write("AgeDB.zip", {f"AgeDB/{name}": picture() for name in names} | {"AgeDB/readme.txt": b"x"})
    source = {"kind": "lfw", "layout": "agedb_30", "archive": str(path), "pairs": str(tmp_path / "pairs.txt")}
    dataset = run(source, tmp_path / "out")
    assert {record.identity for record in dataset.records()} == {f"lfw/Star{k}" for k in range(20)}
    assert dataset.manifest.drops == {"not_an_image": 1}


@pytest.mark.parametrize(
    "text, words",
    [
        ("", "has 0 pairs of one person and 0 of two"),
        (two_lines_a_pair(SAME[:19], DIFFERENT), "has 19 pairs of one person and 20 of two"),
        (two_lines_a_pair(SAME[:5], DIFFERENT[:5]), "a multiple of ten"),
        ("a.jpg 1\nb.jpg 0\n", "line 2: the two images of a pair have different labels"),
        ("a.jpg 1\n", "ends in the middle of a pair"),
        ("a.jpg b.jpg\n", "line 1: 'a.jpg b.jpg' must read"),
        ("a.jpg 1\na.jpg b.jpg 1\n", "line 2"),
        ("\n".join(f"a b {flag}" for flag in [1] * 5 + [0] * 10 + [1] * 5), "more of one person than of two"),
    ],
)
def test_a_pair_list_that_makes_no_equal_folds_is_refused(tmp_path, text, words):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(SourceError, match=words):
        read_pair_list(tmp_path / "pairs.txt", "pairs.txt")


def test_a_missing_image_of_a_flat_set_is_an_error(write, tmp_path, picture):
    path = write("set", {f"calfw/{name}": picture() for name in flat_names(20)[:-3]})
    (tmp_path / "pairs.txt").write_text(two_lines_a_pair(SAME, DIFFERENT))
    reader = FlatReader(Members(path, "the set"), tmp_path / "pairs.txt", "pairs.txt")
    list(reader.items())
    with pytest.raises(SourceError, match=r"line \d+: Person_. is not|_000\d is not among the images \(3 that"):
        list(reader.pairs())


def test_only_cfp_may_lack_the_pairs():
    parse({"kind": "lfw", "layout": "cfp_fp", "archive": "cfp.zip"})
    with pytest.raises(SourceError, match="lacks 'pairs'"):
        parse({"kind": "lfw", "layout": "calfw", "archive": "calfw.zip"})
    with pytest.raises(SourceError, match="layout is 'lfw2'"):
        parse({"kind": "lfw", "layout": "lfw2", "archive": "lfw.tgz", "pairs": "pairs.txt"})
