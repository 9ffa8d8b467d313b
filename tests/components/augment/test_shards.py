import errno
import hashlib
import json
import os
from pathlib import Path

import google_crc32c
import pytest

from faceflow.components.augment import census, plan
from faceflow.components.augment.policy import Policy
from faceflow.components.augment.shards import augment_shard
from faceflow.components.common import contents, files
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError

POLICY = Policy.parse("n > 9: sample(7) | n > 3: keep, opening, gaussian_noise | n > 2: keep | drop")
IMAGES = {"anna": 12, "bo": 10, "cy": 6, "di": 5, "ed": 5, "fay": 3, "gus": 2, "hal": 1}
# Where a first try ends: amid the records, before the held-out faces are complete, and when only they are.
ENDS = [(google_crc32c, "value", 15), (files, "write_bytes", 1), (files, "write_bytes", 2)]


class Interrupted(BaseException):
    pass


def interrupted(step, owner, name, call):
    """Begin a step, and end it at that call of a function which it needs."""
    left = [call]
    real = getattr(owner, name)

    def stop(*args):
        left[0] -= 1
        if not left[0]:
            raise Interrupted
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, stop)
        with pytest.raises(Interrupted):
            step()


def augmented(directory, faces, *, materialize, end=None, policy=POLICY, holdout=0.3):
    """Run the shards by hand; gives the bytes of every file that is there afterwards."""
    folders = {name: str(directory / name) for name in ("augmented", "held_out")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    dataset = Dataset(faces)
    decided = plan.make(census.count([dataset], seed=3, sample=7), policy, holdout, 3)
    settings = {
        "policy": str(policy),
        "seed": 3,
        "jpeg_quality": 90,
        "materialize": materialize,
        "core_free": materialize,
        **folders,
    }
    settings["plan"] = plan.write(decided, str(directory))
    settings["scratch"] = str(directory)
    contents.cut([dataset], directory)

    for shard in list(enumerate(map(str, dataset.shards)))[:: -1 if end else 1]:

        def step(shard=shard):
            augment_shard(shard, **settings)

        if end:
            interrupted(step, *end)
            assert not (directory / "augmented" / f"part-{shard[0]:05d}.json").exists()
            step()
        step()
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("materialize", [True, False])
def test_an_interrupted_try_and_a_repeated_one_do_not_change_the_shards(tmp_path, aligned, monkeypatch, materialize):
    faces = aligned("one", IMAGES, shards=2)
    # Every record goes to the file at once, so that an interrupted try leaves something behind to clear.
    monkeypatch.setattr("faceflow.components.common.tfrecord._BLOCK", 1)
    whole = augmented(tmp_path / "whole", faces, materialize=materialize)
    assert len(whole) == 1 + 2 + 2 * 2 * len(("tfrecord", "ledger.parquet", "json"))
    assert all(whole[f"{side}/part-{index:05d}.tfrecord"] for side in ("augmented", "held_out") for index in (0, 1))
    for number, end in enumerate(ENDS):
        assert augmented(tmp_path / str(number), faces, materialize=materialize, end=end) == whole


@pytest.mark.parametrize("linking", [True, False])
def test_a_shard_that_loses_nothing_is_passed_on_whole(tmp_path, aligned, monkeypatch, linking):
    faces = aligned("one", IMAGES, shards=2)
    if not linking:
        monkeypatch.setattr(os, "link", refuse)
    keep = {"policy": Policy.parse("keep"), "holdout": 0, "materialize": True}
    written = augmented(tmp_path / "out", faces, **keep)
    for index, shard in enumerate(Dataset(faces).shards):
        part = tmp_path / "out" / "augmented" / f"part-{index:05d}.tfrecord"
        assert part.read_bytes() == shard.read_bytes()
        assert part.samefile(shard) == linking
        told = json.loads(part.with_suffix(".json").read_text())
        assert told["sha256"] == hashlib.sha256(shard.read_bytes()).hexdigest()
        assert (told["records"], told["kept"], told["variants"]) == (22, 22, {"": 22})
    # A try that is repeated links again.
    assert augmented(tmp_path / "again", faces, **keep, end=(files, "write_bytes", 1)) == written


def refuse(*_):
    raise OSError(errno.EXDEV, "another disk")


def test_a_damaged_shard_is_not_passed_on(tmp_path, aligned):
    faces = aligned("one", IMAGES, shards=1)
    [shard] = Dataset(faces).shards
    data = bytearray(shard.read_bytes())
    data[300] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DatasetError, match=f"{shard.name}: damaged TFRecord near byte 0: the payload has a wrong"):
        augmented(tmp_path / "out", faces, policy=Policy.parse("keep"), holdout=0, materialize=True)
    assert not list((tmp_path / "out" / "augmented").iterdir())
