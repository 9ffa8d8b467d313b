"""Whole runs of the training pipeline through the command line, at a size that takes about two minutes."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

TINY = {
    "pipeline": "training",
    "parameters": {
        "sources": [
            {
                "kind": "synthetic",
                "layout": "trillion_pairs",
                "identities": 8,
                "images_per_identity": [3, 8],
                "seed": 1,
                "size_px": 112,
            }
        ],
        "evaluate_sources": [
            {
                "kind": "synthetic",
                "name": "lfw",
                "layout": "lfw",
                "identities": 20,
                "images_per_identity": 2,
                "seed": 2,
                "size_px": 160,
            }
        ],
        "augment_policy": "n > 6: sample(6) | n > 5: keep | n > 3: keep, opening | drop",
        "pack_validation_fraction": 0.1,
        "train_epochs": 2,
        "train_input_size_px": 32,
        "train_batch_size": 16,
        "evaluate_options": {"max_missing_pairs_fraction": 0.5},
    },
}
ALWAYS = {"Probe source", "Probe evaluation set"}  # never cached
STAGES = {
    "Download source", "Download evaluation set", "Align source", "Align evaluation set",
    "Augment by identity", "Pack shards", "Train embedding model", "Evaluate",
}  # fmt: skip


def faceflow(*words: object, cwd: Path) -> str:
    """Run the command as a person would, with its output in a pipe; returns what it printed."""
    command = [str(Path(sys.executable).with_name("faceflow")), *map(str, words)]
    environment = {**os.environ, "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def states(printed: str) -> dict[str, str]:
    """The last state of each stage, from the lines that a run prints where there is no terminal."""
    found = re.findall(r"^\d\d:\d\d:\d\d (.+?): (done|cached|failed|running)", printed, re.MULTILINE)
    return dict(found)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    path = tmp_path_factory.mktemp("e2e")
    (path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture(scope="module")
def first(place):
    return faceflow("run", "tiny.yaml", cwd=place)


def artifacts(place: Path, name: str) -> list[Path]:
    return sorted(place.glob(f"runs/*/artifacts/**/{name}"))


def test_a_first_run_executes_every_stage_and_ends_with_scores_and_a_report(place, first):
    assert {stage for stage, state in states(first).items() if state == "done"} == ALWAYS | STAGES
    report = re.search(r"(\S*runs/\S+/report\.html)", first)
    assert report, first
    page = (place / report.group(1)).read_text()
    for chapter in ("Align", "Augment", "Pack", "Train", "Evaluat"):
        assert chapter in page
    scores = json.loads(artifacts(place, "scores")[0].read_text())["sets"]
    assert [each["name"] for each in scores] == ["lfw"]
    assert scores[0]["folds"] == 10
    assert 0 <= scores[0]["accuracy"] <= 1 and set(scores[0]["baselines"]) == {"raw_pixels", "raw_pixels_centred"}


def test_no_image_is_lost_between_the_stages(place, first):
    def manifests(name):
        return [json.loads(path.read_text()) for path in artifacts(place, f"{name}/manifest.json")]

    raw, aligned, augmented = manifests("raw_faces"), manifests("faces"), manifests("augmented_faces")
    assert sorted(each["images_in"] for each in aligned) == sorted(each["images"] for each in raw)
    assert augmented[0]["images_in"] in [each["images"] for each in aligned]
    for manifest in raw + aligned + augmented:
        assert manifest["variants"][""] == manifest["images_in"] - sum(manifest["drops"].values())


def test_a_second_run_is_answered_from_the_cache(place, first):
    printed = faceflow("run", "tiny.yaml", cwd=place)
    assert {stage for stage, state in states(printed).items() if state == "cached"} == STAGES
    assert {stage for stage, state in states(printed).items() if state == "done"} == ALWAYS


def test_rerunning_one_stage_executes_it_and_what_depends_on_it(place, first):
    printed = faceflow("run", "tiny.yaml", "--set", "rerun_pack=2", cwd=place)
    found = states(printed)
    assert {stage for stage, state in found.items() if state == "done"} == ALWAYS | {
        "Pack shards", "Train embedding model", "Evaluate"
    }  # fmt: skip
    assert {stage for stage, state in found.items() if state == "cached"} == {
        "Download source", "Download evaluation set", "Align source", "Align evaluation set", "Augment by identity"
    }  # fmt: skip
    shards = artifacts(place, "packed/train/faces-00000-of-00001.tfrecord")
    assert len(shards) == 2 and shards[0].read_bytes() == shards[1].read_bytes()


def test_a_folder_of_ones_own_is_scored_on_identities_that_were_held_out(place):
    from faceflow.components.common.synthetic.render import render

    photos = place / "my photos"
    for identity, name in enumerate(["Ann Lee", "Zoë", "Bo", "Cy", "Dee", "Eva", "Fay", "Gus"]):
        (photos / name).mkdir(parents=True)
        for number in range(6):
            face = render(500 + identity, number, 160)
            Image.fromarray(np.asarray(face.image)).save(photos / name / f"{number}.jpg", quality=92)
    (photos / "Bo" / "notes.jpg").write_text("I am a text file")
    printed = faceflow(
        "run", "folder", "--source", photos, "--set", "train_epochs=1", "--set", "train_input_size_px=32",
        cwd=place,
    )  # fmt: skip
    assert "not an image 1" in printed
    scores = json.loads(max(artifacts(place, "scores"), key=os.path.getmtime).read_text())["sets"]
    assert len(scores) == 1 and scores[0]["identities"] == 2 and scores[0]["folds_note"]
    trained = max(artifacts(place, "packed/labels.csv"), key=os.path.getmtime)
    assert len(list(csv.reader(trained.open()))) - 1 == 6
