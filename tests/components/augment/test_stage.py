import hashlib
import os
import shutil
from collections import Counter, namedtuple
from dataclasses import replace

import pytest

from faceflow.components.augment import stage
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError, DiskSpaceError, SettingsError
from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.operations import Variant

POLICY = (
    "n > 9: sample(9) | n > 7: keep | n > 5: keep, opening | n > 3: keep, opening, gaussian_noise, salt_pepper | drop"
)
ANNA = {"anna": 12, "bo": 10, "cy": 8, "di": 7, "ed": 6}
FAY = {"fay": 5, "gus": 4, "hal": 3, "ida": 1}


def run(tmp_path, *faces, at="out", **settings):
    out = tmp_path / at
    outputs = stage.Outputs(out / "augmented", out / "held_out", out / "report.html")
    stage.run(stage.Settings(**{"policy": POLICY} | settings), stage.Inputs(faces), outputs)
    return Dataset(outputs.augmented_faces), Dataset(outputs.held_out_faces), outputs.report


def files(directory):
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def left_behind(tmp_path):
    return [name for _, folders, names in os.walk(tmp_path / "out") for name in folders + names]


def test_every_image_goes_where_the_policy_says(tmp_path, aligned):
    first, second = aligned("one", ANNA, shards=2), aligned("two", FAY, shards=3)
    out, held_out, report = run(tmp_path, first, second)
    source = {record.key: record for path in (first, second) for record in Dataset(path).records()}
    counts = Counter((record.identity, record.variant) for record in out.records())
    assert counts == {
        ("one/anna", ""): 9, ("one/bo", ""): 9, ("one/cy", ""): 8,
        ("one/di", ""): 7, ("one/di", "opening"): 7, ("one/ed", ""): 6, ("one/ed", "opening"): 6,
        **{(f"two/{name}", variant): n for name, n in (("fay", 5), ("gus", 4))
           for variant in ("", "opening", "gaussian_noise", "salt_pepper")},
    }  # fmt: skip
    assert out.manifest.images_in == 56
    assert out.manifest.drops == {"policy_sampled_out": 4, "policy_too_few": 4}
    assert (held_out.manifest.images, held_out.manifest.images_in, held_out.shards) == (0, 0, [])
    assert out.manifest.template == held_out.manifest.template == "arcface_112"
    assert out.manifest.licences == ["licence of one", "licence of two"]
    previous = None
    for record in out.records():
        if not record.variant:
            assert record.encode() == source[record.key].encode()
            previous = record
            continue
        # A copy follows its source image, and differs in key, variant and picture alone.
        assert record.key == f"{previous.key}#{record.variant}"
        defaults = {"opening": (5,), "gaussian_noise": (10.0,), "salt_pepper": (0.02,)}[record.variant]
        picture = Variant(record.variant, defaults).make(decode(previous.image), 0, previous.key)
        assert record == replace(previous, key=record.key, variant=record.variant, image=encode_jpeg(picture, 95))
    page = report.read_text()
    for told in ("sample(9)", "10+", "1-3", "keep, opening, gaussian_noise, salt_pepper"):
        assert told in page


def test_the_ledger_tells_every_fate(tmp_path, aligned):
    faces = aligned("one", ANNA | FAY)
    out, held_out, _ = run(tmp_path, faces, holdout_fraction=0.25)
    rows = out.ledger().to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(record.key for record in Dataset(faces).records())
    chosen = {record.identity for record in held_out.records()}
    assert len(chosen) == 2
    sizes = {f"one/{name}": images for name, images in (ANNA | FAY).items()}
    for row in rows:
        images = sizes[row["identity"]]
        if row["identity"] in chosen:
            assert (row["outcome"], row["reason"]) == ("dropped", "held_out")
        elif images <= 3:
            assert row["reason"] == "policy_too_few"
            assert row["detail"].startswith(f"{images} image")
        elif row["outcome"] == "dropped":
            assert images > 9
            assert row["reason"] == "policy_sampled_out"
        else:
            copies = {1: [], 2: ["opening"], 4: ["opening", "gaussian_noise", "salt_pepper"]}
            assert row["variants"] == ["", *copies[4 if images < 6 else 2 if images < 8 else 1]]


def test_held_out_identities_are_whole_and_untouched(tmp_path, aligned):
    faces = aligned("one", ANNA | FAY, shards=3)
    out, held_out, report = run(tmp_path, faces, holdout_fraction=0.4)
    chosen = {record.identity for record in held_out.records()}
    assert len(chosen) == held_out.manifest.identities == 3
    assert chosen.isdisjoint(record.identity for record in out.records())
    expected = [payload for record, payload in zip(*_both(faces), strict=True) if record.identity in chosen]
    assert list(held_out.payloads()) == expected
    assert out.manifest.drops["held_out"] == held_out.manifest.images == held_out.manifest.images_in == len(expected)
    assert all(row["variants"] == [""] for row in held_out.ledger().to_pylist())
    assert "held out for evaluation" in report.read_text()


def _both(path):
    return list(Dataset(path).records()), list(Dataset(path).payloads())


def test_order_and_sharding_do_not_change_what_comes_out(tmp_path, aligned):
    outcomes = []
    for order, shards in ((0, 2), (1, 5)):
        faces = aligned("one", ANNA | FAY, order=order, shards=shards, at=f"faces-{order}")
        out, held_out, _ = run(tmp_path, faces, at=f"out-{order}", holdout_fraction=0.25)
        outcomes.append(
            (sorted(out.payloads()), sorted(held_out.payloads()), sorted(map(str, out.ledger().to_pylist())))
        )
    assert outcomes[0] == outcomes[1]


def test_two_workers_give_the_same_bytes_as_one(tmp_path, aligned):
    faces = (aligned("one", ANNA, shards=2), aligned("two", FAY, shards=2))
    for workers in (1, 2):
        run(tmp_path, *faces, at=f"out-{workers}", workers=workers, holdout_fraction=0.25)
    one, two = (files(tmp_path / f"out-{workers}") for workers in (1, 2))
    assert one == two
    assert len(one) > 6


def test_the_seed_decides_sample_and_noise(tmp_path, aligned):
    faces = aligned("one", ANNA)
    taken = []
    for seed in (0, 1):
        out, _, _ = run(tmp_path, faces, at=f"out-{seed}", seed=seed, policy="n > 6: sample(6) | keep, gaussian_noise")
        taken.append({record.key: record.image for record in out.records()})
    assert taken[0].keys() != taken[1].keys()
    assert taken[0]["one/ed/0000.jpg"] == taken[1]["one/ed/0000.jpg"]
    assert taken[0]["one/ed/0000.jpg#gaussian_noise"] != taken[1]["one/ed/0000.jpg#gaussian_noise"]


def test_sources_of_one_namespace_are_one_identity(tmp_path, aligned):
    first = aligned("one", {"anna": 3, "bo": 6})
    moved = [
        replace(record, key=record.key.replace("one/", "two/"), identity=record.identity)
        for record in Dataset(first).records()
    ]
    out, _, _ = run(tmp_path, first, aligned("two", {}, records=moved), policy="n > 6: sample(6) | keep, opening")
    counts = Counter((record.identity, record.variant) for record in out.records())
    assert counts == {("one/anna", ""): 6, ("one/anna", "opening"): 6, ("one/bo", ""): 6}


def test_a_source_without_a_face_goes_along(tmp_path, aligned):
    out, _, _ = run(tmp_path, aligned("one", ANNA), aligned("none", {}))
    assert out.manifest.identities == 5


def test_different_templates_are_refused(tmp_path, aligned):
    told = r"different templates do not go together: 'arcface_112', bilinear \(.*one\); 'facenet_160', .*two\)"
    with pytest.raises(DatasetError, match=told):
        run(tmp_path, aligned("one", ANNA), aligned("two", FAY, template="facenet_160"))


def test_faces_that_are_not_aligned_are_refused(tmp_path, aligned):
    with pytest.raises(DatasetError, match=r"not aligned \(stage 'download'\): run align"):
        run(tmp_path, aligned("one", ANNA, template=None, stage="download"))
    with pytest.raises(DatasetError, match="no dataset"):
        run(tmp_path)


def test_two_sources_of_one_name_are_refused(tmp_path, aligned):
    with pytest.raises(DatasetError, match=r"a source named 'one': .*first and .*second.* a 'name' of its own"):
        run(tmp_path, aligned("one", ANNA, at="first"), aligned("one", FAY, at="second"))
    assert left_behind(tmp_path) == []


def test_two_images_of_one_key_are_refused(tmp_path, aligned):
    records = list(Dataset(aligned("one", ANNA)).records())
    twice = aligned("one", {}, records=[*records, records[3]], at="twice")
    with pytest.raises(DatasetError, match=f"two images have the key '{records[3].key}': in .*twice.* and in .*twice"):
        run(tmp_path, twice)


def test_augmented_faces_are_refused(tmp_path, aligned):
    out, _, _ = run(tmp_path, aligned("one", ANNA | FAY))
    with pytest.raises(DatasetError, match=r"holds augmented copies \(.*opening.*\): give augment the datasets that"):
        run(tmp_path, out.path, at="again")


def test_a_policy_that_leaves_nobody_ends_before_any_writing(tmp_path, aligned):
    with pytest.raises(SettingsError, match="images per identity | identities"):
        run(tmp_path, aligned("one", ANNA), policy="n > 100: keep | drop")
    assert left_behind(tmp_path) == []


def test_a_picture_that_cannot_be_decoded_ends_the_stage_and_leaves_nothing(tmp_path, aligned):
    records = list(Dataset(aligned("one", FAY)).records())
    bad = next(index for index, record in enumerate(records) if record.identity == "one/fay")
    records[bad] = replace(records[bad], image=records[bad].image[:300])
    key = records[bad].key
    with pytest.raises(DatasetError, match=f"image '{key}' of an aligned dataset cannot be decoded"):
        run(tmp_path, aligned("one", {}, records=records, at="bad"))
    assert left_behind(tmp_path) == []


def test_a_damaged_shard_is_named(tmp_path, aligned):
    faces = aligned("one", ANNA)
    shard = Dataset(faces).shards[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{shard.name}: damaged TFRecord"):
        run(tmp_path, faces)
    assert left_behind(tmp_path) == []


def test_a_full_disk_is_told_before_the_pictures_are_touched(tmp_path, aligned, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskSpaceError, match="augment needs about"):
        run(tmp_path, aligned("one", ANNA))
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("value", [-0.1, 0.95])
def test_a_fraction_outside_its_limits_is_refused(value):
    with pytest.raises(SettingsError, match="'holdout_fraction' is"):
        stage.Settings(holdout_fraction=value)


def test_two_spellings_of_a_policy_are_one_setting():
    assert (
        stage.Settings(policy="n>=5:keep|drop").fingerprint == stage.Settings(policy="n > 4: keep | drop").fingerprint
    )
    assert stage.Settings(workers=2).fingerprint == stage.Settings().fingerprint
