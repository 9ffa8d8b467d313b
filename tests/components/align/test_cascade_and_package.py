"""The cascade against the mtcnn package, part by part and as a whole. The only tests of align that load TensorFlow."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # read when TensorFlow is imported

import numpy as np
import pytest
import tensorflow as tf
from mtcnn import MTCNN
from mtcnn.utils import bboxes, images, landmarks

from faceflow.components.align.cascade.candidates import cells, corrected, crops, landmarks_of, squared
from faceflow.components.align.cascade.detector import Cascade
from faceflow.components.align.cascade.networks import PatchNetwork, ProposalNetwork
from faceflow.components.align.cascade.pyramid import Pyramid, levels
from faceflow.components.align.cascade.suppression import suppress
from faceflow.components.common.synthetic.render import render


@pytest.fixture(scope="module")
def package():
    return MTCNN()


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def normal(image):
    return (np.float64(image) - 127.5) / 128


def probability(logits):
    return 1 / (1 + np.exp(-np.float64(logits)))


def boxes(count, seed=0, reach=300):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(-20, reach, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(10, 120, (count, 2))], 1)


def rows(box, scores, owners):
    """Boxes as the package has them: image, box, score."""
    return np.column_stack([owners, box, scores])


@pytest.mark.parametrize("height, width", [(12, 12), (14, 12), (40, 58), (62, 30)])
def test_the_first_network_gives_the_packages_outputs(package, height, width):
    level = pixels(height, width, 3).astype(np.float32)
    offsets, classes = (each.numpy() for each in package.stages[0].model(normal(level)[np.newaxis].astype(np.float32)))
    found = ProposalNetwork()(level)
    np.testing.assert_allclose(found[:4], offsets.reshape(-1, 4).T, atol=1e-4)
    np.testing.assert_allclose(probability(found[4]), classes[..., 1].ravel(), atol=1e-5)


@pytest.mark.parametrize("place, name, count", [(1, "rnet", 37), (2, "onet", 5)])
def test_the_other_networks_give_the_packages_outputs(package, place, name, count):
    network = PatchNetwork(name)
    patches = pixels(count, network.side, network.side, 3).astype(np.float32)
    found = network(patches)
    *regressions, classes = (each.numpy() for each in package.stages[place].model(normal(patches).astype(np.float32)))
    np.testing.assert_allclose(found[:, :-1], np.concatenate(regressions, 1), atol=1e-4)
    np.testing.assert_allclose(probability(found[:, -1]), classes[:, 1], atol=1e-5)
    np.testing.assert_array_equal(network(patches[3:4])[0], found[3])


def in_raster_order(offsets, scale):
    """The package's boxes for every cell of a level; it sorts them by score, so it is told that scores fall."""
    rows, columns = offsets.shape[1:3]
    falling = np.linspace(1, 0, rows * columns, dtype=np.float32).reshape(1, rows, columns, 1)
    found = bboxes.generate_bounding_box(offsets, tf.constant(np.repeat(falling, 2, axis=3)), -1.0)
    return bboxes.upscale_bboxes(found, np.array([scale]))[:, 1:5]


@pytest.mark.parametrize("height, width", [(112, 112), (250, 250), (400, 301), (97, 640), (17, 40), (14, 200)])
def test_the_pyramid_and_its_cells_are_the_packages(package, height, width):
    image = pixels(height, width, 3)
    scales = images.build_scale_pyramid(width, height, min_face_size=20, scale_factor=0.709)
    found = levels(height, width, 0.0)
    np.testing.assert_allclose([level.scale for level in found], scales, rtol=1e-12)
    if not found:
        return
    pyramid = Pyramid(height, width, found)
    canvas = np.zeros((*pyramid.canvas, 3), np.float32)
    pyramid.draw(image.astype(np.float32), canvas)
    grid, outputs = cells(pyramid), ProposalNetwork()(canvas)
    for number, (level, (top, left)) in enumerate(zip(found, pyramid.corners, strict=True)):
        theirs = images.scale_images(normal(image)[np.newaxis], level.scale)
        shown = canvas[top : top + level.height, left : left + level.width]
        np.testing.assert_allclose(normal(shown), theirs[0].numpy(), atol=5e-5)
        offsets, classes = package.stages[0].model(theirs)
        rows, columns = classes.shape[1:3]
        (own,) = np.nonzero(grid.level == number)
        assert len(own) == rows * columns
        # The outermost cells of an odd side see pixels where the package's see none.
        same = np.ones((rows, columns), bool)
        same[rows - level.height % 2 :] = same[:, columns - level.width % 2 :] = False
        same = same.ravel()
        scores = probability(outputs[4, grid.place[own]])
        np.testing.assert_allclose(scores[same], classes[0, ..., 1].numpy().ravel()[same], atol=1e-4)
        boxes = grid.boxes(own, outputs[:4, grid.place[own]])
        np.testing.assert_allclose(boxes[same], in_raster_order(offsets, level.scale)[same], atol=0.05)


def test_suppression_is_the_packages():
    box, owners = np.concatenate([boxes(150, reach=150), boxes(90, 1), boxes(1, 2)]), np.repeat([0, 2, 7], [150, 90, 1])
    scores = np.random.default_rng(3).permutation(241) / 241
    for method, most in (("union", 0.5), ("union", 0.7), ("min", 0.7)):
        wanted = bboxes.smart_nms_from_bboxes(rows(box, scores, owners), threshold=most, method=method)
        kept = suppress(box, scores, owners, most, of_smaller=method == "min")
        np.testing.assert_array_equal(rows(box, scores, owners)[kept], wanted)
        assert 3 < len(kept) < 241


def test_boxes_and_landmarks_are_moved_as_the_package_moves_them():
    box, rng = boxes(40), np.random.default_rng(1)
    some = rows(box, rng.uniform(size=40), np.zeros(40))
    moves, points = rng.normal(0, 0.2, (40, 4)).astype(np.float32), rng.uniform(size=(40, 10)).astype(np.float32)
    np.testing.assert_allclose(squared(box), bboxes.resize_to_square(some)[:, 1:5], rtol=1e-12)
    np.testing.assert_allclose(corrected(box, moves), bboxes.adjust_bboxes(some, moves)[:, 1:5], rtol=1e-6)

    class Tensor:  # the package asks for numpy() of what its network returned
        numpy = staticmethod(lambda: points)

    wanted = landmarks.adjust_landmarks(Tensor, some).reshape(40, 2, 5).transpose(0, 2, 1)
    np.testing.assert_allclose(landmarks_of(box, points), wanted, atol=1e-3)


@pytest.mark.parametrize("side", [24, 48])
def test_crops_are_the_packages(side):
    pictures = [pixels(120, 260, 3, seed=1), pixels(120, 260, 3, seed=2)]
    box = squared(boxes(60, reach=240))  # many reach beyond the image
    owners = np.repeat([0, 1], 30)
    found = crops([picture.astype(np.float32) for picture in pictures], owners, box, side)
    wanted = images.extract_patches(normal(np.stack(pictures)), rows(box, np.ones(60), owners), (side, side)).numpy()
    # A sample on the very edge of the image may fall in or out by rounding.
    assert (np.abs(normal(found) - wanted).max((1, 2, 3)) < 1e-3).mean() > 0.95
    assert np.median(np.abs(normal(found) - wanted)) < 1e-5


def test_the_whole_cascade_finds_what_the_package_finds(package):
    faces = [render(9000 + who, shot, size) for who, shot, size in ((0, 0, 250), (1, 1, 250), (2, 0, 180), (3, 2, 400))]
    pictures = [face.image for face in faces]
    pictures.append(np.hstack([faces[0].image, faces[1].image]))
    pictures.append(np.full((200, 200, 3), 128, np.uint8))
    ours = Cascade().find(pictures, 0.0)
    assert ours.owners.tolist() == [0, 1, 2, 3, 4, 4]
    for owner, picture in enumerate(pictures):
        theirs = package.detect_faces(picture, fit_to_image=False, box_format="xyxy", output_type="numpy")
        theirs = np.reshape(theirs, (-1, 16))
        mine = np.flatnonzero(ours.owners == owner)
        assert len(mine) == len(theirs)
        across = np.argsort(ours.boxes[mine, 0])
        theirs = theirs[np.argsort(theirs[:, 1])]
        np.testing.assert_allclose(ours.boxes[mine][across], theirs[:, 1:5], atol=0.1)
        np.testing.assert_allclose(ours.scores[mine][across], theirs[:, 5], atol=1e-4)
        points = theirs[:, 6:].reshape(-1, 2, 5).transpose(0, 2, 1)
        np.testing.assert_allclose(ours.landmarks[mine][across], points, atol=0.1)
