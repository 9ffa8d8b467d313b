"""dlib called as its own examples do is the oracle; the faces are rendered, so their landmarks are known."""

import importlib.util
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest

from faceflow.components.align import dlib_faces
from faceflow.components.align.landmarks import of_68
from faceflow.components.common.errors import SettingsError
from faceflow.components.common.synthetic.cast import identity_seed
from faceflow.components.common.synthetic.render import render

needs_dlib = pytest.mark.skipif(
    importlib.util.find_spec("dlib") is None or importlib.util.find_spec("face_recognition_models") is None,
    reason="the extra dlib is not installed",
)


@pytest.fixture(scope="module")
def faces():
    return [render(identity_seed(2, index), index % 3, 250) for index in (0, 1, 3, 7, 9, 10)]


def between_eyes(landmarks):
    return float(np.hypot(*(landmarks[1] - landmarks[0])))


@needs_dlib
def test_the_landmarks_of_a_face_are_found(faces):
    pictures = [face.image for face in faces]
    pictures.append(np.zeros((200, 300, 3), np.uint8))
    found = dlib_faces.detect(pictures, 0.0, 480)
    assert [len(each) for each in found[:-1]] == [1] * len(faces)
    assert all(face.score < 0 for face in found[-1])
    for (best,), face in zip(found, faces, strict=False):
        away = np.linalg.norm(best.landmarks - face.landmarks, axis=1) / between_eyes(face.landmarks)
        assert np.median(away) < 0.05
        assert best.parts.shape == (68, 2)
        np.testing.assert_array_equal(best.landmarks, of_68(best.parts))
        left, top, right, bottom = best.box
        x, y = face.landmarks.mean(0)
        assert left < x < right and top < y < bottom


@needs_dlib
def test_box_and_points_are_those_of_dlib_at_the_size_that_is_searched(faces):
    import dlib

    image = cv2.resize(faces[0].image, (480, 480), interpolation=cv2.INTER_CUBIC)
    (box,), (score,), _ = dlib.get_frontal_face_detector().run(image, 0, 0.0)
    for five, count in ((True, 5), (False, 68)):
        (face,) = dlib_faces.detect([image], 0.0, 480, five=five)[0]
        assert face.score == pytest.approx(score)
        np.testing.assert_allclose(face.box, [box.left() - 0.5, box.top() - 0.5, box.right() + 0.5, box.bottom() + 0.5])
        shape = dlib_faces._predictor(count)(image, box)
        np.testing.assert_array_equal(face.parts, [(part.x, part.y) for part in shape.parts()])


@needs_dlib
@pytest.mark.parametrize("side", [90, 640, 1500])
def test_small_and_large_images_give_the_same_face(faces, side):
    scale = side / 250
    image = cv2.resize(faces[4].image, (side, side), interpolation=cv2.INTER_AREA if side < 250 else cv2.INTER_CUBIC)
    (face,) = dlib_faces.detect([image], 0.0, 480)[0]
    (own,) = dlib_faces.detect([faces[4].image], 0.0, 480)[0]
    wanted = (own.landmarks + 0.5) * scale - 0.5
    assert np.linalg.norm(face.landmarks - wanted, axis=1).mean() < 0.05 * between_eyes(wanted)


@needs_dlib
def test_a_face_that_fills_its_image_is_found_with_a_border(faces):
    face = faces[5]
    (found,) = dlib_faces.detect([face.image], 0.0, 480)[0]
    left, top, right, bottom = np.round(found.box).astype(int)
    crop = np.ascontiguousarray(face.image[top:bottom, left:right])
    assert all(score < 0 for _, score in dlib_faces._search(crop, 480, 0.0))
    (again,) = dlib_faces.detect([crop], 0.0, 480)[0]
    assert again.score > 0
    assert np.linalg.norm(again.landmarks + (left, top) - found.landmarks, axis=1).max() < 0.03 * (right - left)


@needs_dlib
def test_threads_do_not_get_in_each_other_s_way(faces):
    pictures = [face.image for face in faces]
    alone = dlib_faces.detect(pictures, 0.0, 480)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: dlib_faces.detect(pictures, 0.0, 480), range(12)))
    for found in together:
        for (face,), (wanted,) in zip(found, alone, strict=True):
            np.testing.assert_array_equal(face.parts, wanted.parts)


def test_without_dlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r'dlib-bin and face-recognition-models==0.3.0 are .*"faceflow\[dlib\]"'):
        dlib_faces.require()
