"""The stage with every template, on rendered faces; dlib, OpenCV and Pillow draw what should come out."""

import importlib.util
import inspect
import json
import logging

import cv2
import numpy as np
import pytest
from PIL import Image

from faceflow.components.align import dlib_faces, mtcnn, stage
from faceflow.components.align.component import align as component
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.images import decode
from faceflow.components.common.synthetic.cast import identity_seed
from faceflow.components.common.synthetic.render import render
from faceflow.pipelines import training

needs_dlib = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None,
    reason="the extra dlib is not installed",
)
DLIB_ONLY = [name for name, each in TEMPLATES.items() if each.framing in ("dlib_chip", "three_points")]


@pytest.fixture(scope="module")
def faces():
    return [render(identity_seed(2, index), index % 3, 480) for index in (0, 3, 7, 9)]


@pytest.fixture
def aligned(faces, raw, align, encode):
    """Aligns the rendered faces, without their landmarks, and gives pixels and records in their order."""

    def run(**settings):
        source = raw(*((f"people/Al/{index}", encode(face.image)) for index, face in enumerate(faces)))
        records = sorted(align(source, jpeg_quality=100, **settings).records(), key=lambda record: record.key)
        assert len(records) == len(faces)
        return [(decode(record.image), record) for record in records]

    return run


def away(drawn, wanted):
    return np.abs(drawn.astype(int) - wanted.astype(int))[3:-3, 3:-3].mean()


@needs_dlib
@pytest.mark.parametrize("template", ["arcface_112", "arcface_96x112"])
def test_dlib_gives_the_five_landmarks_of_the_arcface_templates(aligned, template):
    for pixels, record in aligned(landmarks="dlib", template=template):
        assert pixels.shape == (112, TEMPLATES[template].width, 3)
        assert np.linalg.norm(record.landmarks - TEMPLATES[template].points, axis=1).mean() < 4
        assert record.score > 0


@needs_dlib
def test_dlibs_chip_is_dlibs(aligned, faces):
    import dlib

    detector, predictor = dlib.get_frontal_face_detector(), dlib_faces._predictor(5)
    for face, (pixels, record) in zip(faces, aligned(landmarks="dlib", template="dlib_5point_224"), strict=True):
        shape = predictor(face.image, detector(face.image)[0])
        assert away(pixels, dlib.get_face_chip(face.image, shape, size=224, padding=0.25)) < 2
        assert (record.height, record.width) == (224, 224)
        assert 20 < np.hypot(*(record.landmarks[1] - record.landmarks[0])) < 224  # the five of the 68 points


@needs_dlib
@pytest.mark.parametrize("template, three", [("openface_96", (39, 42, 57)), ("openface_96_outer", (36, 45, 33))])
def test_openfaces_crop_is_openfaces(aligned, faces, template, three):
    import dlib

    detector, predictor = dlib.get_frontal_face_detector(), dlib_faces._predictor(68)
    for face, (pixels, record) in zip(faces, aligned(landmarks="dlib", template=template), strict=True):
        parts = predictor(face.image, detector(face.image)[0]).parts()
        points = np.float32([(part.x, part.y) for part in parts])
        matrix = cv2.getAffineTransform(points[list(three)], np.float32(TEMPLATES[template].points))
        assert away(pixels, cv2.warpAffine(face.image, matrix, (96, 96))) < 2
        eyes = cv2.transform(np.array([[points[36:42].mean(0), points[42:48].mean(0)]]), matrix)[0]
        np.testing.assert_allclose(record.landmarks[:2], eyes, atol=0.01)


@pytest.mark.parametrize("landmarks", ["mtcnn", "auto"])
def test_facenets_crop_is_the_box_with_its_margin(aligned, faces, landmarks):
    for face, (pixels, record) in zip(faces, aligned(landmarks=landmarks, template="facenet_160"), strict=True):
        (found,) = mtcnn.detect([face.image], 0.9, 1024)[0]
        left, top, right, bottom = found.box
        cut = (int(max(left - 16, 0)), int(max(top - 16, 0)), int(min(right + 16, 480)), int(min(bottom + 16, 480)))
        part = Image.fromarray(face.image).crop(cut)
        assert away(pixels, np.asarray(part.resize((160, 160), Image.Resampling.BILINEAR))) < 4
        scale = 160 / np.array([cut[2] - cut[0], cut[3] - cut[1]])
        np.testing.assert_allclose(record.landmarks, (found.landmarks + 0.5 - cut[:2]) * scale - 0.5, atol=0.01)


def test_facenet_is_cut_along_the_detected_box_though_landmarks_are_given(faces, raw, align, encode):
    given = raw(("people/Al/0", encode(faces[0].image), faces[0].landmarks))
    bare = raw(("people/Al/0", encode(faces[0].image)), name="bare")
    one, other = (align(source, source.name + "-aligned", template="facenet_160") for source in (given, bare))
    assert [record.image for record in one.records()] == [record.image for record in other.records()]


@pytest.mark.parametrize("landmarks", ["auto", "given", "mtcnn"])
@pytest.mark.parametrize("template", DLIB_ONLY)
def test_dlibs_templates_need_dlibs_landmarks(template, landmarks):
    with pytest.raises(SettingsError, match=f"'template' is '{template}'.*needs dlib.*'landmarks' is '{landmarks}'"):
        stage.Settings(template=template, landmarks=landmarks)


@pytest.mark.parametrize("landmarks", ["given", "dlib"])
def test_facenet_needs_mtcnns_box(landmarks):
    with pytest.raises(SettingsError, match=f"'facenet_160'.*box that mtcnn finds.*'landmarks' is '{landmarks}'"):
        stage.Settings(template="facenet_160", landmarks=landmarks)


def test_without_dlib_nothing_begins(faces, raw, align, encode, tmp_path, monkeypatch):
    source = raw(("people/Al/0", encode(faces[0].image)))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"'landmarks' is 'dlib', but dlib-bin .* not installed: pip install"):
        align(source, landmarks="dlib")
    assert not (tmp_path / "aligned").exists()


def two_faces(faces, places, sides):
    canvas = np.full((480, 960, 3), 128, np.uint8)
    for face, (x, y), side in zip(faces, places, sides, strict=True):
        canvas[y : y + side, x : x + side] = cv2.resize(face.image, (side, side), interpolation=cv2.INTER_AREA)
    return canvas


@pytest.mark.parametrize("landmarks", ["mtcnn", pytest.param("dlib", marks=needs_dlib)])
def test_which_of_several_faces_is_chosen_is_a_setting(faces, raw, align, encode, landmarks):
    # The left one is larger, the right one nearer to the middle.
    canvas = two_faces(faces[1:3], [(0, 0), (500, 80)], [460, 300])
    pointed_at = faces[2].landmarks * 300 / 480 + (500, 80)
    source = raw(("people/Al/both", encode(canvas), pointed_at))
    bare = raw(("people/Al/both", encode(canvas)), name="bare")
    settings = {"landmarks": landmarks, "smallest_face_percent": 5.0}
    chosen = {}
    for name, path, rule in (("central", bare, "central"), ("largest", bare, "largest"), ("overlap", source, "overlap"),
                             ("no box", bare, "overlap")):  # fmt: skip
        (record,) = align(path, name, face=rule, **settings).records()
        chosen[name] = decode(record.image)
    assert away(chosen["central"], chosen["overlap"]) == away(chosen["central"], chosen["no box"]) == 0
    assert away(chosen["central"], chosen["largest"]) > 10
    with pytest.raises(DatasetError, match="1 several_faces"):
        align(bare, "none", several_faces="drop", **settings)


def test_a_source_whose_landmarks_are_in_the_wrong_order_is_noticed(faces, raw, align, encode, caplog):
    def swapped(points):
        return points[[1, 0, 2, 4, 3]]

    good = [(f"people/Al/{index}", encode(face.image), face.landmarks) for index, face in enumerate(faces)]
    wrong = [(f"people/Bo/{index}", encode(face.image), swapped(face.landmarks)) for index, face in enumerate(faces)]
    with caplog.at_level(logging.WARNING, "faceflow"):
        dataset = align(raw(*good, *wrong[:1]))
    assert dataset.manifest.drops == {"bad_landmarks": 1}
    assert "people: 1 of 5 images (20.0%) have landmarks that only a mirrored face could have" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "faceflow"):
        align(raw(*good, name="good"), "fine")
    assert "mirrored" not in caplog.text
    with pytest.raises(DatasetError, match=r"none of the images of 'people'.*4 of 4 .*check the order"):
        align(raw(*wrong, name="wrong"), "bad")
    assert len(list(align(raw(*wrong, name="again"), "found", landmarks="mtcnn").records())) == 4


def test_every_template_is_named_where_one_is_chosen():
    for name in TEMPLATES:
        assert name in component.python_func.__doc__
        assert name in inspect.getsource(training)


def test_the_manifest_names_template_and_interpolation(faces, raw, align, encode, tmp_path):
    align(raw(("people/Al/0", encode(faces[0].image))), template="facenet_160")
    manifest = json.loads((tmp_path / "aligned" / "manifest.json").read_text())
    assert (manifest["template"], manifest["interpolation"]) == ("facenet_160", "halved, then bilinear")


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name not in DLIB_ONLY])
def test_the_report_reads_with_every_template(faces, raw, align, encode, tmp_path, template):
    align(raw(*((f"people/Al/{index}", encode(face.image)) for index, face in enumerate(faces))), template=template)
    page = (tmp_path / "aligned.html").read_text()
    assert template in page and "Before and after" in page and "The mean face" in page
