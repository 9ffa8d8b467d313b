import hashlib
import multiprocessing
import os
import random

import pytest

from faceflow.components.common.dataset import Dataset, ShardWriter, finish, publishing
from faceflow.components.common.errors import ConservationError, DatasetError
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record


def record(name, identity="s/anna", variant=""):
    return Record(f"{identity}/{name}", identity, name.encode() * 50, 4, 5, variant=variant)


def write_part(directory, index):
    """One part: two images kept, one of them with a variant, and one dropped."""
    with ShardWriter(directory, index, stage="align") as part:
        for number in range(2):
            one = record(f"{index}-{number}.jpg", f"s/person-{index % 3}")
            part.write(one)
            if number:
                part.write(record(f"{index}-{number}.jpg#opening", one.identity, "opening"))
            part.kept(one.key, one.identity, ["", "opening"] if number else [""])
        part.dropped(f"s/x/{index}.jpg", "s/x", Reason.NO_FACE, "nothing found")


def complete(directory, parts, **changes):
    given = {
        "stage": "align",
        "settings": {"b": 1, "a": [2]},
        "template": "arcface_112",
        "inputs": {"raw_faces": "abc"},
        "images_in": 3 * parts,
    }
    return finish(directory, **(given | changes))


def files(directory):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_the_same_parts_give_the_same_bytes_whatever_the_order_and_number_of_writers(tmp_path):
    with publishing(tmp_path / "one") as directory:
        for index in range(6):
            write_part(directory, index)
        complete(directory, 6)
    shuffled = random.Random(0).sample(range(6), 6)
    with publishing(tmp_path / "many") as directory:
        with multiprocessing.get_context("spawn").Pool(3) as pool:
            pool.starmap(write_part, [(directory, index) for index in shuffled])
        complete(directory, 6)
    assert files(tmp_path / "one") == files(tmp_path / "many")
    assert list(files(tmp_path / "one")) == [
        *(f"faces-{index:05d}-of-00006.tfrecord" for index in range(6)), "ledger.parquet", "manifest.json"
    ]  # fmt: skip


def test_a_part_written_twice_counts_once(tmp_path):
    with publishing(tmp_path / "set") as directory:
        write_part(directory, 0)
        write_part(directory, 0)
        assert complete(directory, 1).images == 3


def test_what_was_written_can_be_read(tmp_path):
    attached = tmp_path / "pairs.csv"
    attached.write_text("key_a,key_b,same,fold\n")
    with publishing(tmp_path / "set") as directory:
        write_part(directory, 0)
        write_part(directory, 1)
        complete(directory, 2, attachments=[attached], licences=["b", "a", "b"])
    dataset = Dataset(tmp_path / "set")
    manifest = dataset.manifest
    assert (manifest.images, manifest.images_in, manifest.identities) == (6, 6, 2)
    assert manifest.drops == {"no_face": 2}
    assert manifest.variants == {"": 4, "opening": 2}
    assert manifest.licences == ["a", "b"]
    assert [one.key for one in dataset.records()][:3] == [
        "s/person-0/0-0.jpg", "s/person-0/0-1.jpg", "s/person-0/0-1.jpg#opening"
    ]  # fmt: skip
    assert [one.key for one in dataset.records(1)][0] == "s/person-1/1-0.jpg"
    assert dataset.attachment("pairs.csv").read_text() == attached.read_text()
    assert dataset.attachment("other.csv") is None
    rows = dataset.ledger().to_pylist()
    assert [row["outcome"] for row in rows] == ["kept", "kept", "dropped"] * 2
    assert rows[2]["reason"] == "no_face" and rows[2]["detail"] == "nothing found"
    assert rows[1]["variants"] == ["", "opening"]


def test_an_empty_dataset_is_a_dataset(tmp_path):
    with publishing(tmp_path / "none") as directory:
        complete(directory, 0)
    dataset = Dataset(tmp_path / "none")
    assert dataset.manifest.images == 0 and list(dataset.records()) == [] and dataset.ledger().num_rows == 0


def test_a_lost_image_fails_the_stage_and_publishes_nothing(tmp_path):
    told = "given 4 images but accounts for 2 kept and 1"
    with pytest.raises(ConservationError, match=told), publishing(tmp_path / "set") as directory:
        write_part(directory, 0)
        complete(directory, 1, images_in=4)
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_the_ledger_does_not_know_fails_the_stage(tmp_path):
    told = "wrote 2 images where its ledger lists 1"
    with pytest.raises(ConservationError, match=told), publishing(tmp_path / "set") as directory:
        with ShardWriter(directory, 0, stage="align") as part:
            part.write(record("a.jpg"))
            part.write(record("b.jpg"))
            part.kept("s/anna/a.jpg", "s/anna")
        complete(directory, 1, images_in=1)


def test_a_failed_part_leaves_nothing(tmp_path):
    with publishing(tmp_path / "set") as directory:
        with pytest.raises(RuntimeError), ShardWriter(directory, 0, stage="align") as part:
            part.write(record("a.jpg"))
            raise RuntimeError
        assert list(directory.iterdir()) == []
        complete(directory, 0)


def kill_half_way(path):
    with publishing(path) as directory:
        write_part(directory, 0)
        os._exit(9)


def test_a_killed_stage_leaves_nothing_that_looks_finished_and_the_next_attempt_starts_clean(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=kill_half_way, args=(tmp_path / "set",))
    process.start()
    process.join()
    assert process.exitcode == 9
    assert not (tmp_path / "set").exists()
    with publishing(tmp_path / "set") as directory:
        assert list(directory.iterdir()) == []
        write_part(directory, 1)
        complete(directory, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_an_output_that_exists_is_not_overwritten(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("precious")
    with pytest.raises(DatasetError, match="exists already"), publishing(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("harm", ["missing manifest", "broken manifest", "other version", "missing shard", "cut shard"])
def test_a_damaged_dataset_is_refused_with_its_name(tmp_path, harm):
    with publishing(tmp_path / "set") as directory:
        write_part(directory, 0)
        complete(directory, 1)
    manifest, shard = tmp_path / "set" / "manifest.json", tmp_path / "set" / "faces-00000-of-00001.tfrecord"
    text = manifest.read_text()
    {
        "missing manifest": manifest.unlink,
        "broken manifest": lambda: manifest.write_text(text[:-20]),
        "other version": lambda: manifest.write_text(text.replace('"schema_version": 1', '"schema_version": 99')),
        "missing shard": shard.unlink,
        "cut shard": lambda: shard.write_bytes(shard.read_bytes()[:-1]),
    }[harm]()
    with pytest.raises(DatasetError, match=str(tmp_path / "set")):
        Dataset(tmp_path / "set")


def test_the_fingerprint_follows_the_contents_and_nothing_else(tmp_path):
    prints = []
    for name, index, template in (("a", 0, "t"), ("b", 0, "t"), ("c", 1, "t"), ("d", 0, "u")):
        with publishing(tmp_path / name) as directory:
            write_part(directory, index)
            complete(directory, 1, template=template, settings={"name": name})
        prints.append(Dataset(tmp_path / name).fingerprint)
    assert prints[0] == prints[1] and len(set(prints)) == 3
