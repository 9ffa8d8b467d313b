from dataclasses import replace
from itertools import groupby
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from faceflow.components.common import contents
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.record import peek
from faceflow.components.common.tfrecord import read
from faceflow.components.pack import bucket, plan, shuffle, survey, tables

IMAGES = {"s/anna": (20, ["opening"]), "s/bo": (15, []), "s/cy": (1, ["opening", "gaussian_noise"]), "s/di": (8, [])}


def shuffled(directory, faces, window_bytes, *, twice=False, grouped=False, copying=True):
    """Run the passes by hand; gives each part's payloads by name, and the copies left out."""
    folders = {name: str(directory / name) for name in ("train", "validation", "spill")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    dataset = Dataset(faces)
    surveyed = survey.count(dataset)
    taken = plan.split(surveyed, 0.2, "image", 3)
    upto = survey.thresholds(dataset, surveyed, taken, 3)
    decided = plan.make(surveyed, taken, upto, shard_bytes=15_000, grouped=grouped, seed=3)
    places = {"plan": plan.write(decided, folders["spill"]), **folders}
    contents.cut([dataset], folders["spill"])
    shards = list(enumerate(map(str, dataset.shards)))
    how = {"seed": 3, "window_bytes": window_bytes, "copying": copying}
    for shard in reversed(shards):
        if twice:
            interrupted(shuffle.scatter_shard, shard, **how, **places)
        for _ in range(1 + twice):
            shuffle.scatter_shard(shard, **how, **places)
    left_out = tables.index(folders["spill"], [path for _, path in shards], decided.buckets, copied=copying)
    for number in range(decided.buckets):
        if twice:
            interrupted(shuffle.gather_shard, number, compression="none", core_free=copying, **places)
        for _ in range(1 + twice):
            shuffle.gather_shard(number, compression="none", core_free=copying, **places)
    assert not list(directory.rglob("*.partial"))
    parts = sorted(directory.glob("*/part-*.tfrecord"))
    return {str(path.relative_to(directory)): list(read(path)) for path in parts}, left_out, decided


class Interrupted(BaseException):
    pass


def interrupted(step, *args, **kwargs):
    """Begin a step and end it at the third key or checksum, which is in the middle of its records."""
    left = [3]

    def stopping(function):
        def stop(data):
            left[0] -= 1
            if not left[0]:
                raise Interrupted
            return function(data)

        return stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(google_crc32c, "value", stopping(google_crc32c.value))
        patch.setattr(contents, "key_entry", stopping(contents.key_entry))
        with pytest.raises(Interrupted):
            step(*args, **kwargs)


def test_windows_and_repeated_tries_do_not_change_the_shards(tmp_path, augmented, monkeypatch):
    faces = augmented(IMAGES)
    whole, left_out, decided = shuffled(tmp_path / "whole", faces, 1 << 20)
    assert decided.train_shards > 2
    assert left_out > 0
    windows, _, _ = shuffled(tmp_path / "windows", faces, 2_000)
    assert windows == whole
    again, _, _ = shuffled(tmp_path / "again", faces, 5_000, twice=True)
    assert again == whole
    uncopied, same, _ = shuffled(tmp_path / "uncopied", faces, 5_000, twice=True, copying=False)
    assert (uncopied, same) == (whole, left_out)
    assert not list((tmp_path / "uncopied" / "spill").glob("spill-*"))
    monkeypatch.setattr(bucket, "_MOST_OPEN", 0)
    fetched, _, _ = shuffled(tmp_path / "fetched", faces, 5_000, copying=False)
    assert fetched == whole


def test_a_shard_is_a_range_of_hashes_in_order(tmp_path, augmented):
    parts, _, decided = shuffled(tmp_path / "out", augmented(IMAGES), 1 << 20)
    for side, shards in (("train", decided.train_shards), ("validation", decided.validation_shards)):
        for index in range(shards):
            positions = [
                stable_hash(3, "shuffle", peek(payload)[0]) for payload in parts[f"{side}/part-{index:05d}.tfrecord"]
            ]
            assert positions == sorted(positions)
            assert all(index <= position * shards / 2**64 < index + 1 for position in positions)


def test_a_shard_that_is_not_as_its_ledger_says_is_refused(tmp_path, augmented):
    records = list(Dataset(augmented({"s/anna": (1, ["opening"]), "s/bo": (2, [])}, shards=1)).records())
    anna = [record for record in records if record.identity == "s/anna"]
    families = [anna[::-1], *([record] for record in records if record not in anna)]
    lost = Dataset(augmented({}, families=families, shards=1))
    with pytest.raises(DatasetError, match="holds 's/anna/0000.jpg#opening' where its ledger names"):
        shuffled(tmp_path / "lost", lost.path, 1 << 20)


@pytest.mark.parametrize("grouped", [False, True])
def test_two_images_of_one_key_are_refused(tmp_path, augmented, grouped):
    records = list(Dataset(augmented({"s/anna": (3, []), "s/bo": (3, [])})).records())
    copied = [[record] for record in records] + [[replace(records[0], age=3.0)]]
    with pytest.raises(DatasetError, match=f"two images have the key '{records[0].key}'. Keys must be unique"):
        shuffled(tmp_path / "out", augmented({}, families=copied), 1 << 20, grouped=grouped)


def test_records_whose_hashes_meet_are_in_the_order_of_their_keys(tmp_path, augmented, monkeypatch):
    monkeypatch.setattr(shuffle, "stable_hashes", lambda _, keys: np.full(len(keys), 1 << 40, np.uint64))
    parts, _, _ = shuffled(tmp_path / "out", augmented(IMAGES), 1 << 20)
    for payloads in parts.values():
        keys = [peek(payload)[0].encode() for payload in payloads]
        assert keys == sorted(keys)


def test_identities_stand_together(tmp_path, augmented):
    parts, _, decided = shuffled(tmp_path / "out", augmented(IMAGES), 2_000, grouped=True)
    for side in ("train", "validation"):
        owners = [peek(payload)[1] for name, part in sorted(parts.items()) if side in name for payload in part]
        runs = [owner for owner, _ in groupby(owners)]
        assert len(runs) == len(set(runs))
    assert {peek(payload)[1] for part in parts.values() for payload in part} == set(IMAGES)
    assert decided.train_shards > 1
