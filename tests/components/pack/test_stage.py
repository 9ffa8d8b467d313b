import csv
import hashlib
import json
import os
import shutil
from collections import Counter, namedtuple
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import ConservationError, DatasetError, DiskSpaceError, SettingsError
from faceflow.components.common.ledger import LEDGER_NAME
from faceflow.components.common.record import SCHEMA_PATH, Record
from faceflow.components.common.tfrecord import Writer
from faceflow.components.pack import stage, statistics

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
                "gender": [record.gender.encode()] if record.gender else [],
                "age": [] if record.age is None else [record.age],
            }
            assert tf.io.decode_jpeg(one["image/encoded"]).shape == (24, 20, 3)


def test_the_statistics_equal_a_plain_count(packed):
    told = json.loads((packed / "statistics.json").read_text())
    for side in ("train", "validation"):
        records = list(Dataset(packed / side).records())
        found = told[side]
        assert (found["records"], found["unreadable"]) == (len(records), 0)
        labels = Counter(record.label for record in records)
        assert found["records_per_label"] == [labels[label] for label in range(len(IMAGES))]
        assert found["variants"] == Counter(record.variant for record in records)
        assert found["image_sizes"] == {"20x24": len(records)}
        assert found["image_bytes_total"] == sum(len(record.image) for record in records)
        assert found["image_kilobytes"] == Counter(str(len(record.image) // 1000) for record in records)
        missing = {name: count for name, count in found["missing"].items() if count}
        assert missing == {
            name: count
            for name, count in (
                ("landmarks", sum(record.landmarks is None for record in records)),
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
    assert found.records_per_label == [304, 1]
    assert found.faults == {
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


def test_two_workers_give_the_same_bytes_as_one(packed, faces, tmp_path, small_shards):
    assert files(pack(tmp_path, faces, workers=2)) == files(packed)


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


def test_a_dataset_that_is_none_is_refused(tmp_path):
    (tmp_path / "faces").mkdir()
    with pytest.raises(DatasetError, match="not a faceflow dataset"):
        pack(tmp_path, tmp_path / "faces")


def test_a_damaged_shard_is_named_and_nothing_is_left(augmented, tmp_path):
    faces = augmented({"s/anna": (9, []), "s/bo": (9, [])})
    shard = Dataset(faces).shards[1]
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{shard.name}: damaged TFRecord"):
        pack(tmp_path, faces)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_before_the_work(faces, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 1000, 1000))
    with pytest.raises(DiskSpaceError, match="pack needs about"):
        pack(tmp_path, faces)
    assert os.listdir(tmp_path) == []


def test_shards_that_tfx_bsl_counts_otherwise_are_not_published(faces, tmp_path):
    counted = statistics.Statistics(records=3, variants={"": 3}, records_per_label=[2, 1, 0])
    manifest = Dataset(faces).manifest
    with pytest.raises(ConservationError, match="3 records, where 592 were written, 1 labels without an image"):
        stage._check("train", manifest, counted)
    stage._check("train", replace(manifest, images=3, variants={"": 3}), replace(counted, records_per_label=[2, 1]))


@pytest.mark.parametrize("settings", [{"validation_fraction": 0.6}, {"shard_mb": 0}, {"seed": -1}, {"workers": 0}])
def test_settings_outside_their_limits_are_refused(settings):
    with pytest.raises(SettingsError, match=f"'{next(iter(settings))}' is"):
        stage.Settings(**settings)
