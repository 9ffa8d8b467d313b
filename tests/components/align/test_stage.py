"""The stage with given landmarks: coloured dots show where the landmarks of an image end up."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage.transform import SimilarityTransform

from faceflow.components.align.component import align as component
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, DiskSpaceError, SettingsError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.images import decode

ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])


def landmarks_at(scale=2.0, degrees=25.0, shift=(60.0, 90.0), noise=0.0):
    """The template's points seen through a known similarity, in image pixels."""
    points = SimilarityTransform(scale=scale, rotation=np.deg2rad(degrees), translation=shift)(ARCFACE)
    return points + np.random.default_rng(0).normal(0, noise, points.shape) if noise else points


def dotted(points, width=420, height=400):
    """A grey picture with a soft white dot at each point."""
    y, x = np.mgrid[:height, :width]
    dots = sum(np.exp(-((x - px) ** 2 + (y - py) ** 2) / (2 * 4.0**2)) for px, py in points)
    return np.repeat(np.uint8(60 + 190 * np.clip(dots, 0, 1))[..., None], 3, axis=2)


def dot_near(image, x, y, reach=9):
    """Centre of the brightness around a point."""
    grey = image.astype(float).mean(2) - 70
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    weight = np.where(np.hypot(columns - x, rows - y) < reach, np.clip(grey, 0, None), 0)
    return np.array([(weight * columns).sum(), (weight * rows).sum()]) / weight.sum()


def fates(dataset):
    return {row["key"]: (row["reason"], row["detail"]) for row in dataset.ledger().to_pylist()}


@pytest.mark.parametrize("template", ["arcface_112", "arcface_96x112"])
@pytest.mark.parametrize("degrees", [-70, 0, 25, 160])
def test_the_landmarks_come_to_lie_on_the_template(raw, align, encode, template, degrees):
    points = landmarks_at(degrees=degrees, scale=1.3, shift=(210, 190)) - [60, 60]
    (record,) = align(raw(("people/Al/1.png", encode(dotted(points)), points)), template=template).records()
    wanted = ARCFACE - [8 if template == "arcface_96x112" else 0, 0]
    assert (record.width, record.height) == (TEMPLATES[template].width, 112)
    np.testing.assert_allclose(record.landmarks, wanted, atol=0.01)
    image = decode(record.image)
    assert image.shape == (112, TEMPLATES[template].width, 3)
    for x, y in wanted:
        assert np.hypot(*(dot_near(image, x, y) - [x, y])) < 0.5


def test_landmarks_that_fit_no_similarity_are_mapped_as_scikit_image_maps_them(raw, align, encode):
    points = landmarks_at(noise=4.0)
    (record,) = align(raw(("people/Al/1.png", encode(dotted(points)), points))).records()
    fitted = SimilarityTransform.from_estimate(points, ARCFACE)
    np.testing.assert_allclose(record.landmarks, fitted(points), atol=0.01)


def rotated_by_exif(pixels, encode):
    """The same upright picture, stored lying down."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(Image.fromarray(pixels).transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=exif)


def test_every_pixel_layout_gives_the_same_aligned_face(raw, align, encode):
    points = landmarks_at()
    pixels = dotted(points)
    grey = pixels[..., 0]
    images = {
        "plain": encode(pixels),
        "grey": encode(grey),
        "16 bit": encode(grey.astype(np.uint16) * 256),
        "cmyk": encode(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95),
        "exif": rotated_by_exif(pixels, encode),
        "alpha": encode(Image.fromarray(pixels).convert("RGBA")),
        "palette": encode(Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)),
    }
    faces = [(f"people/Al/{name}", data, points) for name, data in images.items()]
    records = {record.key.split("/")[2]: record for record in align(raw(*faces)).records()}
    assert records.keys() == images.keys()
    plain = decode(records["plain"].image).astype(int)
    for name, record in records.items():
        assert np.abs(decode(record.image) - plain).mean() < 4, name
        np.testing.assert_allclose(record.landmarks, ARCFACE, atol=0.01)


def test_what_cannot_be_aligned_is_dropped_for_a_reason(raw, align, encode):
    points = landmarks_at()
    good = encode(dotted(points))
    faces = [
        ("people/Al/good", good, points),
        ("people/Al/truncated", encode(dotted(points), "JPEG")[:-300], points),
        ("people/Al/text", b"no image at all", points),
        ("people/Al/one pixel", encode(np.zeros((1, 1, 3), np.uint8)), points),
        ("people/Al/large", encode(np.zeros((501, 500, 3), np.uint8)), points),
        ("people/Al/tiny face", good, landmarks_at(scale=0.1, shift=(100, 100))),
        ("people/Al/one point", good, np.full((5, 2), 50.0)),
        ("people/Al/outside", good, points + 1000),
        ("people/Al/nan", good, np.full((5, 2), np.nan)),
        ("people/Al/none", good),
    ]
    dataset = align(raw(*faces), landmarks="given", max_pixels=250_000)
    found = {key.split("/")[2]: reason for key, (reason, _) in fates(dataset).items()}
    assert found == {
        "good": "",
        "truncated": "undecodable",
        "text": "not_an_image",
        "one pixel": "too_small",
        "large": "too_large",
        "tiny face": "too_small",
        "one point": "bad_landmarks",
        "outside": "bad_landmarks",
        "nan": "bad_landmarks",
        "none": "no_face",
    }
    assert dataset.manifest.drops == Counter(reason for reason in found.values() if reason)
    assert (dataset.manifest.images_in, dataset.manifest.images) == (10, 1)
    assert "gives no landmarks" in fates(dataset)["people/Al/none"][1]
    assert "spans 11 pixels, fewer than 20" in fates(dataset)["people/Al/tiny face"][1]


def test_fields_that_align_knows_nothing_of_are_kept(raw, align, encode):
    from faceflow.components.common.record import Record

    points = landmarks_at().astype(np.float32)
    face = Record("people/Zoë/a b.png", "folk/Zoë", encode(dotted(points)), 400, 420, points, gender="female", age=30.5)
    (record,) = align(raw(face)).records()
    assert (record.key, record.identity, record.gender, record.age) == (
        "people/Zoë/a b.png",
        "folk/Zoë",
        "female",
        30.5,
    )
    assert (record.score, record.label, record.variant) == (None, None, "")


def test_images_on_the_template_already_are_passed_on_to_the_byte(raw, align, encode):
    faces = [(f"people/Al/{i}", encode(np.full((112, 112, 3), i, np.uint8), "JPEG")) for i in range(3)]
    source = raw(*faces, template="arcface_112", attachment="key_a,key_b,same,fold\n")
    dataset = align(source)
    assert list(dataset.payloads()) == list(Dataset(source).payloads())
    assert dataset.manifest.template == "arcface_112"
    assert dataset.attachment("pairs.csv").read_text() == "key_a,key_b,same,fold\n"


def test_another_template_than_the_images_are_on_is_refused(raw, align, encode):
    source = raw(("people/Al/1", encode(np.zeros((112, 112, 3), np.uint8))), template="arcface_112")
    with pytest.raises(DatasetError, match="aligned to arcface_112 already, but the template is arcface_96x112"):
        align(source, template="arcface_96x112")


def test_an_image_that_is_not_on_the_template_it_is_said_to_be_on_is_refused(raw, align, encode, tmp_path):
    source = raw(("people/Al/1", encode(np.zeros((120, 112, 3), np.uint8))), template="arcface_112")
    with pytest.raises(DatasetError, match=r"people/Al/1 has 112x120 pixels, but .* arcface_112 \(112x112\)"):
        align(source)
    assert not (tmp_path / "aligned").exists() and not list(tmp_path.glob(".aligned*"))


def test_an_empty_dataset_passes_through(raw, align, tmp_path):
    dataset = align(raw())
    assert (dataset.manifest.images_in, list(dataset.records()), dataset.manifest.template) == (0, [], "arcface_112")
    assert "evaluate scores the identities that augment held out" in (tmp_path / "aligned.html").read_text()


def test_no_face_at_all_is_an_error_and_the_report_still_shows_why(raw, align, encode, tmp_path):
    source = raw(*((f"people/Al/{i}", encode(np.zeros((50, 50, 3), np.uint8))) for i in range(3)))
    with pytest.raises(DatasetError, match="none of the 3 images of 'people' could be aligned: 3 no_face"):
        align(source, landmarks="given")
    assert "gives no landmarks" in (tmp_path / "aligned.html").read_text()
    assert not (tmp_path / "aligned").exists() and not list(tmp_path.glob(".aligned*"))


def test_workers_do_not_change_a_byte(raw, align, encode, tmp_path):
    points = landmarks_at()
    faces = [(f"people/{'AB'[i % 2]}/{i}", encode(dotted(points + i)), points + i) for i in range(7)]
    faces.append(("people/A/bad", b"text", points))
    source = raw(*faces, shards=3)
    align(source, "one")
    align(source, "two", workers=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["faces-00000-of-00003.tfrecord", "faces-00001-of-00003.tfrecord", "faces-00002-of-00003.tfrecord",
                     "ledger.parquet", "manifest.json"]  # fmt: skip
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    assert (tmp_path / "one.html").read_text() == (tmp_path / "two.html").read_text()


def test_the_report_shows_faces_reasons_with_examples_and_the_mean_face(raw, align, encode, tmp_path):
    points = landmarks_at()
    faces = [(f"people/Al/{i}", encode(dotted(points)), points) for i in range(30)]
    faces += [(f"people/Bo/none {i}", encode(dotted(points))) for i in range(9)]
    align(raw(*faces, shards=2), landmarks="given")
    page = (tmp_path / "aligned.html").read_text()
    for words in (
        "30 of 39 images (76.9%)",
        "Before and after",
        "The mean face",
        "mean of 30 faces",
        "Dropped: no_face",
    ):
        assert words in page, words
    assert page.count("<img") == 24 + 2 + 6 + 1  # faces, mean faces, dropped, one histogram: no detector, no scores
    assert "http" not in page.replace("http://www.w3.org", "")


def test_the_mean_face_of_equal_faces_is_the_face(raw, align, encode):
    from faceflow.components.align.samples import Samples

    template = TEMPLATES["arcface_112"]
    rng = np.random.default_rng(0)
    face = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
    samples = Samples(template)
    for i in range(5):
        samples.add_face(str(i), face, 0.95, 100.0, lambda: cv2.resize(face, (224, 224)))
    np.testing.assert_array_equal(samples.mean_face, face)
    assert (samples.scores.sum(), samples.sizes.sum()) == (5, 5)


def test_samples_do_not_hang_on_how_the_faces_are_split(tmp_path):
    from faceflow.components.align.samples import Samples

    template = TEMPLATES["arcface_112"]
    keys = [f"people/Al/{i}" for i in range(100)]

    def gather(groups):
        parts = []
        for index, group in enumerate(groups):
            samples = Samples(template)
            for key in group:
                shade = np.full((224, 224, 3), int(key.rpartition("/")[2]), np.uint8)
                samples.add_face(key, shade[:112, :112], None, None, lambda shade=shade: shade)
            samples.save(tmp_path / f"{len(groups)}-{index}.npz")
            parts.append(tmp_path / f"{len(groups)}-{index}.npz")
        merged = Samples(template)
        merged.merge(parts)
        return [(rank, caption, picture[0, 0, 0]) for rank, caption, picture in merged.pictures["kept"]], merged.faces

    assert gather([keys]) == gather([keys[::2], keys[1::2]]) == gather([keys[:3], keys[3:50], keys[50:]])
    assert len(gather([keys])[0]) == 24


def test_a_full_disk_is_noticed_before_the_work(raw, align, encode, monkeypatch, tmp_path):
    source = raw(("people/Al/1", encode(dotted(landmarks_at())), landmarks_at()))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DiskSpaceError, match="writing the aligned faces needs about"):
        align(source)
    assert not (tmp_path / "aligned").exists()


def test_a_damaged_shard_is_an_error(raw, align, encode, tmp_path):
    source = raw(("people/Al/1", encode(dotted(landmarks_at())), landmarks_at()))
    shard = Dataset(source).shards[0]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match="damaged TFRecord"):
        align(source)
    assert not (tmp_path / "aligned").exists()


def test_ctrl_c_leaves_no_output(raw, encode, tmp_path):
    points = landmarks_at()
    picture = encode(dotted(points))
    source = raw(*((f"people/Al/{i}", picture, points) for i in range(4000)), shards=2)
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "faceflow.components.align", "--raw-faces", str(source)]
    command += ["--faces", str(tmp_path / "work" / "faces"), "--report", str(tmp_path / "work" / "report.html")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("work/.faces.partial/part-*")):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=120)[1]
    assert process.returncode == 130, told
    assert "interrupted" in told and "Traceback" not in told
    assert list((tmp_path / "work").iterdir()) == []


def test_the_component_runs_the_stage(raw, encode, tmp_path):
    points = landmarks_at()
    source = SimpleNamespace(path=str(raw(("people/Al/1", encode(dotted(points)), points))))
    faces, report = (SimpleNamespace(path=str(tmp_path / name)) for name in ("faces", "report"))
    component.python_func(
        raw_faces=source,
        faces=faces,
        report=report,
        template="arcface_96x112",
        several_faces="drop",
        options={"jpeg_quality": 80.0},
    )
    manifest = Dataset(faces.path).manifest
    assert (manifest.template, manifest.settings["jpeg_quality"]) == ("arcface_96x112", 80)
    assert manifest.settings["several_faces"] == "drop"
    assert json.loads((tmp_path / "faces" / "manifest.json").read_text())["stage"] == "align"
    assert "<html" in (tmp_path / "report").read_text()
    with pytest.raises(SettingsError, match="landmarks"):
        component.python_func(raw_faces=source, faces=faces, report=report, landmarks="guess")
