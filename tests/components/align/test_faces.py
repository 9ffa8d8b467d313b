import numpy as np
import pytest

from faceflow.components.align.faces import Face, choose, overlap


def face(left, top, side, score=0.99):
    return Face(np.array([left, top, left + side, top + side], float), score, np.zeros((5, 2)))


def test_the_side_of_a_box_is_the_geometric_mean():
    assert Face(np.array([10.0, 10.0, 30.0, 90.0]), 1.0, np.zeros((5, 2))).side == pytest.approx(40)
    assert Face(np.array([10.0, 10.0, 5.0, 90.0]), 1.0, np.zeros((5, 2))).side == 0


@pytest.mark.parametrize(
    "faces, chosen",
    [
        ([face(0, 0, 50)], 0),
        ([face(0, 0, 100), face(170, 170, 60)], 1),  # both large enough: the central one
        ([face(0, 0, 100), face(180, 180, 40)], 0),  # the central one is less than half as large
        ([face(0, 0, 100), face(175, 175, 50)], 1),  # exactly half counts
        ([face(300, 300, 100, 1.0), face(140, 140, 100, 0.91)], 1),  # not the score decides
        ([face(-60, 150, 100), face(120, 140, 90), face(390, 150, 100)], 1),
    ],
)
def test_the_most_central_of_the_large_faces_is_chosen(faces, chosen):
    assert choose(faces, 400, 400) is faces[chosen]
    assert choose(faces[::-1], 400, 400) is faces[chosen]


def test_the_largest_and_the_known_face_can_be_chosen():
    faces = [face(0, 0, 120), face(150, 150, 90), face(290, 10, 120), face(300, 300, 30)]
    assert choose(faces, 400, 400) is faces[1]
    assert choose(faces, 400, 400, "largest") is faces[0]  # of equals the more central: 60 and 350 from the corner
    assert choose(faces[::-1], 400, 400, "largest") is faces[0]
    for chosen in faces:
        assert choose(faces, 400, 400, "overlap", chosen.box + 12) is chosen
    assert choose(faces, 400, 400, "overlap") is faces[1]
    assert choose(faces, 400, 400, "overlap", np.array([0.0, 380.0, 20.0, 400.0])) is faces[1]  # touches none


@pytest.mark.parametrize("other, share", [((0, 0, 10, 10), 1), ((5, 0, 15, 10), 1 / 3), ((10, 0, 20, 10), 0)])
def test_overlap_is_intersection_over_union(other, share):
    assert overlap(np.array([0.0, 0, 10, 10]), np.array(other, float)) == pytest.approx(share)
