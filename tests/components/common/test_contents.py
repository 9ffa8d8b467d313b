from dataclasses import replace

import pytest

from faceflow.components.common import contents, tfrecord, wire
from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record, _Example


def face(shard, number, identity, **more):
    key = f"s/{identity}/{shard}-{number}.jpg"
    return Record(key, f"s/{identity}", key.encode() * (number * 40), 4, 5, **more)


def dataset(path, shards, drawn):
    """Shards of three sorts of rows: one record, one with variants (drawn or not), and a drop. Some are empty."""
    images = 0
    with publishing(path) as directory:
        for shard, count in enumerate(shards):
            with ShardWriter(directory, shard, stage="augment") as out:
                for number in range(count):
                    images += 1
                    variants = ("opening", "blur(sigma=2)") if number % 3 == 1 else ()
                    one = face(shard, number, f"{'abc'[number % 2]}ñ", online_variants=() if drawn else variants)
                    if number % 3 == 2:
                        out.dropped(one.key, one.identity, Reason.DUPLICATE)
                        continue
                    out.write(one)
                    for name in variants if drawn else ():
                        out.write(replace(one, key=f"{one.key}#{name}", variant=name))
                    out.kept(one.key, one.identity, ("", *variants))
        finish(directory, stage="augment", settings={}, template=None, inputs={}, images_in=images)
    return Dataset(path)


@pytest.mark.parametrize("drawn", [True, False])
def test_contents_are_the_ledgers_rows_shard_by_shard(tmp_path, drawn):
    datasets = [
        dataset(tmp_path / "one", [4, 1, 0, 30], drawn),
        dataset(tmp_path / "two", [7, 0, 2], False),
    ]
    contents.cut(datasets, tmp_path)
    shards = [(each, shard) for each in datasets for shard in range(len(each.shards))]
    assert len(shards) == 5
    for number, (each, shard) in enumerate(shards):
        held = contents.read(tmp_path, number)
        records = list(each.records(shard))
        sources = [record for record in records if not record.variant]
        assert held.keys.to_pylist() == [record.key for record in sources]
        assert [held.identities[code].decode() for code in held.codes] == [record.identity for record in sources]
        families = [[other.variant for other in records if other.key.startswith(record.key)] for record in sources]
        assert held.records.tolist() == [len(family) for family in families]
        made = [[*family, *one.online_variants] for family, one in zip(families, sources, strict=True)]
        assert held.variants.to_pylist() == made
        assert held.images.tolist() == [len(names) for names in made]
        assert held.shard == each.manifest.shards[shard]


def test_a_ledger_with_other_rows_is_refused(tmp_path):
    whole = dataset(tmp_path / "one", [4, 9], True)
    shorter = dataset(tmp_path / "two", [4, 6], True)
    for one, other in ((whole, shorter), (shorter, whole)):
        changed = Dataset(one.path)
        changed.path = other.path
        with pytest.raises(DatasetError, match=r"by its manifest, and others by its ledger: run the stage"):
            contents.cut([changed], tmp_path)


def other_writers(record):
    """The record as a writer may leave it that puts each field into an Example of its own, and a name behind it."""
    example = _Example.FromString(record.encode())
    told = b""
    for name, feature in sorted(example.features.feature.items(), reverse=True):
        value = feature.SerializeToString()
        entry = b"\x12" + wire.varint(len(value)) + value + b"\n" + wire.varint(len(name)) + name.encode()
        field = b"\n" + wire.varint(len(entry)) + entry
        told += b"\n" + wire.varint(len(field)) + field
    return told


@pytest.fixture
def shard(tmp_path):
    """Three records, the second as another program writes it: location, keys and payloads."""
    records = [face(0, number, "anna", score=0.5) for number in (3, 2, 0)]
    payloads = [record.encode() for record in records]
    payloads[1] = other_writers(records[1])
    assert Record.decode(payloads[1]) == records[1]
    with tfrecord.Writer(tmp_path / "s.tfrecord") as writer:
        for payload in payloads:
            writer.write(payload)
    return str(tmp_path / "s.tfrecord"), [record.key.encode() for record in records], payloads


def test_frames_come_with_the_place_for_a_label(shard):
    location, keys, payloads = shard
    [(window, places)] = contents.named(location, keys)
    assert list(window.payloads()) == payloads
    assert places[1] == 0
    assert [places for _, places in contents.named(location, [None, keys[1], None])] == [[0, 0, 0]]
    for number in (0, 2):
        expected = wire.glance(payloads[number]).with_label(7)
        assert wire.labelled(payloads[number], places[number], 7) == expected


def test_records_that_the_ledger_does_not_name_are_refused(shard):
    location, keys, _ = shard
    for changed, what in (
        (keys[::-1], "holds 's/anna/0-3.jpg' where its ledger names 's/anna/0-0.jpg'"),
        ([keys[0], b"x", keys[2]], "holds 's/anna/0-2.jpg' where its ledger names 'x'"),
        (keys[:2], "holds more records than its ledger names"),
        ([*keys, b"s/anna/9.jpg", None], "holds 2 records less than its ledger names"),
    ):
        with pytest.raises(DatasetError, match=f"s.tfrecord {what}: run the stage that wrote the dataset again"):
            list(contents.named(location, changed))


def test_a_damaged_key_is_damage(shard, tmp_path):
    location, keys, payloads = shard
    data = bytearray((tmp_path / "s.tfrecord").read_bytes())
    data[data.rindex(keys[2])] ^= 1
    (tmp_path / "s.tfrecord").write_bytes(data)
    with pytest.raises(DatasetError, match=r"damaged TFRecord near byte [\d,]+: the payload has a wrong checksum"):
        list(contents.named(location, keys))
