"""The pictures of the report: what they mark lies where it should, for any image and frame."""

import numpy as np
import pytest

from faceflow.components.align.samples import SIDE, Samples, before_and_after, score_edges
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.ledger import Reason


def where(picture, colour, near=40):
    """Middle of what has about a colour."""
    rows, columns = np.nonzero((np.abs(picture.astype(int) - colour) < near).all(2))
    assert len(rows), "nothing of that colour"
    return np.array([columns.mean(), rows.mean()])


def square(x, y, side):
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], float)


@pytest.mark.parametrize(
    "size, frame",
    [
        ((300, 400), square(150, 100, 90)),
        ((300, 400), square(-20, -30, 150)),
        ((300, 400), square(250, 200, 200)),
        ((90, 60), square(-40, -40, 160)),
        ((2000, 3000), square(2500, 1500, 80)),
        ((50, 800), square(300, 5, 40)),
    ],
)
def test_the_landmark_is_drawn_on_what_it_marks(size, frame):
    image = np.zeros((*size, 3), np.uint8)
    place = np.clip(frame.mean(0), 4, np.array(size[::-1]) - 4).astype(int)
    image[place[1] - 3 : place[1] + 4, place[0] - 3 : place[0] + 4] = (0, 0, 255)
    aligned = np.full((112, 112, 3), 77, np.uint8)
    bare = before_and_after(image, np.empty((0, 2)), frame, aligned)
    drawn = before_and_after(image, place[None].astype(float), frame, aligned)
    assert bare.shape == drawn.shape == (SIDE, 2 * SIDE + 8, 3)
    assert np.abs(where(bare[:, :SIDE], (0, 0, 255), 100) - where(drawn[:, :SIDE], (70, 220, 110))).max() <= 1.5
    assert (drawn[:, SIDE + 8 :] == 77).all()
    yellow = where(drawn[:, :SIDE], (255, 205, 70))
    assert np.abs(yellow - where(drawn[:, :SIDE], (70, 220, 110))).max() < SIDE


def test_what_was_refused_is_marked_in_red(tmp_path):
    samples = Samples(TEMPLATES["arcface_112"])
    image = np.zeros((100, 200, 3), np.uint8)
    box = np.array([20.0, 20.0, 60.0, 80.0])
    samples.add_drop("s/a/boxes", Reason.SEVERAL_FACES, "2 faces found", image, boxes=[box, box + 90])
    samples.add_drop("s/a/points", Reason.BAD_LANDMARKS, "mirrored", image, points=np.arange(10.0).reshape(5, 2) * 15)
    samples.add_drop("s/a/nan", Reason.BAD_LANDMARKS, "not finite", image, points=np.full((5, 2), np.nan))
    samples.add_drop("s/a/none", Reason.UNDECODABLE, "damaged", None)
    samples.save(tmp_path / "samples.npz")
    merged = Samples(TEMPLATES["arcface_112"])
    merged.merge([tmp_path / "samples.npz"])
    red = {
        caption.split(":")[0]: ((picture.astype(int) - (225, 60, 50)) ** 2).sum(2).min() < 2000
        for pictures in merged.pictures.values()
        for _, caption, picture in pictures
    }
    assert red == {"s/a/boxes": True, "s/a/points": True, "s/a/nan": False, "s/a/none": False}


def test_each_detector_has_its_own_scale_of_scores(tmp_path):
    for landmarks, score in (("dlib", 2.05), ("mtcnn", 0.97), ("auto", 0.97)):
        samples = Samples(TEMPLATES["arcface_112"], score_edges(landmarks))
        samples.add_face("s/a/1", np.zeros((112, 112, 3), np.uint8), score, None, lambda: np.zeros((4, 4, 3), np.uint8))
        (place,) = np.flatnonzero(samples.scores)
        assert samples.score_edges[place] <= score < samples.score_edges[place + 1]
        assert 0 < place < len(samples.scores) - 1
