from dataclasses import replace

import pytest

from faceflow.components.common.dataset import Dataset
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.record import peek
from faceflow.components.common.tfrecord import read
from faceflow.components.pack import plan, shuffle, survey
from faceflow.components.pack.shuffle import shuffle_hash

IMAGES = {"s/anna": (20, ["opening"]), "s/bo": (15, []), "s/cy": (1, ["opening", "gaussian_noise"]), "s/di": (8, [])}


def shuffled(directory, faces, window_bytes, *, twice=False):
    """Run the passes by hand; gives each part's payloads by name, and the copies left out."""
    directory.mkdir()
    for side in ("train", "validation"):
        (directory / side).mkdir()
    shards = shuffle.numbered(Dataset(faces).shards)
    for shard in shards:
        survey.survey_shard(shard, directory=str(directory), seed=3)
    decided = plan.make(survey.merge(str(directory), len(shards)), 0.2, 15_000, 3)
    places = {"plan": str(plan.write(decided, directory)), "spill": str(directory), "output": str(directory)}
    for shard in reversed(shards):
        for _ in range(1 + twice):
            shuffle.scatter_shard(shard, seed=3, window_bytes=window_bytes, **places)
    left_out = shuffle.index_spills(str(directory), len(shards))
    for bucket in range(decided.buckets):
        for _ in range(1 + twice):
            shuffle.gather_shard(bucket, **places)
    parts = sorted(directory.glob("*/part-*.tfrecord"))
    return {str(path.relative_to(directory)): list(read(path)) for path in parts}, left_out, decided


def test_windows_and_repeated_tries_do_not_change_the_shards(tmp_path, augmented):
    faces = augmented(IMAGES)
    whole, left_out, decided = shuffled(tmp_path / "whole", faces, 1 << 20)
    assert decided.train_shards > 2
    assert left_out > 0
    windows, _, _ = shuffled(tmp_path / "windows", faces, 2_000)
    assert windows == whole
    again, _, _ = shuffled(tmp_path / "again", faces, 5_000, twice=True)
    assert again == whole


def test_a_shard_is_a_range_of_hashes_in_order(tmp_path, augmented):
    parts, _, decided = shuffled(tmp_path / "out", augmented(IMAGES), 1 << 20)
    for side, shards in (("train", decided.train_shards), ("validation", decided.validation_shards)):
        for index in range(shards):
            positions = [shuffle_hash(3, peek(payload)[0]) for payload in parts[f"{side}/part-{index:05d}.tfrecord"]]
            assert positions == sorted(positions)
            assert all(index <= position * shards / 2**64 < index + 1 for position in positions)


def test_a_copy_without_its_source_image_is_refused(tmp_path, augmented):
    families = [list(Dataset(augmented({"s/anna": (2, ["opening"]), "s/bo": (2, [])}, shards=1)).records())]
    families[0][0], families[0][1] = families[0][1], families[0][0]
    lost = augmented({}, families=families, shards=1)
    with pytest.raises(DatasetError, match=r"#opening' is an augmented copy \(opening\), but the image before it"):
        survey.survey_shard((0, str(Dataset(lost).shards[0])), directory=str(tmp_path), seed=0)


def test_two_images_of_one_key_are_refused(tmp_path, augmented):
    records = list(Dataset(augmented({"s/anna": (3, []), "s/bo": (3, [])})).records())
    copied = [[record] for record in records] + [[replace(records[0], age=3.0)]]
    shards = shuffle.numbered(Dataset(augmented({}, families=copied)).shards)
    for shard in shards:
        survey.survey_shard(shard, directory=str(tmp_path), seed=0)
    with pytest.raises(DatasetError, match=f"two images of identity '{records[0].identity}' have the same key"):
        survey.merge(str(tmp_path), len(shards))
