from pathlib import Path

import google_crc32c
import pytest

from faceflow.components.augment import census, plan
from faceflow.components.augment.policy import Policy
from faceflow.components.augment.shards import augment_shard
from faceflow.components.common import files
from faceflow.components.common.dataset import Dataset

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


def augmented(directory, faces, *, materialize, end=None):
    """Run the shards by hand; gives the bytes of every file that is there afterwards."""
    folders = {name: str(directory / name) for name in ("augmented", "held_out")}
    for folder in folders.values():
        Path(folder).mkdir(parents=True)
    dataset = Dataset(faces)
    decided = plan.make(census.count([dataset], seed=3, sample=7), POLICY, 0.3, 3)
    settings = {"policy": str(POLICY), "seed": 3, "jpeg_quality": 90, "materialize": materialize, **folders}
    settings["plan"] = plan.write(decided, str(directory))

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
    assert len(whole) == 1 + 2 * 2 * len(("tfrecord", "ledger.parquet", "json"))
    assert all(whole[f"{side}/part-{index:05d}.tfrecord"] for side in ("augmented", "held_out") for index in (0, 1))
    for number, end in enumerate(ENDS):
        assert augmented(tmp_path / str(number), faces, materialize=materialize, end=end) == whole
