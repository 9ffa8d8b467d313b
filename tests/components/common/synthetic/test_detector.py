"""MTCNN takes the faces for faces; ``benchmarks/synthetic.py`` measures the full bar."""

import numpy as np
import pytest

from faceflow.components.common.synthetic.render import render

KEYPOINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


@pytest.fixture(scope="module")
def detections():
    mtcnn = pytest.importorskip("mtcnn")
    faces = [render(900_000 + seed // 2, seed % 2, 250) for seed in range(40)]
    return faces, mtcnn.MTCNN().detect_faces([face.image for face in faces])


def test_mtcnn_finds_one_face_where_it_is(detections):
    faces, found = detections
    single, errors = 0, []
    for face, boxes in zip(faces, found, strict=True):
        sure = [box for box in boxes if box["confidence"] >= 0.9]
        if len(sure) == 1:
            single += 1
            points = np.array([sure[0]["keypoints"][name] for name in KEYPOINTS])
            between_eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
            errors.append(np.linalg.norm(points - face.landmarks, axis=1).mean() / between_eyes)
    assert single >= 36  # 97 % expected: fewer than 36 of 40 in one run of two hundred
    assert np.mean(errors) < 0.10
