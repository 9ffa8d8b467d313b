"""Labeled Faces in the Wild: an archive of ``lfw/<Name>/<Name>_0001.jpg`` and the protocol's ``pairs.txt``.

The first line of ``pairs.txt`` gives the number of folds and of pairs of each kind in a fold; then each fold lists its
pairs of one person, ``name i j``, and of two, ``name1 i name2 j``, tab-separated (Huang et al., technical report 07-49,
2007).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from faceflow.components.common.synthetic.archive import ArchiveWriter
from faceflow.components.common.synthetic.cast import Sitter
from faceflow.components.common.synthetic.layouts.order import AttributeTable, Order
from faceflow.components.common.synthetic.names import full_names
from faceflow.components.common.synthetic.pairs import Fold, make_folds
from faceflow.components.common.synthetic.studio import Job

SIZE_PX = 250


def write(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write ``lfw.tgz``, ``pairs.txt`` and the attributes into a folder; returns the source's fields."""
    cast = order.cast()
    people = sorted(zip(full_names(cast), cast, strict=True))
    names = [name for name, _ in people]
    folds = make_folds([sitter.images for _, sitter in people], order.seed)
    archive, pairs = out / "lfw.tgz", out / "pairs.txt"
    pairs.write_text(_pairs_text(names, folds), encoding="utf-8")
    with ArchiveWriter(archive) as members, AttributeTable(out) as attributes:
        for picture in order.pictures(_jobs(people), sum(sitter.images for sitter in cast)):
            members.add(picture.job.path, picture.jpeg)
            attributes.add(picture.job.path, picture.gender, picture.age)
    return [{"kind": "lfw", "archive": archive.name, "pairs": pairs.name}]


def _jobs(people: Sequence[tuple[str, Sitter]]) -> Iterator[Job]:
    for name, sitter in people:
        for index in range(sitter.images):
            yield Job(sitter.seed, index, f"lfw/{name}/{name}_{index + 1:04d}.jpg")


def _pairs_text(names: Sequence[str], folds: Sequence[Fold]) -> str:
    lines = [f"{len(folds)}\t{len(folds[0].same)}"]
    for fold in folds:
        lines += [f"{names[i]}\t{a + 1}\t{b + 1}" for (i, a), (_, b) in fold.same]
        lines += [f"{names[i]}\t{a + 1}\t{names[j]}\t{b + 1}" for (i, a), (j, b) in fold.different]
    return "\n".join(lines) + "\n"
