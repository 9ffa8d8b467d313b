"""The whole stage, over sources good and bad."""

import csv
import io
import json
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import ArchiveError, DiskSpaceError, SettingsError, SourceError
from faceflow.components.download import stage
from faceflow.components.download.component import download


def run(source, out, scratch=None, **settings):
    stage.run(stage.Settings(**settings), stage.Inputs(source), stage.Outputs(out, scratch))
    return Dataset(out)


def fates(dataset):
    return {row["key"]: row["reason"] for row in dataset.ledger().to_pylist()}


def claims(width, height):
    """A PNG of a few bytes whose header claims a size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def saved(array, kind="PNG", **options):
    buffer = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["folder", "set.tar", "set.tar.gz", "set.zip"])
def test_a_folder_of_ones_own_with_all_that_people_leave_in_it(write, tmp_path, picture, container):
    grey = np.arange(600, dtype=np.uint16).reshape(20, 30) * 100
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = saved(Image.new("RGB", (30, 20)), "JPEG", exif=exif)
    good = {
        "Zoë Smith/a b.jpg": picture(1),
        "Zoë Smith/grey.png": saved(grey.astype(np.uint8)),
        "Zoë Smith/16 bit.png": saved(grey),
        "Al/cmyk.jpg": saved(Image.new("CMYK", (30, 20)), "JPEG"),
        "Al/rotated.jpg": rotated,
        "Al/one pixel.png": saved(np.zeros((1, 1, 3), np.uint8)),
        "Al/truncated.jpg": picture(2)[:-200],
        "Al/no ending": picture(3),
    }
    bad = {
        "Al/text.jpg": (b"I am a text file", "not_an_image"),
        "Al/empty.jpg": (b"", "not_an_image"),
        "Al/huge.png": (claims(30_000, 30_000), "too_large"),
        "Al/Thumbs.db": (b"x", "not_an_image"),
        "Al/.hidden.jpg": (picture(4), "not_an_image"),
        "notes.txt": (b"x", "not_an_image"),
        "stray.jpg": (picture(5), "no_identity"),
    }
    source = write(container, good | {name: data for name, (data, _) in bad.items()})
    dataset = run({"kind": "folder", "path": str(source), "name": "mine"}, tmp_path / "out")
    assert fates(dataset) == {f"mine/{n}": "" for n in good} | {f"mine/{n}": reason for n, (_, reason) in bad.items()}
    records = {record.key.removeprefix("mine/"): record for record in dataset.records()}
    assert {name: record.image for name, record in records.items()} == good  # byte for byte, never re-encoded
    assert {record.identity for record in records.values()} == {"mine/Zoë Smith", "mine/Al"}
    assert (records["Al/rotated.jpg"].width, records["Al/rotated.jpg"].height) == (20, 30)
    assert (records["Zoë Smith/16 bit.png"].width, records["Zoë Smith/16 bit.png"].height) == (30, 20)
    manifest = dataset.manifest
    assert (manifest.images_in, manifest.images, manifest.identities) == (len(good) + len(bad), len(good), 2)
    assert manifest.drops == Counter(reason for _, reason in bad.values())
    assert manifest.template is None


def test_equal_images_give_equal_bytes_wherever_they_lie(write, tmp_path, picture):
    files = {f"{who}/{i}.jpg": picture(i) for i in range(4) for who in ("Al", "Bo")}
    files = dict(sorted(files.items()))
    outs = []
    for place in ("one/set", "two/set"):
        run({"kind": "folder", "path": str(write(place, files))}, tmp_path / place.replace("/", "-"))
        outs.append(tmp_path / place.replace("/", "-"))
    for name in sorted(path.name for path in outs[0].iterdir()):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes(), name
    assert str(tmp_path) not in (outs[0] / "manifest.json").read_text()


def test_shards_are_closed_at_the_size_asked_for(write, tmp_path, picture):
    files = {f"{'Al' if i < 2 else 'Bo'}/{i}.png": picture(i, size=(400, 300), kind="PNG") for i in range(5)}
    dataset = run({"kind": "folder", "path": str(write("set", files))}, tmp_path / "out", shard_mb=1)
    sizes = [shard.bytes for shard in dataset.manifest.shards]
    assert len(sizes) == 2 and sizes[0] >= 1_000_000 > sizes[1]
    assert [record.key for record in dataset.records()] == [f"folder/{name}" for name in sorted(files)]


def test_a_second_file_of_one_name_is_a_duplicate(tmp_path, picture):
    import tarfile

    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, seed in (("Al/1.jpg", 1), ("Bo/1.jpg", 2), ("Al/1.jpg", 3)):
            info = tarfile.TarInfo(name)
            info.size = len(picture(seed))
            archive.addfile(info, io.BytesIO(picture(seed)))
    dataset = run({"kind": "folder", "path": str(tmp_path / "set.tar")}, tmp_path / "out")
    assert [record.image for record in dataset.records()] == [picture(1), picture(2)]
    assert dataset.manifest.drops == {"duplicate": 1}


def test_a_file_too_large_to_be_an_image_is_not_read(write, tmp_path, picture):
    files = {"Al/1.jpg": picture(), "Bo/1.jpg": picture(), "Bo/film.mp4": b"x" * 1_100_000}
    dataset = run({"kind": "folder", "path": str(write("set", files))}, tmp_path / "out", max_image_mb=1)
    assert fates(dataset)["folder/Bo/film.mp4"] == "too_large"


def test_namespaces_join_people_and_names_keep_images_apart(write, tmp_path, picture):
    path = write("set", {"Al/1.jpg": picture(), "Bo/1.jpg": picture()})
    source = {"kind": "folder", "path": str(path), "name": "second", "namespace": "people"}
    records = list(run(source, tmp_path / "out").records())
    assert [(record.key, record.identity) for record in records] == [
        ("second/Al/1.jpg", "people/Al"), ("second/Bo/1.jpg", "people/Bo"),
    ]  # fmt: skip


def test_attributes_are_joined_and_what_is_left_over_is_told(write, tmp_path, picture, caplog):
    path = write("set", {"Al/1.jpg": picture(), "Zoë/1.jpg": picture()})
    (tmp_path / "a.csv").write_text("path,gender,age\nZoë/1.jpg,f,41.5\nnobody/1.jpg,m,1\n", encoding="utf-8")
    source = {"kind": "folder", "path": str(path), "attributes": str(tmp_path / "a.csv")}
    with caplog.at_level("WARNING"):
        records = list(run(source, tmp_path / "out").records())
    assert [(record.gender, record.age) for record in records] == [(None, None), ("female", 41.5)]
    assert "1 attribute rows without an image" in caplog.text


def test_the_pairs_of_a_verification_set_are_attached(tmp_path, picture):
    images = [picture(i, size=(112, 112)) for i in range(6)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps((images, [True, False, True])))
    dataset = run({"kind": "insightface", "path": str(tmp_path / "x.bin"), "name": "x"}, tmp_path / "out")
    assert dataset.manifest.template == "arcface_112"
    assert [record.image for record in dataset.records()] == images
    with open(dataset.attachment("pairs.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    keys = {record.key for record in dataset.records()}
    assert all({row["key_a"], row["key_b"]} <= keys for row in rows)
    assert [(row["same"], row["fold"]) for row in rows] == [("1", "0"), ("0", "1"), ("1", "2")]


def test_an_unusable_image_of_a_pair_is_an_error(tmp_path, picture):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([picture(size=(112, 112)), b"no image"], [True])))
    with pytest.raises(SourceError, match="its image pair-000000/00000001.jpg cannot be used"):
        run({"kind": "insightface", "path": str(tmp_path / "x.bin")}, tmp_path / "out")


def test_images_said_to_be_aligned_must_have_the_size_of_the_template(write, tmp_path, picture):
    path = write("set", {"Al/1.jpg": picture(size=(112, 112)), "Bo/1.jpg": picture(size=(100, 112))})
    source = {"kind": "folder", "path": str(path), "aligned": "arcface_112"}
    with pytest.raises(SourceError, match=r"Bo/1\.jpg has 100x112 pixels, but 'aligned' says arcface_112"):
        run(source, tmp_path / "out")
    assert run(source | {"aligned": ""}, tmp_path / "out").manifest.template is None


def test_a_held_out_source_gives_an_empty_dataset(tmp_path):
    dataset = run({"kind": "held_out"}, tmp_path / "out")
    assert (dataset.manifest.images_in, list(dataset.records()), len(dataset.ledger())) == (0, [], 0)


@pytest.mark.parametrize(
    "layout", ["trillion_pairs", "lfw", "megaface", "facescrub", "insightface_rec", "insightface_bin", "folder"]
)
def test_a_synthetic_source_passes_through_the_reader_of_its_layout(tmp_path, layout):
    source = {"kind": "synthetic", "layout": layout, "identities": 4, "images_per_identity": 2, "size_px": 64}
    dataset = run(source, tmp_path / "out", tmp_path / "scratch", seed=3)
    records = list(dataset.records())
    images = {"megaface": 40, "insightface_bin": dataset.manifest.images}.get(layout, 8)
    assert len(records) == images and dataset.manifest.drops == {}
    assert all(record.key.startswith("synthetic/") and record.identity.startswith("synthetic/") for record in records)
    assert all(record.gender and record.age for record in records)
    assert all((record.landmarks is not None) == (layout == "trillion_pairs") for record in records)
    assert (dataset.attachment("pairs.csv") is not None) == (layout in ("lfw", "insightface_bin"))
    assert dataset.manifest.template == ("arcface_112" if layout.startswith("insightface") else None)
    assert [path for path in (tmp_path / "scratch" / "download").iterdir() if path.suffix != ".lock"] == []


def test_landmarks_of_a_synthetic_source_are_those_of_the_renderer(tmp_path):
    from faceflow.components.common.synthetic import layouts

    source = {"kind": "synthetic", "layout": "trillion_pairs", "identities": 2, "images_per_identity": 3, "size_px": 64}
    dataset = run(source | {"seed": 5}, tmp_path / "out")
    layouts.write("trillion_pairs", tmp_path / "set", identities=2, images_per_identity=3, seed=5, size_px=64)
    rows = [line.split(" ") for line in (tmp_path / "set" / "celebrity_lmk").read_text().splitlines()]
    wanted = {row[0].replace("celebrity/", "synthetic/"): np.array(row[2:], float).reshape(5, 2) for row in rows}
    found = {record.key: record.landmarks for record in dataset.records()}
    assert found.keys() == wanted.keys()
    for key, points in wanted.items():
        np.testing.assert_allclose(found[key], points, atol=1e-4)


def test_the_seed_of_the_stage_counts_where_the_source_has_none(tmp_path):
    source = {"kind": "synthetic", "identities": 2, "images_per_identity": 1, "size_px": 64}
    one, two = (run(source, tmp_path / f"s{seed}", seed=seed) for seed in (1, 2))
    fixed = [run(source | {"seed": 1}, tmp_path / f"f{seed}", seed=seed) for seed in (1, 2)]
    assert one.fingerprint != two.fingerprint
    assert fixed[0].fingerprint == fixed[1].fingerprint == one.fingerprint


@pytest.mark.parametrize(
    "files, words",
    [
        (None, "cannot be opened"),
        ({}, "empty folder"),
        ({"Al/1.jpg": None, "Al/2.jpg": None}, "single identity"),
        ({"1.jpg": None, "2.jpg": None}, "holds its files directly"),
        ({"Al/a.jpg": b"text", "Bo/b.jpg": b""}, r"no usable image among 2 files: 2 not_an_image \(first Al/a\.jpg: "),
    ],
)
def test_a_source_that_cannot_be_used_ends_in_a_clear_message_and_no_output(write, tmp_path, picture, files, words):
    path = tmp_path / "set"
    if files is not None:
        path.mkdir()
        write("set", {name: data if data is not None else picture() for name, data in files.items()})
    (tmp_path / "work").mkdir()
    with pytest.raises(SourceError, match=words):
        run({"kind": "folder", "path": str(path)}, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("container", ["set.tar", "set.zip"])
def test_an_archive_of_one_identity_is_refused_too(write, tmp_path, picture, container):
    path = write(container, {"set/Al/1.jpg": picture(), "set/Al/2.jpg": picture(1)})
    with pytest.raises(SourceError, match="single identity"):
        run({"kind": "folder", "path": str(path)}, tmp_path / "out")


def test_a_truncated_archive_leaves_nothing_half_made(write, tmp_path, picture):
    path = write("set.tar.gz", {f"{who}/{i}.jpg": picture(i) for who in ("Al", "Bo") for i in range(20)})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (tmp_path / "work").mkdir()
    with pytest.raises(ArchiveError, match=r"set\.tar\.gz .* is cut short or damaged (in|after) member"):
        run({"kind": "folder", "path": str(path)}, tmp_path / "work" / "out")
    assert list((tmp_path / "work").iterdir()) == []


def test_a_full_disk_is_noticed_before_the_work(write, tmp_path, picture, monkeypatch):
    path = write("set", {"Al/1.jpg": picture(), "Bo/1.jpg": picture()})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 10**8, 10**8))
    with pytest.raises(DiskSpaceError, match="source 'folder': writing its images needs about"):
        run({"kind": "folder", "path": str(path)}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_is_fetched_through_cuts_and_scratch_is_emptied(write, tmp_path, picture, server):
    files = {f"set/{who}/{i}.jpg": picture(i, size=(64, 64)) for who in ("Al", "Bo") for i in range(30)}
    server.files["/set.tgz"] = write("set.tgz", files).read_bytes()
    server.cut_after = [40_000]
    source = {"kind": "folder", "path": server.url("/set.tgz")}
    dataset = run(source, tmp_path / "out", tmp_path / "scratch", retry_wait_seconds=0.01)
    assert [record.image for record in dataset.records()] == list(files.values())
    assert list((tmp_path / "scratch").rglob("*.tgz*")) == []


def test_ctrl_c_leaves_no_output_and_the_rerun_goes_on_from_the_part(write, tmp_path, picture, server):
    files = {f"set/{who}/{i}.jpg": picture(i, size=(96, 96)) for who in ("Al", "Bo") for i in range(40)}
    server.files["/set.tgz"] = write("set.tgz", files).read_bytes()
    server.slowly = 0.02
    source = {"kind": "folder", "path": server.url("/set.tgz")}
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-m", "faceflow.components.download", "--source", json.dumps(source)]
    command += ["--raw-faces", str(tmp_path / "work" / "out"), "--scratch", str(tmp_path / "scratch")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 0 for path in tmp_path.glob("scratch/**/*.part")):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted" in told and "Traceback" not in told
    assert list((tmp_path / "work").iterdir()) == []
    server.slowly = 0.0
    server.requests.clear()
    dataset = run(source, tmp_path / "work" / "out", tmp_path / "scratch")
    assert dataset.manifest.images == 80
    assert next(asked for method, _, asked in server.requests if method == "GET").startswith("bytes=")


def test_the_component_runs_the_stage(write, tmp_path, picture):
    path = write("set", {"Al/1.jpg": picture(), "Bo/1.jpg": picture()})
    out = SimpleNamespace(path=str(tmp_path / "out"))
    source = {"kind": "folder", "path": str(path)}
    download.python_func(source=source, fingerprint="f", raw_faces=out, options={"shard_mb": 1.0})
    assert Dataset(Path(out.path)).manifest.settings["shard_mb"] == 1
    with pytest.raises(SettingsError, match="did you mean 'shard_mb'"):
        download.python_func(source=source, fingerprint="f", raw_faces=out, options={"shards_mb": 1})
