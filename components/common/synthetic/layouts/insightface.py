"""InsightFace's two containers of aligned 112x112 crops: a RecordIO training set and a verification ``.bin``.

RecordIO (``mxnet/recordio.py`` and dmlc-core's ``recordio.h``): each record is the magic number, a word with its part
flag and length, the data and padding to 4 bytes; data that holds the magic number is split there. The data of an image
is a header ``<IfQQ`` (flag, label, id, second id) and a JPEG. Record 0 says where the identities' records begin and
end; these follow the images and hold, for each identity, the range of its images.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any

from faceflow.components.common.synthetic.cast import Sitter
from faceflow.components.common.synthetic.identity import Gender
from faceflow.components.common.synthetic.layouts.order import AttributeTable, Order
from faceflow.components.common.synthetic.pairs import make_folds
from faceflow.components.common.synthetic.studio import CROP, Job

SIZE_PX = 250
"""Side of the pictures that the crops are cut from."""

MAGIC = 0xCED7230A
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_LENGTH_BITS = 29


def write_rec(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write ``train.rec``, ``train.idx``, ``property`` and the attributes into a folder; returns the source's fields.

    The attributes' paths are the records' numbers.
    """
    cast = order.cast()
    ends = list(accumulate((sitter.images for sitter in cast), initial=1))
    first_identity, labels = ends[-1], (label for label, sitter in enumerate(cast) for _ in range(sitter.images))
    (out / "property").write_text(f"{len(cast)},{CROP.height},{CROP.width}")
    with RecordWriter(out / "train.rec", out / "train.idx") as records, AttributeTable(out) as attributes:
        records.write(0, _header(0, [first_identity, first_identity + len(cast)]))
        pictures = order.pictures(_jobs(cast), first_identity - 1, crop=True)
        for number, (label, picture) in enumerate(zip(labels, pictures, strict=True), start=1):
            records.write(number, _header(number, [label]) + picture.jpeg)
            attributes.add(str(number), picture.gender, picture.age)
        for label, (begin, end) in enumerate(pairwise(ends)):
            records.write(first_identity + label, _header(first_identity + label, [begin, end]))
    return [{"kind": "insightface", "path": "."}]


def write_bin(out: Path, order: Order) -> list[dict[str, Any]]:
    """Write ``lfw.bin`` and the attributes into a folder; returns the source's fields.

    The file is the pickle of a list of 2 N encoded crops and a list of N booleans. Only images that some pair shows are
    rendered, at most 12,000, and held until the file is written: the format is one pickle. The attributes' paths are
    the images' numbers in the list.
    """
    cast = order.cast()
    folds = make_folds([sitter.images for sitter in cast], order.seed)
    pairs = [
        (pair, same) for fold in folds for same in (True, False) for pair in (fold.same if same else fold.different)
    ]
    shown = sorted({shot for (a, b), _ in pairs for shot in (a, b)})
    jobs = (Job(cast[who].seed, which, "") for who, which in shown)
    crops: dict[tuple[int, int], tuple[bytes, Gender, float]] = {}
    for shot, picture in zip(shown, order.pictures(jobs, len(shown), crop=True), strict=True):
        crops[shot] = picture.jpeg, picture.gender, picture.age
    sequence = [crops[shot] for (a, b), _ in pairs for shot in (a, b)]
    with AttributeTable(out) as attributes:
        for index, (_, gender, age) in enumerate(sequence):
            attributes.add(str(index), gender, age)
    with open(out / "lfw.bin", "wb") as file:
        pickle.dump(([jpeg for jpeg, _, _ in sequence], [same for _, same in pairs]), file, protocol=3)
    return [{"kind": "insightface", "path": "lfw.bin"}]


def _jobs(cast: Sequence[Sitter]) -> Iterator[Job]:
    for sitter in cast:
        for index in range(sitter.images):
            yield Job(sitter.seed, index, "")


def _header(number: int, labels: Sequence[float]) -> bytes:
    """The header of a record: one label stands in it, several follow it and are counted in the flag."""
    if len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], number, 0)
    return struct.pack(f"<IfQQ{len(labels)}f", len(labels), 0, number, 0, *labels)


class RecordWriter:
    """Writes a RecordIO file and its text index of ``number, tab, byte offset`` lines."""

    def __init__(self, records: Path, index: Path) -> None:
        """Create both files."""
        self._records = open(records, "wb")  # noqa: SIM115
        self._index = open(index, "w", newline="\n")  # noqa: SIM115

    def write(self, number: int, data: bytes) -> None:
        """Append a record under its number."""
        self._index.write(f"{number}\t{self._records.tell()}\n")
        magic = struct.pack("<I", MAGIC)
        parts: list[bytes] = []
        begin = 0
        at = data.find(magic)
        while at >= 0:
            if at % 4 == 0:  # only an aligned magic number could be taken for the start of a record
                parts.append(data[begin:at])
                begin = at + 4
            at = data.find(magic, at + (4 if at % 4 == 0 else 1))
        parts.append(data[begin:])
        for index, part in enumerate(parts):
            flag = _WHOLE if len(parts) == 1 else _FIRST if not index else _LAST if part is parts[-1] else _MIDDLE
            self._records.write(magic + struct.pack("<I", flag << _LENGTH_BITS | len(part)) + part)
            self._records.write(b"\0" * (-len(part) % 4))

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._records.close()
        self._index.close()
