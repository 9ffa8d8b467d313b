"""The Trillion Pairs training sets: one archive of aligned pictures and a text file of labels and landmarks.

The archive holds ``<set>/<Freebase id>/<n>-FaceId-<m>_align.jpg``. A line of the landmark file reads
``<path> <label> x1 y1 .. x5 y5``. As in the real celebrity set, labels go on from where the msra set ends and skip
numbers (93,979 identities share 109,444 of them), so that whoever takes a label for a class index is caught.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faceflow.components.common.hashing import generator, stable_hash
from faceflow.components.common.synthetic.archive import ArchiveWriter
from faceflow.components.common.synthetic.cast import Sitter
from faceflow.components.common.synthetic.layouts.order import AttributeTable, Order
from faceflow.components.common.synthetic.studio import Job

SIZE_PX = 400
SET_NAME = "celebrity"
FIRST_LABEL = 86_876
_SKIPPED_PER_IDENTITY = 109_444 / 93_979 - 1
_ID_LETTERS = "0123456789bcdfghjklmnpqrstvwxyz_"


def write(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write ``celebrity.tar.gz``, ``celebrity_lmk`` and the attributes into a folder; returns the source's fields."""
    people = sorted(zip(_freebase_ids(order.cast()), order.cast(), strict=True))
    label_of = dict(zip((name for name, _ in people), _labels(len(people), order.seed), strict=True))
    total = sum(sitter.images for _, sitter in people)
    archive, landmarks = out / f"{SET_NAME}.tar.gz", out / f"{SET_NAME}_lmk"
    with (
        ArchiveWriter(archive) as members,
        open(landmarks, "w", encoding="utf-8", newline="\n") as lines,
        AttributeTable(out) as attributes,
    ):
        for picture in order.pictures(_jobs(people), total):
            path = picture.job.path
            members.add(path, picture.jpeg)
            points = " ".join(f"{value:.2f}" for value in picture.landmarks.ravel())
            lines.write(f"{path} {label_of[path.split('/')[1]]} {points}\n")
            attributes.add(path, picture.gender, picture.age)
    return [{"kind": "trillion_pairs", "archive": archive.name, "landmarks": landmarks.name}]


def _jobs(people: list[tuple[str, Sitter]]) -> Iterator[Job]:
    for name, sitter in people:
        numbers = generator(sitter.seed, "files").choice(max(100, 2 * sitter.images), sitter.images, replace=False)
        files = sorted(f"{n}-FaceId-{stable_hash(sitter.seed, int(n)) % 7 // 5}_align.jpg" for n in numbers)
        for index, file in enumerate(files):
            yield Job(sitter.seed, index, f"{SET_NAME}/{name}/{file}")


def _freebase_ids(sitters: list[Sitter]) -> list[str]:
    """Machine ids such as ``m.0107_f``, all different."""
    names: dict[str, None] = {}
    for sitter in sitters:
        digits = sitter.seed
        name = ""
        while not name or name in names:
            letters = [_ID_LETTERS[digits >> 5 * k & 31] for k in range(5 if digits & 1 else 6)]
            name, digits = "m.0" + "".join(letters), stable_hash(digits, "another id")
        names[name] = None
    return list(names)


def _labels(identities: int, seed: int) -> list[int]:
    """Ascending labels with gaps; the second one always skips a number, so that even a tiny set has a gap."""
    skipped = generator(seed, "label gaps").poisson(_SKIPPED_PER_IDENTITY, identities)
    skipped[0] = 0
    skipped[1:2] = np.maximum(skipped[1:2], 1)
    return [FIRST_LABEL + index + int(gaps) for index, gaps in enumerate(np.cumsum(skipped))]
