"""MegaFace challenge 1: FaceScrub probes, Flickr distractors, and the lists of both that the development kit reads.

Pictures lie in ``facescrub/<Person>/<Person>_<id>.jpg`` and ``megaface/<prefix>/<Flickr user>/<photo>_<face>.jpg``. The
probe list holds ``path`` and ``id``, a distractor list ``megaface_features_list.json_<size>_<set>`` only ``path``;
paths are relative to the folder of the set.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from faceflow.components.common.hashing import generator, stable_hash
from faceflow.components.common.synthetic.cast import Sitter, identity_seed
from faceflow.components.common.synthetic.layouts.order import AttributeTable, Order
from faceflow.components.common.synthetic.names import full_names
from faceflow.components.common.synthetic.studio import Job

SIZE_PX = 250
DISTRACTORS_PER_PROBE_IDENTITY = 10
"""How many distractor images there are for each probe identity."""

_SINGLE_SHARE = 0.6
"""Share of the distractor people with one image; the others have two or three. MegaFace shows 690,000 in a million."""


def write(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write both trees, the lists and the attributes into a folder; returns the fields of both sources.

    ``identities`` and ``images_per_identity`` are FaceScrub's; ten distractor images come with every identity.
    """
    probes = list(_probes(order))
    distractors = list(_distractors(order.seed, order.identities * DISTRACTORS_PER_PROBE_IDENTITY))
    with AttributeTable(out) as attributes:
        for picture in order.pictures(chain(probes, distractors), len(probes) + len(distractors)):
            file = out / picture.job.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture.jpeg)
            attributes.add(picture.job.path, picture.gender, picture.age)
    probe_list = out / "facescrub_features_list.json"
    paths = [_below(job) for job in probes]
    probe_list.write_text(json.dumps({"path": paths, "id": [path.split("/")[0] for path in paths]}))
    shuffled = generator(order.seed, "distractor lists").permutation(len(distractors))
    for size in _list_sizes(len(distractors)):
        distractor_list = out / f"megaface_features_list.json_{size}_1"
        distractor_list.write_text(json.dumps({"path": [_below(distractors[k]) for k in shuffled[:size]]}))
    return [
        {"kind": "facescrub", "path": "facescrub", "list": probe_list.name},
        {"kind": "megaface", "path": "megaface", "list": distractor_list.name},
    ]


def _below(job: Job) -> str:
    return job.path.split("/", 1)[1]


def _probes(order: Order) -> Iterator[Job]:
    cast = order.cast()
    for name, sitter in sorted(zip(full_names(cast), cast, strict=True)):
        first = stable_hash(sitter.seed, "file") % 80_000
        for index in range(sitter.images):
            yield Job(sitter.seed, index, f"facescrub/{name}/{name}_{first + index}.jpg")


def _distractors(seed: int, count: int) -> list[Job]:
    """The distractors, in the order of their paths; no person among them is a probe."""
    people: dict[str, Sitter] = {}
    left, index = count, 0
    while left:
        person = identity_seed(seed, index, "distractor")
        rng = generator(person, "album")
        images = min(left, 1 if rng.uniform() < _SINGLE_SHARE else int(rng.integers(2, 4)))
        user = f"{rng.integers(10_000_000, 99_999_999)}@N{rng.integers(0, 10):02d}"
        if user not in people:
            people[user] = Sitter(person, images)
            left -= images
        index += 1
    jobs = []
    for user, sitter in people.items():
        photo = stable_hash(sitter.seed, "photo") % 9_000_000_000 + 1_000_000_000
        for k in range(sitter.images):
            jobs.append(Job(sitter.seed, k, f"megaface/{user[:3]}/{user}/{photo + 7 * k}_{k}.jpg"))
    return sorted(jobs, key=lambda job: job.path)


def _list_sizes(count: int) -> list[int]:
    """10, 100, ... as far as the distractors go, and all of them."""
    sizes = [10**k for k in range(1, 7) if 10**k < count]
    return [*sizes, count]
