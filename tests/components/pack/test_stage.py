import csv
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections import Counter, namedtuple
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from faceflow.components.common import memory
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import ConservationError, DatasetError, DiskSpaceError, SettingsError
from faceflow.components.common.index import Index
from faceflow.components.common.ledger import LEDGER_NAME
from faceflow.components.common.record import SCHEMA_PATH, Record
from faceflow.components.common.tfrecord import Writer
from faceflow.components.pack import stage, statistics, tables

IMAGES = {
    "s/bo": (60, []),
    "s/anna": (40, ["opening"]),
    "s/Zoë, 李": (12, ["opening", "gaussian_noise", "salt_pepper"]),
    "s/one": (1, ["opening", "gaussian_noise", "salt_pepper"]),
    **{f"t/{number:02d}": (10, ["opening"]) for number in range(20)},
}
# The smallest size a person can set would put all of this into one shard.
SHARD_BYTES = 40_000


def pack(at, faces, **settings):
    outputs = stage.Outputs(at / "packed", at / "report.html")
    stage.run(stage.Settings(**{"validation_fraction": 0.1} | settings), stage.Inputs(faces), outputs)
    return outputs.packed


@pytest.fixture(scope="module")
def small_shards():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "_MEGABYTE", SHARD_BYTES // 64)
        yield


@pytest.fixture(scope="module")
def faces(augmented):
    return augmented(IMAGES, shards=3)


@pytest.fixture(scope="module")
def packed(tmp_path_factory, faces, small_shards):
    return pack(tmp_path_factory.mktemp("out"), faces)


def files(directory):
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_every_record_is_there_once_with_its_label_and_otherwise_as_it_was(packed, faces):
    with open(packed / "labels.csv", newline="", encoding="utf-8") as file:
        labels = {row["identity"]: int(row["label"]) for row in csv.DictReader(file)}
    assert labels == {identity: label for label, identity in enumerate(sorted(IMAGES))}
    source = {record.key: record for record in Dataset(faces).records()}
    found = {}
    for side in ("train", "validation"):
        for record in Dataset(packed / side).records():
            assert record.key not in found
            assert record == replace(source[record.key], label=labels[record.identity])
            found[record.key] = side
    validated = {key for key, side in found.items() if side == "validation"}
    left_out = {key for key, record in source.items() if record.variant and key.rsplit("#", 1)[0] in validated}
    assert found.keys() == source.keys() - left_out
    assert left_out


def test_the_split_takes_source_images_evenly_and_never_parts_a_copy_from_its_source(packed):
    train, validation = (list(Dataset(packed / side).records()) for side in ("train", "validation"))
    assert {record.variant for record in validation} == {""}
    validated = Counter(record.identity for record in validation)
    # 312 source images, one of them of an identity that has no other.
    assert sum(validated.values()) == round(0.1 * 312)
    for identity, (images, variants) in IMAGES.items():
        learnt = Counter(record.variant for record in train if record.identity == identity)
        assert learnt == dict.fromkeys(["", *variants], images - validated[identity])
        assert learnt[""] >= 1
        assert abs(validated[identity] - (0.1 * images if images > 1 else 0)) <= 1
    sources = {record.key for record in validation}
    assert sources.isdisjoint(record.key.rsplit("#", 1)[0] for record in train)


def test_the_order_is_random_over_all_shards(packed, faces):
    train = Dataset(packed / "train")
    assert len(train.shards) > 4
    before = {record.key: place for place, record in enumerate(Dataset(faces).records())}
    order = [before[record.key] for record in train.records()]
    assert stats.kendalltau(order, range(len(order))).pvalue > 1e-3
    shards = [Counter(record.identity[0] for record in train.records(index)) for index in range(len(train.shards))]
    assert stats.chi2_contingency([[shard["s"], shard["t"]] for shard in shards]).pvalue > 1e-3
    neighbours = [record.identity for record in train.records()]
    same = np.mean([one == other for one, other in zip(neighbours, neighbours[1:], strict=False)])
    assert same < 0.2
    sizes = [shard.bytes for shard in train.manifest.shards]
    assert np.mean(sizes) == pytest.approx(SHARD_BYTES, rel=0.3)


def test_the_directory_is_a_dataset_of_both_sides(packed, faces):
    whole, train, validation = (Dataset(packed / side) for side in ("", "train", "validation"))
    assert list(whole.payloads()) == [*train.payloads(), *validation.payloads()]
    assert whole.manifest.images == train.manifest.images + validation.manifest.images
    assert whole.manifest.images_in == train.manifest.images_in + validation.manifest.images_in == 313
    assert whole.manifest.identities == train.manifest.identities == len(IMAGES)
    assert whole.manifest.inputs == {"faces": Dataset(faces).fingerprint}
    assert whole.manifest.template == train.manifest.template == "arcface_112"
    assert whole.manifest.licences == ["a licence"]
    assert whole.attachment("schema.pbtxt").read_bytes() == SCHEMA_PATH.read_bytes()
    assert sorted(path.name for path in packed.iterdir()) == [
        "labels.csv", "ledger.parquet", "manifest.json", "schema.pbtxt", "statistics.json", "train", "validation"
    ]  # fmt: skip


def test_the_ledger_has_each_source_image_with_the_copies_that_were_packed(packed):
    for side in ("train", "validation"):
        made = {}
        for record in Dataset(packed / side).records():
            made.setdefault(record.key.split("#")[0], set()).add(record.variant)
        rows = Dataset(packed / side).ledger().to_pylist()
        assert {row["key"]: set(row["variants"]) for row in rows} == made
        assert len(rows) == len(made) == Dataset(packed / side).manifest.images_in
        assert {row["outcome"] for row in rows} == {"kept"}
    assert pq.read_metadata(packed / LEDGER_NAME).num_rows == 313


def test_tensorflow_reads_the_shards_with_the_schema(packed):
    import tensorflow as tf
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    schema = text_format.Parse((packed / "schema.pbtxt").read_text(), schema_pb2.Schema())
    kinds = {schema_pb2.BYTES: tf.string, schema_pb2.INT: tf.int64, schema_pb2.FLOAT: tf.float32}
    features = {
        feature.name: tf.io.FixedLenFeature([], kinds[feature.type])
        if feature.HasField("shape")
        else tf.io.VarLenFeature(kinds[feature.type])
        for feature in schema.feature
    }
    for side in ("train", "validation"):
        ours = Dataset(packed / side)
        shards = tf.data.TFRecordDataset([str(path) for path in ours.shards])
        for record, payload in zip(ours.records(), shards, strict=True):
            parsed = tf.io.parse_single_example(payload, features)
            one = {name: value.numpy() for name, value in parsed.items() if isinstance(value, tf.Tensor)}
            several = {name: parsed[name].values.numpy().tolist() for name in parsed.keys() - one.keys()}
            assert one == {
                "key": record.key.encode(),
                "identity": record.identity.encode(),
                "image/encoded": record.image,
                "image/height": record.height,
                "image/width": record.width,
                "variant": record.variant.encode(),
            }
            assert several == {
                "label": [record.label],
                "landmarks": [] if record.landmarks is None else record.landmarks.ravel().tolist(),
                "detector/score": [record.score],
                "online_variants": [],
                "gender": [record.gender.encode()] if record.gender else [],
                "age": [] if record.age is None else [record.age],
                "box": [],
            }
            assert tf.io.decode_jpeg(one["image/encoded"]).shape == (24, 20, 3)


def test_the_statistics_equal_a_plain_count(packed):
    told = json.loads((packed / "statistics.json").read_text())
    for side in ("train", "validation"):
        records = list(Dataset(packed / side).records())
        found = told[side]
        assert (found["records"], found["unreadable"]) == (len(records), 0)
        labels = Counter(record.label for record in records)
        assert found["images_per_label"] == [labels[label] for label in range(len(IMAGES))]
        assert found["variants"] == Counter(record.variant for record in records)
        assert found["image_sizes"] == {"20x24": len(records)}
        assert found["image_bytes_total"] == sum(len(record.image) for record in records)
        assert found["image_kilobytes"] == Counter(str(len(record.image) // 1000) for record in records)
        missing = {name: count for name, count in found["missing"].items() if count}
        assert missing == {
            name: count
            for name, count in (
                ("online_variants", len(records)),
                ("landmarks", sum(record.landmarks is None for record in records)),
                ("box", len(records)),
                ("gender", sum(record.gender is None for record in records)),
                ("age", sum(record.age is None for record in records)),
            )
            if count
        }
        assert not any(found["misfits"].values())


def test_records_that_do_not_fit_are_counted(tmp_path):
    import tensorflow as tf

    good = Record("s/a/1.jpg", "s/a", b"x" * 2500, 5, 6, label=0)
    example = tf.train.Example.FromString(good.encode())

    def changed(change):
        other = tf.train.Example()
        other.CopyFrom(example)
        change(other.features.feature)
        return other.SerializeToString()

    payloads = [
        *(good.encode() for _ in range(300)),
        b"no example at all",
        changed(lambda feature: feature["key"].int64_list.value.append(3)),
        changed(lambda feature: feature["landmarks"].float_list.value.extend([1.0] * 9)),
        changed(lambda feature: feature["landmarks"].float_list.value.extend([1.0] * 10)),
        changed(lambda feature: feature["label"].int64_list.value.append(1)),
        replace(good, label=2).encode(),
        replace(good, label=-1).encode(),
        replace(good, label=None).encode(),
        changed(lambda feature: feature.pop("identity")),
    ]
    # Characters that a file pattern would take for its own.
    (tmp_path / "[1] a*b").mkdir()
    with Writer(tmp_path / "[1] a*b" / "shard.tfrecord") as writer:
        for payload in payloads:
            writer.write(payload)
    found = statistics.measure([tmp_path / "[1] a*b" / "shard.tfrecord"], labels=2)
    assert (found.records, found.unreadable) == (309, 2)
    assert {name: count for name, count in found.misfits.items() if count} == {"landmarks": 1, "label": 3}
    assert (found.missing["label"], found.missing["identity"]) == (1, 1)
    assert found.images_per_label == [304, 1]
    assert found.faults() == {
        "unreadable records": 2, "records without identity": 1, "records without label": 1,
        "records with a wrong landmarks": 1, "records with a wrong label": 3,
    }  # fmt: skip


def test_the_report_shows_the_numbers(packed):
    page = (packed.parent / "report.html").read_text()
    train = Dataset(packed / "train").manifest
    for told in (f"{train.images:,}", "training images", "copies: gaussian_noise", "of 20x24 px"):
        assert told in page
    shown = [record for record, _ in zip(Dataset(packed / "train").records(), range(20), strict=False)]
    assert all(f"{record.label}: {record.identity}" in page for record in shown)
    assert page.count("<figure") == 20


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bytes(packed, faces, tmp_path, small_shards, workers):
    assert files(pack(tmp_path, faces, workers=workers)) == files(packed)


@pytest.mark.parametrize(
    "spill, work, memory_of, copies",
    [
        ("auto", False, 2.5, False),
        ("auto", False, 1.5, True),
        ("auto", True, 100, True),
        ("always", False, 100, True),
        ("never", False, 0.1, False),
    ],
)
def test_copying_records_aside_changes_nothing(
    packed, faces, tmp_path, small_shards, monkeypatch, spill, work, memory_of, copies
):
    size = sum(shard.bytes for shard in Dataset(faces).manifest.shards)
    monkeypatch.setattr(memory, "available", lambda: int(memory_of * size))
    copied = []

    def index(folder, *arguments, **how):
        copied.extend(Path(folder).glob("spill-*.bin"))
        return real(folder, *arguments, **how)

    real = tables.index
    monkeypatch.setattr(tables, "index", index)
    (tmp_path / "work").mkdir()
    again = pack(tmp_path, faces, spill=spill, work_uri=str(tmp_path / "work") if work else "")
    assert files(again) == files(packed)
    assert bool(copied) == copies


def test_the_shards_do_not_depend_on_how_the_faces_were_sharded(packed, augmented, tmp_path, small_shards):
    again = pack(tmp_path, augmented(IMAGES, shards=5, order=9))
    assert [shard.sha256 for shard in Dataset(again).manifest.shards] == [
        shard.sha256 for shard in Dataset(packed).manifest.shards
    ]


def test_the_seed_decides_split_and_order(packed, faces, tmp_path, small_shards):
    other = pack(tmp_path, faces, seed=1)
    keys = [[record.key for record in Dataset(path / "validation").records()] for path in (packed, other)]
    assert set(keys[0]) != set(keys[1])
    orders = [[record.key for record in Dataset(path / "train").records()] for path in (packed, other)]
    shared = set(orders[0]) & set(orders[1])
    places = [[key for key in order if key in shared] for order in orders]
    assert abs(stats.kendalltau([places[1].index(key) for key in places[0]], range(len(shared))).statistic) < 0.1


def test_no_validation_gives_an_empty_dataset(faces, tmp_path):
    packed = pack(tmp_path, faces, validation_fraction=0)
    validation = Dataset(packed / "validation")
    assert (validation.manifest.images, validation.shards, list(validation.records())) == (0, [], [])
    assert Dataset(packed / "train").manifest.images == Dataset(faces).manifest.images
    assert Dataset(packed).shards == [packed / "train" / path.name for path in Dataset(packed / "train").shards]
    assert json.loads((packed / "statistics.json").read_text())["validation"]["records"] == 0


def test_faces_of_one_identity_are_refused_and_leave_nothing(augmented, tmp_path):
    with pytest.raises(DatasetError, match="of 1 identity"):
        pack(tmp_path, augmented({"s/anna": (5, [])}))
    with pytest.raises(DatasetError, match="of 0 identities"):
        pack(tmp_path, augmented({}))
    assert list(tmp_path.iterdir()) == []


def test_faces_that_are_not_aligned_are_refused(augmented, tmp_path):
    with pytest.raises(DatasetError, match=r"not aligned \(stage 'augment'\): run align"):
        pack(tmp_path, augmented({"s/anna": (5, []), "s/bo": (5, [])}, template=None))
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_is_none_is_refused(tmp_path):
    (tmp_path / "faces").mkdir()
    with pytest.raises(DatasetError, match="not a faceflow dataset"):
        pack(tmp_path, tmp_path / "faces")


@pytest.mark.parametrize("spill", ["always", "never"])
def test_a_damaged_shard_is_named_and_nothing_is_left(augmented, tmp_path, spill):
    faces = augmented({"s/anna": (9, []), "s/bo": (9, [])})
    shard = Dataset(faces).shards[1]
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{shard.name}: damaged TFRecord"):
        pack(tmp_path, faces, spill=spill)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_the_work(faces, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskSpaceError, match="pack needs about"):
        pack(tmp_path, faces)
    assert os.listdir(tmp_path) == []


def test_shards_that_tfx_bsl_counts_otherwise_are_not_published(faces, tmp_path):
    counted = statistics.Statistics(records=3, variants={"": 3}, images_per_label=[2, 1, 0])
    manifest = Dataset(faces).manifest
    with pytest.raises(ConservationError, match="3 records, where 592 were written, 1 labels without an image"):
        stage._check("train", manifest, counted, True)
    three = replace(manifest, variants={"": 3}, shards=[replace(manifest.shards[0], records=3)])
    stage._check("train", three, replace(counted, images_per_label=[2, 1]), True)


def pack_until_killed(at, faces, told):
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage, "_MEGABYTE", SHARD_BYTES // 64)
            pack(at, faces, workers=2)
    except Exception as error:
        told.write_text(f"{type(error).__name__}: {error}")


def workers_of(pid):
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # threads and processes that ended meanwhile
            for child in map(int, path.read_text().split()):
                arguments = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                is_worker = arguments[1:3] == [b"-m", b"faceflow.components.common.worker"]
                found += [child] if is_worker else workers_of(child)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the workers under /proc")
def test_a_killed_worker_ends_the_stage_and_another_try_gives_the_same_bytes(packed, faces, tmp_path, small_shards):
    at, told = tmp_path / "at", tmp_path / "told.txt"
    at.mkdir()
    process = multiprocessing.get_context("spawn").Process(target=pack_until_killed, args=(at, faces, told))
    process.start()
    try:
        deadline = time.monotonic() + 120
        while len(found := workers_of(process.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(found) >= 2
        os.kill(found[0], signal.SIGKILL)
        process.join(30)
        assert process.exitcode == 0
    finally:
        process.kill()
    assert "worker" in told.read_text()
    assert list(at.iterdir()) == []
    assert files(pack(at, faces)) == files(packed)


@pytest.mark.parametrize("settings", [{"validation_fraction": 0.6}, {"shard_mb": 0}, {"seed": -1}, {"workers": 0}])
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(SettingsError, match=f"'{next(iter(settings))}' is"):
        stage.Settings(**settings)


def test_identities_that_stand_together_are_indexed_together(faces, tmp_path, small_shards):
    packed = pack(tmp_path, faces, layout="grouped")
    train = Dataset(packed / "train")
    index = Index(train)
    labels = [record.label for record in train.records()]
    assert index.label.tolist() == labels
    assert all((np.diff(rows) == 1).all() for rows in index.groups().values())
    assert all(len(set(index.shard[rows])) == 1 for rows in index.groups().values())
    assert len(train.shards) > 2
    assert labels != sorted(labels)
    together = [record.key for record in train.records()]
    assert sorted(together) == sorted(record.key for record in Dataset(pack(tmp_path / "b", faces) / "train").records())


def test_a_record_is_found_by_its_key_and_cleaning_takes_no_packing(packed):
    for side in ("train", "validation"):
        dataset = Dataset(packed / side)
        index = Index(dataset)
        records = list(dataset.records())
        assert list(map(Record.decode, index.payloads(range(len(index))))) == records
        assert index.record(index.row_of(records[5].key)) == records[5]
    sources = [record.key for record in records if not record.variant]
    assert len(index.without(sources[:3])) == len(index) - 3


def test_identities_held_for_validation_are_no_classes(faces, tmp_path):
    packed = pack(tmp_path, faces, validation_by="identity", verify_with_tfxio="always")
    train, validation = (Dataset(packed / side) for side in ("train", "validation"))
    held = {record.identity for record in validation.records()}
    learnt = {record.identity for record in train.records()}
    assert len(held) == round(0.1 * len(IMAGES))
    assert held.isdisjoint(learnt) and held | learnt == set(IMAGES)
    assert {record.label for record in validation.records()} == {None}
    assert validation.manifest.images == sum(IMAGES[identity][0] for identity in held)
    with open(packed / "labels.csv", newline="", encoding="utf-8") as file:
        assert [row["identity"] for row in csv.DictReader(file)] == sorted(learnt)
    assert Index(validation).label.tolist() == [-1] * validation.manifest.images


def test_compressed_shards_hold_the_same_and_statistics_read_them(packed, faces, tmp_path, small_shards):
    # With verify_with_tfxio TensorFlow reads them too, and must count the same.
    zipped = pack(tmp_path, faces, compression="gzip", verify_with_tfxio="always")
    assert list(Dataset(zipped).payloads()) == list(Dataset(packed).payloads())
    assert {path.suffix for path in Dataset(zipped).shards} == {".gz"}
    assert Dataset(zipped).manifest.settings["compression"] == "gzip"
    names = ("labels.csv", "statistics.json", "train/index.parquet")
    assert [(zipped / name).read_bytes() == (packed / name).read_bytes() for name in names] == [True] * 3


def test_online_variants_stay_in_training_and_leave_validation(augmented, tmp_path):
    variants = ("opening", "gaussian_noise(sigma=20)")
    plain = [record for record in Dataset(augmented({"s/a": (30, []), "s/b": (20, [])})).records()]
    families = [[replace(record, online_variants=variants if record.identity == "s/a" else ())] for record in plain]
    drawn = [
        [record, *(replace(record, key=f"{record.key}#{name}", variant=name) for name in variants)]
        if record.identity == "s/a"
        else [record]
        for record in plain
    ]
    online = pack(tmp_path / "online", augmented({}, families=families), validation_fraction=0.2)
    written = pack(tmp_path / "written", augmented({}, families=drawn), validation_fraction=0.2)
    for side in ("train", "validation"):
        one, other = Dataset(online / side).manifest, Dataset(written / side).manifest
        assert (one.images, one.variants, one.images_in) == (other.images, other.variants, other.images_in)
        assert Dataset(online / side).ledger().equals(Dataset(written / side).ledger())
        records = list(Dataset(online / side).records())
        assert one.records == len(records)
        for record in records:
            assert record.online_variants == (variants if side == "train" and record.identity == "s/a" else ())
    told = [json.loads((path / "statistics.json").read_text()) for path in (online, written)]
    for name in ("images_per_label", "variants"):
        assert told[0]["train"][name] == told[1]["train"][name]


def test_tfxio_counts_what_the_stage_counted(packed):
    told = json.loads((packed / "statistics.json").read_text())
    for side in ("train", "validation"):
        assert statistics.measure(Dataset(packed / side).shards, len(IMAGES)).to_json() == told[side]


def test_shards_that_tfxio_counts_otherwise_are_told():
    one = statistics.Statistics(records=3, image_bytes_total=9)
    with pytest.raises(ConservationError, match=r"train shards, read through TFXIO, differ in records, image_bytes_"):
        stage._check_again("train", one, replace(one, records=4, image_bytes_total=1))
    stage._check_again("train", one, replace(one))
