"""What the files of a source do not have in common, lists of what to leave out, and terms of use."""

import hashlib
import struct

import pytest

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import parse
from faceflow.components.download import stage
from faceflow.components.download.landmarks import Labels, Landmarks, Row, parse_line
from faceflow.components.download.licences import notices
from faceflow.components.download.megaface import ListedImages
from faceflow.components.download.members import Members

POINTS = " ".join(str(1.5 + i) for i in range(10))


def run(source, out, **settings):
    stage.run(stage.Settings(**settings), stage.Inputs(source), stage.Outputs(out))
    return Dataset(out)


def ledger(dataset):
    return [tuple(row[label] for label in ("key", "identity", "outcome", "reason", "detail"))
            for row in dataset.ledger().to_pylist()]  # fmt: skip


def trillion_pairs(write, tmp_path, images, rows):
    archive = write("train_msra.tar.gz", images)
    (tmp_path / "msra_lmk").write_text("".join(f"{row}\n" for row in rows))
    return {"kind": "trillion_pairs", "archive": str(archive), "landmarks": str(tmp_path / "msra_lmk"), "name": "msra"}


def test_both_ends_of_a_join_are_in_the_ledger_and_counted(write, tmp_path, picture):
    images = {f"msra/m.0{who}/{i}.jpg": picture() for who in "ab" for i in (1, 2)}
    rows = [f"msra/m.0{who}/{i}.jpg {label} {POINTS}" for who, i, label in
            (("a", 1, 0), ("b", 1, 3), ("b", 9, 3), ("c", 1, 90_000), ("a", 2, 0))]  # fmt: skip
    dataset = run(trillion_pairs(write, tmp_path, images, rows), tmp_path / "out")
    assert ledger(dataset) == [
        ("msra/m.0a/1.jpg", "msra/m.0a", "kept", "", ""),
        ("msra/m.0a/2.jpg", "msra/m.0a", "kept", "", ""),
        ("msra/m.0b/1.jpg", "msra/m.0b", "kept", "", ""),
        ("msra/m.0b/2.jpg", "msra/m.0b", "kept", "", "no landmark row"),
        ("msra/m.0b/9.jpg", "msra/m.0b", "unmatched", "", "a landmark row without an image"),
        ("msra/m.0c/1.jpg", "msra/m.0c", "unmatched", "", "a landmark row without an image"),
    ]
    assert dataset.manifest.images_in == dataset.manifest.images == 4
    assert dataset.manifest.inputs["unmatched"] == {
        "images without landmarks": 1,
        "landmark rows without an image": 2,
        "label numbers that no identity has": 90_001 - 3,
        "rows with a label out of range": 1,
    }
    assert dataset.manifest.licences and "CC BY-NC 4.0" in " ".join(dataset.manifest.licences)


def test_the_gaps_of_the_published_labels_are_those_of_the_reference():
    """celebrity: 109,444 numbers for 93,979 identities, so 15,465 numbers that nobody has."""
    labels = Labels()
    step = 109_444 / 93_979
    for identity in range(93_979):
        last = identity == 93_978
        number = 196_319 if last else 86_876 + int(identity * step)
        labels.add(Row(f"celebrity/{identity}/1.jpg", number, []))
    assert labels.unmatched == {
        "label numbers that no identity has": 15_465,
        "rows with a label out of range": 0,
        "identities with several labels": 0,
        "identities that share their label with another": 0,
    }
    labels.add(Row("celebrity/0/2.jpg", 86_875, []))
    assert labels.unmatched["rows with a label out of range"] == 1
    assert labels.unmatched["identities with several labels"] == 1


def test_a_negative_label_is_a_label_and_no_part_of_the_name():
    row = parse_line(f"msra/a/1.jpg -1 {POINTS}")
    assert (row.path, row.label) == ("msra/a/1.jpg", -1)


@pytest.mark.parametrize("value", ["1e7", "nan", "inf", "-inf", "1e400"])
def test_coordinates_that_no_image_has_make_no_row(value):
    assert parse_line(f"msra/a/1.jpg 1 {value} {POINTS.partition(' ')[2]}") is None


def test_landmarks_are_found_wherever_they_stand_in_a_long_file(tmp_path):
    count = 10_000  # several blocks of the temporary file
    points = " ".join(["{0}.25"] + ["2"] * 9)
    (tmp_path / "lmk").write_text("".join(f"s/p{i % 7}/{i}.jpg {points.format(i)}\n" for i in range(count)))
    landmarks = Landmarks(tmp_path / "lmk", "lmk", tmp_path)
    for i in (0, 9_999, 4_095, 4_096, 1, 8_191):
        assert landmarks.find(f"p{i % 7}", f"{i}.jpg")[0, 0] == i + 0.25
    assert landmarks.unused == count - 6
    assert sum(1 for _ in landmarks.unused_paths()) == count - 6
    assert landmarks.sha256 == hashlib.sha256((tmp_path / "lmk").read_bytes()).hexdigest()


def test_a_line_without_end_is_no_list(tmp_path):
    (tmp_path / "lmk").write_bytes(b"x" * 3_000_000)
    with pytest.raises(SourceError, match="a line of more than 65,536 bytes"):
        Landmarks(tmp_path / "lmk", "lmk")


def test_attribute_rows_without_an_image_are_in_the_ledger(write, tmp_path, picture):
    path = write("set", {"Al/1.jpg": picture(), "Bo/1.jpg": picture()})
    (tmp_path / "a.csv").write_text("path,age\nAl/1.jpg,4\nCy/1.jpg,5\n")
    dataset = run({"kind": "folder", "path": str(path), "attributes": str(tmp_path / "a.csv")}, tmp_path / "out")
    assert ledger(dataset)[-1] == ("folder/Cy/1.jpg", "", "unmatched", "", "an attribute row without an image")
    assert set(dataset.manifest.inputs["sha256"]) == {"attributes"}


@pytest.mark.parametrize("line", ["Al", "mine/Al", "people/Al", "Al/1.jpg\nAl/2.jpg", "mine/Al/1.jpg\npeople/Al/2.jpg"])
def test_what_a_list_names_is_left_out(write, tmp_path, picture, line):
    path = write("set.tar", {f"{who}/{i}.jpg": picture() for who in ("Al", "Bo", "Cy") for i in (1, 2)})
    (tmp_path / "out.txt").write_text(f"# people of the test\n\n{line}  # and why\n")
    source = {"kind": "folder", "path": str(path), "name": "mine", "namespace": "people"}
    dataset = run(source | {"exclude": str(tmp_path / "out.txt")}, tmp_path / "out")
    assert {record.identity for record in dataset.records()} == {"people/Bo", "people/Cy"}
    assert dataset.manifest.drops == {"excluded": 2}
    assert "unmatched" not in {row[2] for row in ledger(dataset)} and not dataset.manifest.inputs["unmatched"]
    assert set(dataset.manifest.inputs["sha256"]) == {"path", "exclude"}


def test_lines_that_fit_nothing_are_told(write, tmp_path, picture, caplog):
    path = write("set", {f"{who}/1.jpg": picture() for who in ("Al", "Bo", "Cy")})
    source = {"kind": "folder", "path": str(path), "exclude": str(tmp_path / "out.txt")}
    (tmp_path / "out.txt").write_text("Al\nDi\nEd/1.jpg\n")
    dataset = run(source, tmp_path / "one")
    assert "2 of its lines fit no image: Di, Ed/1.jpg" in caplog.text
    assert dataset.manifest.inputs["unmatched"] == {"exclusion lines that fit no image": 2}
    (tmp_path / "out.txt").write_text("al\n")
    assert run(source, tmp_path / "two").manifest.images == 3
    assert "fits no image at all: nothing was left out" in caplog.text
    (tmp_path / "out.txt").write_text("# nobody\n")
    with pytest.raises(SourceError, match="names nothing"):
        run(source, tmp_path / "three")


def test_everybody_left_out_is_an_error(write, tmp_path, picture):
    path = write("set", {f"{who}/1.jpg": picture() for who in ("Al", "Bo")})
    (tmp_path / "out.txt").write_text("Al\nBo\n")
    with pytest.raises(SourceError, match="no usable image among 2 files: 2 excluded"):
        run({"kind": "folder", "path": str(path), "exclude": str(tmp_path / "out.txt")}, tmp_path / "out")


TABLE = "name\timage_id\tface_id\turl\tbbox\tsha256\n"


def test_of_a_facescrub_table_what_is_there_is_read(write, tmp_path, picture):
    rows = [("Aaron Eckhart", 1), ("Aaron Eckhart", 1), ("Aaron Eckhart", 3), ("Zoe Z", 4)]
    table = TABLE + "".join(f"{name}\t{number}\t9\thttp://x/y.jpg\t1,2,3,4\tabc\n" for name, number in rows)
    (tmp_path / "facescrub_actors.txt").write_text(table)
    images = {"actors/Aaron_Eckhart/Aaron_Eckhart_1.png": picture(), "actors/Zoe_Z/Zoe_Z_4.jpeg": picture(),
              "actors/Zoe_Z/other.jpeg": picture()}  # fmt: skip
    source = {"kind": "facescrub", "path": str(write("faces.zip", images)),
              "list": str(tmp_path / "facescrub_actors.txt")}  # fmt: skip
    dataset = run(source, tmp_path / "out")
    assert [(record.key, record.identity) for record in dataset.records()] == [
        ("facescrub/Aaron Eckhart/Aaron_Eckhart_1.png", "facescrub/Aaron Eckhart"),
        ("facescrub/Zoe Z/Zoe_Z_4.jpeg", "facescrub/Zoe Z"),
    ]
    assert ledger(dataset)[-1][0::2] == ("facescrub/Aaron Eckhart/Aaron_Eckhart_3", "unmatched",
                                         "a list entry without an image")  # fmt: skip
    assert dataset.manifest.inputs["unmatched"] == {
        "files that the list does not name": 1, "list entries repeated": 1, "list entries without an image": 1,
    }  # fmt: skip


def boxes(dataset):
    found = {record.key.split("/")[-1]: record.box for record in dataset.records()}
    return {name: None if box is None else box.tolist() for name, box in found.items()}


BOXES = {
    "0": ("2,1,20,17", [2, 1, 20, 17]), "1": ("-3.5,-2,20.5,10", [-3.5, -2, 20.5, 10]), "2": ("0,0,4,2", [0, 0, 4, 2]),
    "3": ("", None), "4": ("1,2,3", None), "5": ("1,2,3,4,5", None), "6": ("a,b,c,d", None), "7": ("nan,0,5,5", None),
    "8": ("0,0,inf,5", None), "9": ("5,5,5,9", None), "10": ("9,2,5,9", None), "11": ("0,0,5,1e7", None),
}  # fmt: skip
OUTSIDE = {"12": "100,100,130,130", "13": "13,0,37,20", "14": "0,-30,24,10"}  # nothing inside, and less than half


@pytest.mark.parametrize("kind", ["table", "lines"])
def test_the_boxes_of_a_list_are_those_of_its_images(write, tmp_path, picture, caplog, kind):
    texts = {number: text for number, (text, _) in BOXES.items()} | OUTSIDE
    if kind == "table":
        lines = [f"Al\t{number}\t9\thttp://x/y.jpg\t{text}\tabc" for number, text in texts.items()]
        listed = TABLE + "\n".join(lines)
    else:
        points = "1,2," * 105 + "3,4"
        listed = "".join(f"Al/Al_{number}.jpg {text} {points}\n" if text else f"Al/Al_{number}.jpg\n"
                         for number, text in texts.items())  # fmt: skip
    (tmp_path / "list.txt").write_text(listed)
    path = write("images.tar", {f"Al/Al_{number}.jpg": picture(int(number)) for number in texts})
    dataset = run({"kind": "facescrub", "path": str(path), "list": str(tmp_path / "list.txt")}, tmp_path / "out")
    wanted = {number: box for number, (_, box) in BOXES.items()} | dict.fromkeys(OUTSIDE)
    assert boxes(dataset) == {f"Al_{number}.jpg": box for number, box in wanted.items()}
    bad = 9 if kind == "table" else 8  # a line may end behind its path
    assert dataset.manifest.inputs["unmatched"] == {
        "list entries with a malformed box": bad, "boxes outside their image": len(OUTSIDE),
    }  # fmt: skip
    details = {key.split("_")[-1]: detail for key, _, outcome, _, detail in ledger(dataset) if outcome == "kept"}
    assert {number for number, detail in details.items() if detail} == {f"{number}.jpg" for number in OUTSIDE}
    assert details["12.jpg"] == "its box lies outside the image"
    text = "''" if kind == "table" else "'1,2,3'"
    assert f"list.txt, line 5: {text} is no box, so its image goes without one: it must be x1,y1,x2" in caplog.text
    assert "the box 100,100,130,130 of Al/Al_12.jpg lies outside its image of 24x20 pixels" in caplog.text
    assert caplog.text.count("is no box") == caplog.text.count("of 24x20 pixels") == 1


def test_lists_without_boxes_and_aligned_images_give_none(write, tmp_path, picture):
    path = write("images", {"Al/Al_1.jpg": picture(size=(112, 112))})
    for name, text, fields in (
        ("lines", "Al/Al_1.jpg\n", {}), ("label", "Al/Al_1.jpg 7\n", {}), ("json", '{"path": ["Al/Al_1.jpg"]}', {}),
        ("aligned", "Al/Al_1.jpg 10,10,90,90\n", {"aligned": "arcface_112"}),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        source = {"kind": "megaface", "path": str(path), "list": str(tmp_path / name), **fields}
        dataset = run(source, tmp_path / f"{name}-out")
        assert boxes(dataset) == {"Al_1.jpg": None} and not dataset.manifest.inputs["unmatched"]


@pytest.mark.parametrize("text, words", [(TABLE, "no rows"), (TABLE + "a\tb\n", "line 2"), ("flat.jpg 1\n", "line 1")])
def test_a_table_that_is_none_is_refused(write, tmp_path, picture, text, words):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(SourceError, match=words):
        ListedImages(Members(write("images", {"a/b.jpg": picture()}), "images"), tmp_path / "list.txt", "list.txt")


def test_known_sets_are_known_by_kind_and_name():
    def told(names=(), **spec):
        return " ".join(notices(parse(spec), names))

    msra = {"kind": "trillion_pairs", "archive": "a", "landmarks": "b"}
    assert "CC BY-NC 4.0" in told(["x.tar.gz"], **msra) and "MS-Celeb" not in told(["x.tar.gz"], **msra)
    assert "MS-Celeb-1M" in told(["train_msra.tar.gz"], **msra)
    assert "MS-Celeb-1M" in told(["faces_emore"], kind="insightface", path="a")
    assert "non-commercial" in told(["x"], kind="insightface", path="a")
    assert "VGGFace2" in told(["VGG-Face2.zip"], kind="folder", path="a")
    assert "VGGFace2" not in told(["vgg_face_dataset"], kind="folder", path="a")
    assert "CASIA" in told(["CASIA-WebFace.zip"], kind="folder", path="a")
    assert told(["photos"], kind="folder", path="a") == ""
    assert told(["lfw.tgz"], kind="synthetic", layout="lfw") == ""
    assert told(["photos"], kind="folder", path="a", name="mine", licence="ours alone") == "mine: ours alone"


def test_a_published_name_with_another_md5_is_told(write, tmp_path, picture, caplog):
    images = {f"msra/m.0{who}/1.jpg": picture() for who in "ab"}
    source = trillion_pairs(write, tmp_path, images, [f"msra/m.0a/1.jpg 0 {POINTS}"])
    run(source, tmp_path / "one")
    data = (tmp_path / "train_msra.tar.gz").read_bytes()
    md5 = hashlib.md5(data).hexdigest()
    assert (
        f"has the MD5 {md5}, but what was published under this name has c5b668f2204c400099b14f367069aef5" in caplog.text
    )
    caplog.clear()
    run(source | {"checksums": {"archive": f"md5:{md5}"}}, tmp_path / "two")
    assert "published under this name" not in caplog.text


def test_gaps_in_the_labels_of_a_record_file_are_counted(tmp_path, picture):
    (tmp_path / "set").mkdir()
    offset = 0
    with open(tmp_path / "set/train.rec", "wb") as rec, open(tmp_path / "set/train.idx", "w") as idx:
        for number, label in enumerate((0.0, 0.0, 5.0), start=1):
            data = struct.pack("<IfQQ", 0, label, number, 0) + picture(number, size=(112, 112))
            framed = struct.pack("<II", 0xCED7230A, len(data)) + data + bytes(-len(data) % 4)
            idx.write(f"{number}\t{offset}\n")
            offset += rec.write(framed)
    (tmp_path / "set/property").write_text("5,112,112")
    dataset = run({"kind": "insightface", "path": str(tmp_path / "set")}, tmp_path / "out")
    assert dataset.manifest.inputs["unmatched"] == {
        "label numbers that no identity has": 4, "labels out of the range that 'property' tells": 1,
    }  # fmt: skip
    (tmp_path / "set/property").write_text("five")
    with pytest.raises(SourceError, match="property holds 'five'"):
        run({"kind": "insightface", "path": str(tmp_path / "set")}, tmp_path / "other")
