"""Each layout, read back with other code than that which wrote it: tarfile, json, csv, struct, pickle, Pillow."""

import csv
import hashlib
import io
import json
import pickle
import struct
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.synthetic import layouts
from faceflow.components.common.synthetic.cast import identity_seed, make_cast
from faceflow.components.common.synthetic.layouts.insightface import MAGIC, RecordWriter
from faceflow.components.common.synthetic.render import render

SMALL = {"identities": 5, "images_per_identity": (2, 4), "seed": 11, "size_px": 80}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("layouts")
    return {name: layouts.write(name, root / name, **SMALL) for name in layouts.LAYOUTS}


def tree(root):
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def attributes(files):
    with open(files.attributes, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert all(row["gender"] in ("female", "male") and 16 <= float(row["age"]) <= 80 for row in rows)
    return {row["path"]: row for row in rows}


def picture(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB"))


def members(archive):
    with tarfile.open(archive, "r:gz") as tar:
        entries = tar.getmembers()
        assert all(entry.mtime == 0 and entry.uid == entry.gid == 0 for entry in entries)
        return {entry.name: tar.extractfile(entry).read() for entry in entries if entry.isfile()}


def images_of_cast():
    return sum(sitter.images for sitter in make_cast(SMALL["seed"], SMALL["identities"], SMALL["images_per_identity"]))


def test_trillion_pairs(written):
    files = written["trillion_pairs"]
    (source,) = files.sources
    assert source["kind"] == "trillion_pairs"
    found = members(source["archive"])
    assert len(found) == images_of_cast() and list(found) == sorted(found)
    labels = {}
    with open(source["landmarks"], encoding="utf-8") as lines:
        for line, name in zip(lines, found, strict=True):
            path, label, *points = line.split(" ")
            assert path == name and len(points) == 10
            folder, identity, file = path.split("/")
            assert folder == "celebrity" and identity.startswith("m.0") and file.endswith("_align.jpg")
            assert labels.setdefault(identity, int(label)) == int(label)
            assert picture(found[name]).shape == (80, 80, 3)
    assert len(labels) == len(set(labels.values())) == 5
    span = max(labels.values()) - min(labels.values()) + 1
    assert min(labels.values()) == 86_876 and span > 5, "the real set's labels have gaps"
    assert list(attributes(files)) == list(found)


def test_trillion_pairs_landmarks_are_the_pictures_own(written):
    found = members(written["trillion_pairs"].sources[0]["archive"])
    truth = [
        render(sitter.seed, index, 80)
        for sitter in make_cast(SMALL["seed"], SMALL["identities"], SMALL["images_per_identity"])
        for index in range(sitter.images)
    ]
    with open(written["trillion_pairs"].sources[0]["landmarks"], encoding="utf-8") as lines:
        for line in lines:
            path, _, *points = line.split(" ")
            shown = picture(found[path]).astype(float)
            nearest = min(truth, key=lambda face: np.abs(face.image - shown).mean())  # noqa: B023
            assert np.abs(nearest.image - shown).mean() < 6  # what JPEG costs
            np.testing.assert_allclose(np.array(points, float).reshape(5, 2), nearest.landmarks, atol=0.0051)


def test_trillion_pairs_labels_skip_as_many_numbers_as_in_the_real_set():
    from faceflow.components.common.synthetic.layouts.trillion_pairs import _labels

    labels = _labels(20_000, 4)
    assert labels == sorted(set(labels))
    skipped = 1 - len(labels) / (labels[-1] - labels[0] + 1)
    assert skipped == pytest.approx(1 - 93_979 / 109_444, abs=0.01)


def test_lfw(written):
    files = written["lfw"]
    (source,) = files.sources
    found = members(source["archive"])
    assert len(found) == images_of_cast()
    counts = Counter(name.split("/")[1] for name in found)
    assert set(found) == {f"lfw/{who}/{who}_{n + 1:04d}.jpg" for who, count in counts.items() for n in range(count)}
    assert list(attributes(files)) == list(found)
    header, *lines = Path(source["pairs"]).read_text(encoding="utf-8").splitlines()
    folds, pairs = (int(number) for number in header.split("\t"))
    assert folds == 2 and len(lines) == folds * 2 * pairs
    people = []
    for fold in range(folds):
        rows = [line.split("\t") for line in lines[2 * pairs * fold : 2 * pairs * (fold + 1)]]
        assert [len(row) for row in rows] == [3] * pairs + [4] * pairs
        shots = [((row[0], row[1]), (row[0] if len(row) == 3 else row[2], row[-1])) for row in rows]
        assert all((one[0] == other[0]) == (len(row) == 3) for (one, other), row in zip(shots, rows, strict=True))
        assert all(f"lfw/{who}/{who}_{int(n):04d}.jpg" in found for pair in shots for who, n in pair)
        people.append({who for pair in shots for who, _ in pair})
    assert not set.intersection(*people)


def test_megaface(written):
    files = written["megaface"]
    probes, distractors = files.sources
    assert (probes["kind"], distractors["kind"]) == ("facescrub", "megaface")
    listed = json.loads(Path(probes["list"]).read_text())
    assert [path.split("/")[0] for path in listed["path"]] == listed["id"]
    assert len(listed["path"]) == images_of_cast() and len(set(listed["id"])) == 5
    for path, who in zip(listed["path"], listed["id"], strict=True):
        name, number = path.removesuffix(".jpg").split("/")[1].rsplit("_", 1)
        assert name == who and number.isdigit()
        assert picture((files.root / "facescrub" / path).read_bytes()).shape == (80, 80, 3)
    lists = {size: (files.root / f"megaface_features_list.json_{size}_1").read_text() for size in (10, 50)}
    lists = {size: json.loads(text)["path"] for size, text in lists.items()}
    assert distractors["list"].endswith("_50_1")
    on_disk = {str(path.relative_to(distractors["path"])) for path in (files.root / "megaface").rglob("*.jpg")}
    assert set(lists[50]) == on_disk and len(on_disk) == 50
    assert lists[10] == lists[50][:10]
    assert all(len(path.split("/")) == 3 and path.split("/")[1].startswith(path.split("/")[0]) for path in on_disk)
    assert len(attributes(files)) == 50 + images_of_cast()


def records(path):
    """A reader of RecordIO written from its description: number -> data."""
    data, at, whole, found = path.read_bytes(), 0, b"", []
    while at < len(data):
        magic, word = struct.unpack_from("<II", data, at)
        assert magic == MAGIC
        flag, length = word >> 29, word & (1 << 29) - 1
        part = data[at + 8 : at + 8 + length]
        whole = part if flag in (0, 1) else whole + struct.pack("<I", MAGIC) + part
        if flag in (0, 3):
            found.append(whole)
        at += 8 + -(-length // 4) * 4
    return found


def test_insightface_rec(written):
    root = written["insightface_rec"].root
    found = records(root / "train.rec")
    index = [line.split("\t") for line in (root / "train.idx").read_text().splitlines()]
    raw = (root / "train.rec").read_bytes()
    assert [int(number) for number, _ in index] == list(range(len(found)))
    assert all(raw[int(offset) : int(offset) + 4] == struct.pack("<I", MAGIC) for _, offset in index)
    flag, _, number, _ = struct.unpack_from("<IfQQ", found[0])
    begin, end = (int(value) for value in struct.unpack_from("<2f", found[0], 24))
    assert (flag, number, end) == (2, 0, len(found)) and end - begin == 5 and begin - 1 == images_of_cast()
    labels = []
    for number in range(1, begin):
        flag, label, own, _ = struct.unpack_from("<IfQQ", found[number])
        assert flag == 0 and own == number
        assert picture(found[number][24:]).shape == (112, 112, 3)
        labels.append(int(label))
    for identity in range(5):
        first, last = (int(value) for value in struct.unpack_from("<2f", found[begin + identity], 24))
        assert len(found[begin + identity]) == 24 + 8
        assert set(labels[first - 1 : last - 1]) == {identity} and labels.count(identity) == last - first
    assert (root / "property").read_text() == "5,112,112"
    assert list(attributes(written["insightface_rec"])) == [str(number) for number in range(1, begin)]


@pytest.mark.parametrize("position", [0, 4, 6, 8, 20])
@pytest.mark.parametrize("times", [1, 2])
def test_records_that_hold_the_magic_number_come_back_whole(tmp_path, position, times):
    data = b"x" * position + struct.pack("<I", MAGIC) * times + b"tail"
    with RecordWriter(tmp_path / "a.rec", tmp_path / "a.idx") as writer:
        writer.write(0, data)
        writer.write(1, b"next")
    assert records(tmp_path / "a.rec") == [data, b"next"]
    magics = (tmp_path / "a.rec").read_bytes()
    aligned = [at for at in range(0, len(magics), 4) if magics[at : at + 4] == struct.pack("<I", MAGIC)]
    assert len(aligned) == 2 + (times if position % 4 == 0 else 0), "each stands at the start of a part"


def test_insightface_bin(written):
    files = written["insightface_bin"]
    with open(files.sources[0]["path"], "rb") as file:
        images, same = pickle.load(file, encoding="bytes")
    assert len(images) == 2 * len(same) and all(isinstance(image, bytes) for image in images)
    assert set(same) == {True, False} and sum(same) * 2 == len(same)
    rows = list(attributes(files).values())
    assert [row["path"] for row in rows] == [str(index) for index in range(len(images))]
    for first, second, alike in zip(rows[::2], rows[1::2], same, strict=True):
        if alike:
            assert first["gender"] == second["gender"]
    for data in images[:4]:
        assert picture(data).shape == (112, 112, 3)


def test_crops_are_aligned_to_the_template(written):
    """Red lips and dark eyes lie, on average, where the template has them."""
    root = written["insightface_rec"].root
    crops = [picture(data[24:]).astype(float) for data in records(root / "train.rec") if len(data) > 24 + 8]
    mean = np.mean(crops, 0)
    left, right, _, *mouth = TEMPLATES["arcface_112"].points.round().astype(int)
    for x, y in (left, right):
        window = mean[y - 8 : y + 9, x - 9 : x + 10].mean(2)
        row, column = np.unravel_index(window.argmin(), window.shape)
        assert abs(row - 8) <= 5 and abs(column - 9) <= 7
    x, y = np.mean(mouth, 0).round().astype(int)
    redness = mean[:, x - 3 : x + 4, 0].mean(1) / mean[:, x - 3 : x + 4, 1].mean(1)
    assert abs(int(redness[80:105].argmax()) + 80 - y) <= 6


def test_folder(written):
    files = written["folder"]
    root = files.root / "faces"
    assert files.sources == ({"kind": "folder", "path": str(root)},)
    people = sorted(path.name for path in root.iterdir())
    assert len(people) == 5
    assert any(" " in name for name in people) and any(not name.isascii() for name in people)
    on_disk = {str(path.relative_to(root)) for path in root.rglob("*.jpg")}
    assert set(attributes(files)) == on_disk and len(on_disk) == images_of_cast()


def test_the_same_seed_shows_the_same_people_in_every_layout(written):
    genders = {
        name: Counter(row["gender"] for row in attributes(written[name]).values())
        for name in ("trillion_pairs", "lfw", "folder", "insightface_rec")
    }
    assert len({tuple(sorted(count.items())) for count in genders.values()}) == 1


def test_bytes_do_not_depend_on_workers_or_on_the_run(tmp_path, written):
    for name in ("trillion_pairs", "insightface_rec"):
        again = layouts.write(name, tmp_path / name, **SMALL, workers=2)
        assert tree(again.root) == tree(written[name].root)
    again = layouts.write("lfw", tmp_path / "lfw", **SMALL)
    assert tree(again.root) == tree(written["lfw"].root)


def test_another_seed_gives_other_bytes(tmp_path, written):
    other = layouts.write("folder", tmp_path / "folder", **{**SMALL, "seed": 12})
    assert not set(tree(other.root).values()) & set(tree(written["folder"].root).values())
    assert identity_seed(11, 0) != identity_seed(12, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "celeba"}, "layout is 'celeba', but must be one of trillion_pairs, lfw"),
        ({"identities": 0}, "identities is 0, but must be a whole number of at least 1"),
        ({"images_per_identity": (5, 2)}, r"images_per_identity is \(5, 2\), but must be a number of at least 1"),
        ({"images_per_identity": 0}, "images_per_identity is 0"),
        ({"size_px": 1000}, "size_px is 1000, but must be a whole number of between 64 and 512"),
        ({"workers": 0}, "workers is 0"),
        ({"layout": "lfw", "identities": 3}, "at least 4 identities"),
        ({"layout": "lfw", "images_per_identity": 1}, "raise images_per_identity"),
    ],
)
def test_bad_orders_are_refused_and_leave_nothing(tmp_path, change, message):
    order = {"layout": "folder", **SMALL, **change}
    with pytest.raises(SettingsError, match=message):
        layouts.write(order.pop("layout"), tmp_path / "out", **order)
    assert not list(tmp_path.iterdir())


def test_what_stands_there_is_not_overwritten(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(DatasetError, match="exists already"):
        layouts.write("folder", tmp_path, **SMALL)
    assert (tmp_path / "mine.txt").read_text() == "keep"
