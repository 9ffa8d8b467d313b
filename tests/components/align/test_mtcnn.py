"""Detection with the real networks, on rendered faces and, where they are at hand, on photographs."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from faceflow.components.align import mtcnn, shard
from faceflow.components.align.faces import choose
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.images import decode
from faceflow.components.common.synthetic.render import render

DATA = Path(__file__).parents[4] / "shared/data"
TEMPLATE = TEMPLATES["arcface_112"].points


@pytest.fixture(scope="module")
def faces():
    """Rendered faces of people apart from those that the renderer's own tests look at."""
    return [render(9000 + who, shot, 250) for who in range(4) for shot in range(3)]


def detect(images, min_score=0.9, longest_side=1024):
    return mtcnn.detect(images, min_score, longest_side)


def error(found, wanted):
    """Mean distance between landmarks over the distance between the eyes."""
    return np.hypot(*(found - wanted).T).mean() / np.hypot(*(wanted[0] - wanted[1]))


def test_landmarks_are_near_the_true_ones_at_any_size(faces):
    for size in (60, 112, 250, 500):
        images, wanted = [], []
        for face in faces[: 2_000 // size]:
            scale = size / 250
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            images.append(cv2.resize(face.image, (size, size), interpolation=method))
            wanted.append((face.landmarks + 0.5) * scale - 0.5)
        found = detect(images)
        assert all(found), size
        errors = [error(choose(f, size, size).landmarks, w) for f, w in zip(found, wanted, strict=True)]
        assert np.mean(errors) < 0.10, (size, errors)


def test_an_image_larger_than_the_longest_side_is_searched_shrunk(faces):
    wide = np.full((700, 1900, 3), 128, np.uint8)
    wide[200:450, 1500:1750] = faces[0].image
    (found,) = detect([wide], longest_side=950)
    face = max(found, key=lambda each: each.score)
    assert error(face.landmarks, faces[0].landmarks + [1500, 200]) < 0.15


def test_a_face_that_fills_the_image_is_found_by_continuing_the_border(faces):
    alone, helped, errors = 0, 0, []
    for face in faces:
        left, top = np.maximum(face.landmarks.min(0) - 0.42 * np.ptp(face.landmarks, axis=0), 0).astype(int)
        right, bottom = (face.landmarks.max(0) + 0.42 * np.ptp(face.landmarks, axis=0)).astype(int)
        crop = cv2.resize(face.image[top:bottom, left:right], (160, 160))
        alone += any(each.score >= 0.9 for each in mtcnn._detect([crop], 1024, 0.1, 0.0)[0])
        (found,) = detect([crop])
        good = [each for each in found if each.score >= 0.9]
        helped += bool(good)
        if good:
            wanted = (face.landmarks - [left, top] + 0.5) * [160 / (right - left), 160 / (bottom - top)] - 0.5
            errors.append(error(choose(good, 160, 160).landmarks, wanted))
    assert helped > alone
    assert helped >= 0.8 * len(faces)
    assert np.mean(errors) < 0.12


def test_sizes_are_not_mixed_up_in_a_batch_with_empty_images(faces):
    blank = np.full((250, 250, 3), 128, np.uint8)
    images = [blank, faces[0].image, blank[:180], faces[1].image[:230], blank, faces[2].image]
    found = detect(images)
    assert [bool(each) for each in found] == [False, True, False, True, False, True]
    for index, face in ((1, 0), (3, 1), (5, 2)):
        assert error(choose(found[index], 250, 250).landmarks, faces[face].landmarks) < 0.15


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 2000), (20, 20), (24, 5000)])
def test_images_of_any_shape_are_searched_without_an_error(shape):
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert detect([noise]) == [[]]
    assert detect([]) == []


def test_the_stage_finds_chooses_and_drops(raw, align, encode, faces):
    blank = np.full((250, 250, 3), 120, np.uint8)
    two = np.hstack([faces[0].image, faces[1].image])
    beside = np.hstack([cv2.resize(faces[0].image, (100, 100)), np.full((100, 20, 3), 120, np.uint8)])
    crowd = np.vstack([faces[2].image, np.pad(beside, ((0, 0), (0, 130), (0, 0)), mode="edge")])
    pictures = {"one": faces[0].image, "none": blank, "two": two, "crowd": crowd}
    source = raw(*((f"people/Al/{name}", encode(pixels)) for name, pixels in pictures.items()))
    chosen = align(source, "choose")
    records = {record.key.split("/")[2]: record for record in chosen.records()}
    assert records.keys() == {"one", "two", "crowd"}
    assert chosen.manifest.drops == {"no_face": 1}
    assert all(0.9 <= record.score <= 1 for record in records.values())
    for record in records.values():
        assert error(record.landmarks.astype(float), TEMPLATE) < 0.12
        assert decode(record.image).shape == (112, 112, 3)
    dropped = align(source, "drop", several_faces="drop")
    assert {row["key"].split("/")[2]: row["reason"] for row in dropped.ledger().to_pylist()} == {
        "one": "", "none": "no_face", "two": "several_faces", "crowd": "several_faces",
    }  # fmt: skip
    with pytest.raises(DatasetError, match="3 low_score, 1 no_face"):
        align(source, "strict", min_score=0.9999999)


def test_given_landmarks_are_taken_where_there_are_any(raw, align, encode, faces):
    picture = encode(faces[0].image)
    moved = faces[0].landmarks + 5
    source = raw(("people/Al/given", picture, moved), ("people/Al/found", picture))
    records = {record.key.split("/")[2]: record for record in align(source).records()}
    assert (records["given"].score, records["found"].score is None) == (None, False)
    again = {record.key.split("/")[2]: record for record in align(source, "mtcnn", landmarks="mtcnn").records()}
    assert again["given"].image == again["found"].image == records["found"].image != records["given"].image


@pytest.mark.parametrize("name, images, ending", [("johns", 55, "jpg"), ("orl", 100, "png")])
def test_every_real_face_crop_is_found_and_lands_on_the_template(raw, align, name, images, ending):
    files = sorted((DATA / name).glob(f"*/*.{ending}"))[:images]
    if not files:
        pytest.skip(f"needs ../shared/data/{name}")
    source = raw(*((f"{name}/{file.parent.name}/{file.name}", file.read_bytes()) for file in files))
    records = list(align(source).records())
    assert len(records) == images
    # Eyes above nose above mouth, left of each other as on the template: upright, and not mirrored.
    assert np.mean([error(record.landmarks.astype(float), TEMPLATE) for record in records]) < 0.15
    assert max(error(record.landmarks.astype(float), TEMPLATE) for record in records) < 0.4


def test_a_face_is_found_in_every_real_photograph(raw, align):
    files = sorted((DATA / "celebrity-photos").glob("*.jpg"))[::4]  # nearly each has a size of its own, which is slow
    if not files:
        pytest.skip("needs ../shared/data/celebrity-photos")
    dataset = align(raw(*((f"celebrity/{file.stem}/{file.name}", file.read_bytes()) for file in files)))
    assert dataset.manifest.images == len(files)


def test_windows_threads_and_workers_do_not_change_a_byte(raw, align, encode, faces, tmp_path, monkeypatch):
    pictures = [face.image[: 250 - 10 * (place % 4)] for place, face in enumerate(faces)] + [faces[0].image[90:]]
    source = raw(*((f"people/{'AB'[i % 2]}/{i}", encode(each)) for i, each in enumerate(pictures)), shards=2)
    align(source, "first", threads=1)
    align(source, "threads", threads=3)
    align(source, "workers", workers=2, threads=1)
    monkeypatch.setattr(shard, "_WINDOW_RECORDS", 2)
    align(source, "windows", threads=2)
    for name in sorted(path.name for path in (tmp_path / "first").iterdir()):
        for other in ("threads", "workers", "windows"):
            assert (tmp_path / "first" / name).read_bytes() == (tmp_path / other / name).read_bytes(), (other, name)
    assert (tmp_path / "first.html").read_text() == (tmp_path / "windows.html").read_text()


def test_small_faces_are_searched_for_only_if_wanted(faces):
    wide = np.full((500, 700, 3), 110, np.uint8)
    wide[100:350, 30:280] = faces[0].image
    wide[200:260, 500:560] = cv2.resize(faces[1].image, (60, 60), interpolation=cv2.INTER_AREA)
    assert len([face for face in mtcnn.detect([wide], 0.9, 1024, 0.0)[0] if face.score >= 0.9]) == 2
    (found,) = mtcnn.detect([wide], 0.9, 1024, 0.15)
    assert len(found) == 1
    assert error(found[0].landmarks, faces[0].landmarks + [30, 100]) < 0.15
