"""Cleaning before the policy: images of identities that evaluation also holds, near-duplicates, and outliers.

Every image is measured once, shard by shard: its perceptual hashes, and its embedding by a model. What was measured is
filed by a hash of the identity, so that all of an identity comes together in one of several files, which are decided
one by one: no image travels, and memory holds the measurements of one file. The decisions hang on keys and
measurements alone, never on the order of the images or on the number of workers.

The rules, in this order, each optional:

- an identity named in a list, or with a centre near that of an evaluation identity (cosine above 0.4 for MegaFace's
  FaceScrub probes: Deng et al., ArcFace, 2019), is dropped whole;
- of images of one identity whose perceptual hashes are close, the one whose key has the lowest hash stays;
- an image far from the centre of its identity's images is dropped. The centre is that of the half of them that is
  nearest to the centre of all, so that the outliers do not draw it towards themselves.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.augment.embedding import Embedder, centre, embedder
from faceflow.components.augment.perceptual import BITS, MARGINS, distances, perceptual_hashes
from faceflow.components.augment.variants import pixels_of
from faceflow.components.common import files
from faceflow.components.common.hashing import stable_hash
from faceflow.components.common.ledger import Reason
from faceflow.components.common.model import normalise
from faceflow.components.common.record import Record
from faceflow.components.common.tfrecord import read
from faceflow.components.common.workplace import Workplace

IMAGES_A_FILE = 250_000
"""Images whose measurements are held in memory together, 1 KB each with an embedding of 512 values."""

_FEWEST_FOR_OUTLIERS = 4
_BATCH = 128
_EXAMPLES = 6
_GROUP_ROWS = 8192
_HASHES = pa.list_(pa.uint64(), len(MARGINS) * BITS // 64)
_DROPS = pa.schema(
    [("shard", pa.int32()), ("key", pa.string()), ("identity", pa.string()), ("reason", pa.string())]
    + [("detail", pa.string())]
)


@dataclass(frozen=True)
class Rules:
    """What is cleaned away, and how.

    Attributes:
        seed: The stage's seed.
        names: Identities that evaluation also holds, as :func:`name_of` writes them.
        duplicate_distance: Largest distance of two perceptual hashes, in bits, that makes two images one; None keeps
            duplicates.
        model: Location of the model that embeds; empty for none.
        overlap_cosine: Identities with a centre nearer to an evaluation identity's than this are dropped.
        outlier_cosine: Images farther from their identity's centre than this are dropped; None keeps outliers.
        files: How many files what was measured is spread over.
    """

    seed: int
    names: frozenset[str] = frozenset()
    duplicate_distance: int | None = None
    model: str = ""
    overlap_cosine: float = 0.4
    outlier_cosine: float | None = None
    files: int = 1


@dataclass(frozen=True)
class Drop:
    """An image that cleaning drops.

    Attributes:
        shard: The number of its shard.
        key: Its key.
        identity: Whose face it is said to be.
        reason: Why it is dropped.
        detail: What was found.
        kept: Of a duplicate, shard and key of the image that stays.
    """

    shard: int
    key: str
    identity: str
    reason: Reason
    detail: str
    kept: tuple[int, str] | None = None


@dataclass
class Summary:
    """What cleaning found.

    Attributes:
        images: Images dropped, by reason.
        identities: Identities that lost an image, by reason.
        examples: A few drops of each reason.
    """

    images: Counter[str] = field(default_factory=Counter)
    identities: Counter[str] = field(default_factory=Counter)
    examples: list[Drop] = field(default_factory=list)


@dataclass(frozen=True)
class Cleaned:
    """Where the drops are written.

    Attributes:
        directory: The folder of :func:`decide_file`'s files; empty where nothing was cleaned.
        files: How many files there are.
    """

    directory: str = ""
    files: int = 0

    def of_shard(self, index: int) -> dict[bytes, tuple[Reason, str]]:
        """What is dropped of one shard: reason and detail by key, UTF-8."""
        dropped = {}
        for table in self._tables(["key", "reason", "detail"], [("shard", "=", index)]):
            for key, reason, detail in zip(*(column.to_pylist() for column in table.columns), strict=True):
                dropped[key.encode()] = (Reason(reason), detail)
        return dropped

    def keys(self) -> frozenset[bytes]:
        """The keys, UTF-8, of all that is dropped."""
        return frozenset(key.encode() for table in self._tables(["key"]) for key in table["key"].to_pylist())

    def _tables(self, columns: list[str], filters: Any = None) -> Iterator[pa.Table]:
        for place in range(self.files):
            with files.open_read(files.join(self.directory, _decided(place))) as file:
                yield pq.read_table(file, columns=columns, filters=filters)


NOTHING_CLEANED = Cleaned()


def clean(
    place: Workplace,
    shards: Sequence[tuple[int, str]],
    rules: Rules,
    evaluation: Sequence[str],
    directory: str,
) -> tuple[Cleaned, Summary]:
    """Measure every image, and decide which are dropped.

    Args:
        place: Runs it.
        shards: The shards, numbered over all inputs.
        rules: What is dropped.
        evaluation: Locations of the shards of evaluation faces; there are some only where there is a model.
        directory: Where measurements and decisions are written.
    """
    if evaluation:
        numbered = list(enumerate(evaluation))
        place.map(
            partial(measure_evaluation_shard, rules=rules, directory=directory), numbered, "embed evaluation faces"
        )
        merge_centres(directory, len(numbered))
    place.map(partial(measure_shard, rules=rules, directory=directory), shards, "measure for cleaning")
    decide = partial(decide_file, rules=rules, directory=directory, shards=len(shards), evaluating=bool(evaluation))
    place.map(decide, range(rules.files), "decide cleaning")
    return Cleaned(directory, rules.files), summarise(directory, rules.files)


def name_of(identity: str) -> str:
    """An identity's name without its namespace, in the spelling in which names are compared."""
    return re.sub(r"[\s_\-.]+", " ", identity.partition("/")[2] or identity).strip().casefold()


def read_names(text: str) -> frozenset[str]:
    """Names of identities, one a line; what follows a tab or ``#`` and empty lines do not count."""
    lines = (re.split(r"[\t#]", line, maxsplit=1)[0].strip() for line in text.splitlines())
    return frozenset(name for line in lines if (name := name_of(line)))


def measure_shard(shard: tuple[int, str], *, rules: Rules, directory: str) -> None:
    """Measure the images of one shard.

    Args:
        shard: The shard's number over all inputs, and its location.
        rules: What is needed is measured.
        directory: Where the measurements are written, a file for each that an identity's hash leads to.
    """
    index, location = shard
    columns: dict[int, _Columns] = defaultdict(_Columns)
    model = embedder(rules.model) if rules.model else None
    waiting: list[tuple[int, NDArray[np.uint8]]] = []
    for payload in read(location):
        record = Record.decode(payload)
        place = stable_hash("cleaning", record.identity) % rules.files
        found = columns[place]
        found.keys.append(record.key)
        found.identities.append(record.identity)
        if model is None and rules.duplicate_distance is None:
            continue
        pixels = pixels_of(record)
        if rules.duplicate_distance is not None:
            found.hashes.append(perceptual_hashes(pixels))
        if model is not None:
            waiting.append((place, pixels))
            if len(waiting) == _BATCH:
                _embed(model, waiting, columns)
    if model is not None:
        _embed(model, waiting, columns)
    for place, found in columns.items():
        _write_table(found.table(model.size if model else 0), files.join(directory, _measured(place, index)))


@dataclass
class _Columns:
    """What was measured, of the images of one shard that go to one file."""

    keys: list[str] = field(default_factory=list)
    identities: list[str] = field(default_factory=list)
    hashes: list[NDArray[np.uint64]] = field(default_factory=list)
    embeddings: list[NDArray[np.float16]] = field(default_factory=list)

    def table(self, size: int) -> pa.Table:
        table = pa.table({"key": self.keys, "identity": self.identities})
        if self.hashes:
            flat = pa.array(np.concatenate(self.hashes, axis=None))
            table = table.append_column("hashes", pa.FixedSizeListArray.from_arrays(flat, type=_HASHES))
        if size:
            flat = pa.array(np.concatenate(self.embeddings))
            table = table.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, size))
        return table


def _embed(model: Embedder, waiting: list[tuple[int, NDArray[np.uint8]]], columns: Mapping[int, _Columns]) -> None:
    embeddings = model.embed([pixels for _, pixels in waiting]).astype(np.float16)
    for (place, _), embedding in zip(waiting, embeddings, strict=True):
        columns[place].embeddings.append(embedding)
    waiting.clear()


def decide_file(place: int, *, rules: Rules, directory: str, shards: int, evaluating: bool) -> None:
    """Decide the identities whose measurements lie in one file.

    Args:
        place: The file's number.
        rules: What is dropped.
        directory: Where the measurements are; the drops are written beside them, with a summary.
        shards: How many shards were measured.
        evaluating: Whether there are centres of evaluation identities.
    """
    table = _read_measurements(directory, place, shards)
    evaluation = read_centres(directory) if evaluating else None
    drops: list[Drop] = []
    if table is not None:
        order = pc.sort_indices(table, [("identity", "ascending"), ("key", "ascending")])
        table = table.take(order)
        identities = table["identity"].combine_chunks().to_pylist()
        starts = [row for row, name in enumerate(identities) if row == 0 or name != identities[row - 1]]
        for start, end in zip(starts, [*starts[1:], len(identities)], strict=True):
            drops += _decide_identity(identities[start], table.slice(start, end - start), rules, evaluation)
    drops.sort(key=lambda drop: (drop.shard, drop.key))
    rows = [(drop.shard, drop.key, drop.identity, drop.reason.value, drop.detail) for drop in drops]
    columns = [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in _DROPS]
    _write_table(pa.table(columns, schema=_DROPS), files.join(directory, _decided(place)))
    summary = {
        "images": Counter(drop.reason.value for drop in drops),
        "identities": Counter(reason for reason, _ in {(drop.reason.value, drop.identity) for drop in drops}),
        "examples": [vars(drop) for reason in Reason for drop in _first(drops, reason)],
    }
    files.write_bytes(files.join(directory, f"cleaned-{place:05d}.json"), json.dumps(summary).encode())


def _decide_identity(identity: str, table: pa.Table, rules: Rules, evaluation: Centres | None) -> Iterator[Drop]:
    keys, shards = table["key"].to_pylist(), table["shard"].to_pylist()
    images = list(zip(shards, keys, strict=True))
    embeddings = _matrix(table, "embedding")
    found = "named in the list of evaluation identities" if name_of(identity) in rules.names else ""
    if not found and evaluation is not None and embeddings is not None:
        cosines = evaluation.rows @ centre(embeddings)
        nearest = int(cosines.argmax())
        if cosines[nearest] > rules.overlap_cosine:
            found = (
                f"cosine {cosines[nearest]:.3f} to evaluation identity '{evaluation.names[nearest]}', "
                f"above {rules.overlap_cosine:g}"
            )
    if found:
        yield from (Drop(shard, key, identity, Reason.OVERLAPS_EVALUATION, found) for shard, key in images)
        return
    left = list(range(len(images)))
    hashes = _matrix(table, "hashes")
    if rules.duplicate_distance is not None and hashes is not None:
        hashes = hashes.reshape(len(images), len(MARGINS), -1)
        left = []
        for row in sorted(range(len(images)), key=lambda row: (stable_hash(rules.seed, "duplicate", keys[row]), row)):
            apart = distances(hashes[row], hashes[left])
            near = int(apart.argmin()) if left else -1
            if left and apart[near] <= rules.duplicate_distance:
                detail = f"{apart[near]} of {BITS} bits from '{keys[left[near]]}'"
                yield Drop(*images[row], identity, Reason.DUPLICATE, detail, images[left[near]])
            else:
                left.append(row)
    if rules.outlier_cosine is not None and embeddings is not None and len(left) >= _FEWEST_FOR_OUTLIERS:
        left.sort()
        own = embeddings[left]
        towards = own @ centre(own)
        towards = own @ centre(own[np.argsort(-towards, kind="stable")[: -(-len(left) // 2)]])
        for row, cosine in zip(left, towards.tolist(), strict=True):
            if cosine < rules.outlier_cosine:
                detail = f"cosine {cosine:.3f} to the centre of its identity, below {rules.outlier_cosine:g}"
                yield Drop(*images[row], identity, Reason.OUTLIER, detail)


def _matrix(table: pa.Table, name: str) -> Any:
    if name not in table.column_names:
        return None
    column = table[name].combine_chunks()
    rows = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return normalise(rows.astype(np.float32)) if name == "embedding" else rows


def _first(drops: Iterable[Drop], reason: Reason) -> list[Drop]:
    """One drop each of the first few identities."""
    found: dict[str, Drop] = {}
    for drop in drops:
        if drop.reason == reason:
            found.setdefault(drop.identity, drop)
        if len(found) == _EXAMPLES:
            break
    return list(found.values())


def summarise(directory: str, places: int) -> Summary:
    """Add up what :func:`decide_file` found in each file."""
    total = Summary()
    for place in range(places):
        told = json.loads(files.read_bytes(files.join(directory, f"cleaned-{place:05d}.json")))
        total.images.update(told["images"])
        total.identities.update(told["identities"])
        for drop in told["examples"]:
            kept = tuple(drop["kept"]) if drop["kept"] else None
            total.examples.append(Drop(**drop | {"reason": Reason(drop["reason"]), "kept": kept}))
    total.examples.sort(key=lambda drop: (drop.shard, drop.key))
    total.examples = [drop for reason in Reason for drop in _first(total.examples, reason)]
    return total


@dataclass(frozen=True)
class Centres:
    """Centres of evaluation identities.

    Attributes:
        names: The identities.
        rows: (N, embedding size) float32, each of length 1.
    """

    names: list[str]
    rows: NDArray[np.float32]


def measure_evaluation_shard(shard: tuple[int, str], *, rules: Rules, directory: str) -> None:
    """Add up the embeddings of each identity of one shard of evaluation faces.

    Args:
        shard: The shard's number over all evaluation datasets, and its location.
        rules: Name the model.
        directory: Where the sums are written.
    """
    index, location = shard
    model = embedder(rules.model)
    sums: dict[str, NDArray[np.float64]] = {}

    def add(records: Sequence[Record]) -> None:
        embeddings = model.embed([pixels_of(record) for record in records])
        for record, embedding in zip(records, embeddings, strict=True):
            sums[record.identity] = sums.get(record.identity, np.zeros(model.size)) + embedding

    waiting: list[Record] = []
    for payload in read(location):
        waiting.append(Record.decode(payload))
        if len(waiting) == _BATCH:
            add(waiting)
            waiting = []
    if waiting:
        add(waiting)
    flat = pa.array(np.concatenate(list(sums.values())) if sums else np.zeros(0))
    table = pa.table([list(sums), pa.FixedSizeListArray.from_arrays(flat, model.size)], names=["identity", "sum"])
    _write_table(table, files.join(directory, f"evaluation-{index:05d}.parquet"))


def merge_centres(directory: str, shards: int) -> None:
    """Put the evaluation shards' sums together into the identities' centres, in one file of the directory."""
    sums: dict[str, NDArray[np.float64]] = {}
    for index in range(shards):
        table = _read_table(files.join(directory, f"evaluation-{index:05d}.parquet"))
        for identity, total in zip(table["identity"].to_pylist(), table["sum"].to_pylist(), strict=True):
            sums[identity] = sums.get(identity, np.zeros(len(total))) + total
    names = sorted(sums)
    rows = normalise(np.stack([sums[name] for name in names]))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    _write_table(pa.table([names, flat], names=["identity", "centre"]), files.join(directory, "centres.parquet"))


def read_centres(directory: str) -> Centres:
    """Read what :func:`merge_centres` wrote."""
    table = _read_table(files.join(directory, "centres.parquet"))
    column = table["centre"].combine_chunks()
    rows = column.flatten().to_numpy().reshape(len(column), -1)
    return Centres(table["identity"].to_pylist(), rows)


def _read_measurements(directory: str, place: int, shards: int) -> pa.Table | None:
    tables = []
    for index in range(shards):
        location = files.join(directory, _measured(place, index))
        if files.exists(location):
            table = _read_table(location)
            tables.append(table.append_column("shard", pa.array(np.full(table.num_rows, index, np.int32))))
    return pa.concat_tables(tables) if tables else None


def _measured(place: int, index: int) -> str:
    return f"measured-{place:05d}-{index:05d}.parquet"


def _decided(place: int) -> str:
    return f"drops-{place:05d}.parquet"


def _read_table(location: str) -> pa.Table:
    with files.open_read(location) as file:
        return pq.read_table(file)


def _write_table(table: pa.Table, location: str) -> None:
    with files.create(location) as file:
        pq.write_table(table, file, row_group_size=_GROUP_ROWS)
