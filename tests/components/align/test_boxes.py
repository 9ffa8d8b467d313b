"""The box that a source gives, from FaceScrub's table to the face that is taken; the renderer knows which it is."""

import cv2
import numpy as np
import pytest
from PIL import Image

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.geometry import TEMPLATES, similarity_transform, warp
from faceflow.components.common.images import decode, inspect
from faceflow.components.common.record import Record
from faceflow.components.common.synthetic.cast import identity_seed
from faceflow.components.common.synthetic.render import render
from faceflow.components.download import stage as download

TEMPLATE = TEMPLATES["arcface_112"]


class Scene:
    """Two faces on one canvas: a large one at the left, and a smaller one nearer to the middle.

    Attributes:
        pixels: (480, 960, 3).
        boxes: (2, 4) left, top, right, bottom of each.
        landmarks: (2, 5, 2).
    """

    def __init__(self):
        self.pixels = np.full((480, 960, 3), 128, np.uint8)
        boxes, landmarks = [], []
        for index, (x, y, side) in ((3, (0, 0, 460)), (7, (500, 80, 300))):
            face = render(identity_seed(2, index), index % 3, 480)
            small = cv2.resize(face.image, (side, side), interpolation=cv2.INTER_AREA)
            self.pixels[y : y + side, x : x + side] = small
            boxes.append(face.box * side / 480 + (x, y, x, y))
            landmarks.append(face.landmarks * side / 480 + (x, y))
        self.boxes, self.landmarks = np.float32(boxes), np.float32(landmarks)

    def shown(self, record):
        """Which of both faces an aligned record shows: the one that its true landmarks cut out alike."""
        cut = [warp(self.pixels, similarity_transform(each, TEMPLATE.points), TEMPLATE) for each in self.landmarks]
        away = [np.abs(decode(record.image).astype(int) - each).mean() for each in cut]
        assert max(away) > 2 * min(away)
        return int(np.argmin(away))


@pytest.fixture(scope="module")
def scene():
    return Scene()


@pytest.fixture
def boxed(scene, raw, encode):
    """A raw dataset of one image of the scene."""

    def make(box=None, landmarks=None, name="raw", data=None):
        data = data or encode(scene.pixels)
        header = inspect(data)
        box = None if box is None else np.asarray(box, np.float32)
        return raw(Record("s/Al/1.png", "s/Al", data, header.height, header.width, landmarks, box=box), name=name)

    return make


def test_the_boxes_of_a_facescrub_table_choose_the_faces(scene, align, encode, tmp_path):
    folder, rows = tmp_path / "images" / "Al_Lee", []
    folder.mkdir(parents=True)
    boxes = [scene.boxes[0], scene.boxes[1], None]
    for number, box in enumerate(boxes):
        (folder / f"Al_Lee_{number}.png").write_bytes(encode(scene.pixels))
        text = "" if box is None else ",".join(f"{each:.0f}" for each in box)
        rows.append(f"Al Lee\t{number}\t{number}\thttp://x/y.jpg\t{text}\tabc\n")
    table = tmp_path / "facescrub_actors.txt"
    table.write_text("name\timage_id\tface_id\turl\tbbox\tsha256\n" + "".join(rows))
    source = {"kind": "facescrub", "path": str(tmp_path / "images"), "list": str(table)}
    download.run(download.Settings(), download.Inputs(source), download.Outputs(tmp_path / "raw"))
    records = sorted(Dataset(tmp_path / "raw").records(), key=lambda record: record.key)
    assert [None if each.box is None else each.box.tolist() for each in records] == [
        None if box is None else np.round(box).tolist() for box in boxes
    ]
    for rule, faces in (("overlap", [0, 1, 1]), ("central", [1, 1, 1]), ("largest", [0, 0, 0])):
        aligned = sorted(align(tmp_path / "raw", rule, face=rule).records(), key=lambda record: record.key)
        assert [scene.shown(record) for record in aligned] == faces
        assert all(record.box is None for record in aligned)


def test_the_box_goes_before_the_landmarks_and_those_before_the_middle(scene, align, boxed):
    found = {}
    for name, box, points in (
        ("both", scene.boxes[1], scene.landmarks[0]),
        ("box", scene.boxes[0], None),
        ("landmarks", None, scene.landmarks[0]),
        ("no numbers", [np.nan, 1, 2, 3], scene.landmarks[0]),
        ("neither", None, None),
        ("touches none", [880, 0, 890, 9], None),
    ):
        (record,) = align(boxed(box, points, name), f"{name}-aligned", landmarks="mtcnn", face="overlap").records()
        found[name] = scene.shown(record)
    assert found == {"both": 1, "box": 0, "landmarks": 0, "no numbers": 0, "neither": 1, "touches none": 1}


def test_boxes_are_in_pixels_of_the_upright_image_whatever_size_is_searched(scene, align, boxed, encode):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(scene.pixels).transpose(Image.Transpose.ROTATE_90)
    data = encode(turned, "JPEG", quality=95, exif=exif)
    assert (inspect(data).width, inspect(data).orientation) == (960, 6)
    for which, box in enumerate(scene.boxes):
        source = boxed(box, name=f"turned-{which}", data=data)
        (record,) = align(source, f"found-{which}", face="overlap", detect_side_px=400).records()
        assert scene.shown(record) == which


def test_given_takes_no_face_but_the_one_that_is_given(scene, raw, align, encode):
    data = encode(scene.pixels)

    def record(name, box=None, landmarks=None):
        box = None if box is None else np.float32(box)
        return Record(f"s/Al/{name}", "s/Al", data, 480, 960, landmarks, box=box)

    source = raw(record("marked", landmarks=scene.landmarks[1]), record("boxed", scene.boxes[0]), record("bare"),
                 record("elsewhere", [880, 0, 890, 9]), record("nan", [np.nan] * 4))  # fmt: skip
    dataset = align(source, landmarks="given", face="overlap")
    assert {one.key: scene.shown(one) for one in dataset.records()} == {"s/Al/marked": 1, "s/Al/boxed": 0}
    why = {row["key"]: (row["reason"], row["detail"]) for row in dataset.ledger().to_pylist() if row["reason"]}
    assert why == {
        "s/Al/bare": ("no_face", "the source gives no landmarks for it"),
        "s/Al/elsewhere": ("no_face", "no face found in the box that the source gives"),
        "s/Al/nan": ("no_face", "no face found in the box that the source gives"),
    }
    dataset = align(source, "central", landmarks="given")
    assert [one.key for one in dataset.records()] == ["s/Al/marked"]
    why = {row["key"]: row["detail"] for row in dataset.ledger().to_pylist() if row["reason"] == "no_face"}
    assert "only a box, by which 'face' overlap would find it" in why["s/Al/boxed"] and "box" not in why["s/Al/bare"]
