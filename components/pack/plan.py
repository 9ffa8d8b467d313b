"""The plan: labels, split and shards, decided from the survey before any image is moved."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import files
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import stable_hashes
from faceflow.components.common.layout import LABELS_COLUMNS
from faceflow.components.pack.survey import Survey

SPLITS = ("image", "identity")
LAYOUTS = ("shuffled", "grouped")
NO_LABEL = -1
_ARRAYS = pa.schema(
    [
        ("label", pa.int64()),
        ("validation", pa.int64()),
        ("threshold", pa.uint64()),
        ("rank", pa.int64()),
        ("train_shard", pa.int64()),
        ("validation_shard", pa.int64()),
    ]
)
_COUNTS = b"counts"


@dataclass(frozen=True)
class Plan:
    """What goes where. Arrays are (identities,) in the order of the names.

    Attributes:
        identities: Their names, sorted.
        label: Class index; ``NO_LABEL`` for an identity that is held for validation whole, which is no class.
        validation: How many source images go to validation.
        threshold: Those with a split hash up to this one, if any do.
        rank: Place of the identity where identities stand together.
        train_shard: Training shard of the identity where identities stand together.
        validation_shard: Likewise, of its validation images.
        grouped: Whether identities stand together.
        train_shards: Shards to learn from.
        validation_shards: Shards to validate on; 0 where no image goes there.
        train_images: Source images to learn from.
        validation_images: Source images to validate on.
    """

    identities: Sequence[str]
    label: NDArray[np.int64]
    validation: NDArray[np.int64]
    threshold: NDArray[np.uint64]
    rank: NDArray[np.int64]
    train_shard: NDArray[np.int64]
    validation_shard: NDArray[np.int64]
    grouped: bool
    train_shards: int
    validation_shards: int
    train_images: int
    validation_images: int

    @property
    def buckets(self) -> int:
        """Shards of both kinds."""
        return self.train_shards + self.validation_shards

    @property
    def classes(self) -> list[str]:
        """The identity of every label."""
        return [name for name, label in zip(self.identities, self.label, strict=True) if label != NO_LABEL]

    @cached_property
    def places(self) -> dict[bytes, int]:
        """Where in the arrays each identity is, by its name in UTF-8."""
        return {identity.encode(): place for place, identity in enumerate(self.identities)}


def split(survey: Survey, fraction: float, by: str, seed: int) -> NDArray[np.int64]:
    """How many source images of each identity go to validation.

    By image, the identities with two images or more are laid end to end in an order drawn from the seed, and every
    (1 / fraction)-th image is taken: systematic sampling (Cochran, Sampling Techniques, ch. 8). So the total is exact,
    each identity gives its share up to rounding, and, since the fraction is at most a half, none gives all it has.
    By identity, the fraction of the identities gives all its images, and the others none.

    Args:
        survey: What each identity has.
        fraction: From 0 to 0.5; above 0 at least one image is taken where any identity has two, or one identity.
        by: ``image`` or ``identity``.
        seed: The stage's seed.

    Returns:
        (identities,) int64.

    Raises:
        SettingsError: By identity, fewer than two would be left to learn.
    """
    taken = np.zeros(len(survey.images), np.int64)
    if not fraction:
        return taken
    if by == "identity":
        wanted = max(1, int(fraction * len(taken) + 0.5))
        if len(taken) - wanted < 2:
            raise SettingsError(
                f"setting 'validation_fraction' is {fraction:g} by identity, which takes {wanted:,} of "
                f"{len(taken):,} identities and leaves fewer than 2 to learn: lower it, or set 'validation_by' to "
                "image."
            )
        chosen = _drawn(survey, np.arange(len(taken)), "validation identity", seed)[:wanted]
        taken[chosen] = survey.images[chosen]
        return taken
    several = _drawn(survey, np.flatnonzero(survey.images >= 2), "split identity", seed)
    passed = np.cumsum(survey.images[several])
    total = int(passed[-1]) if len(passed) else 0
    wanted = max(1, int(fraction * total + 0.5)) if total else 0
    # Python's integers: images times images taken may pass 64 bits.
    upto = [int(n) * wanted // total for n in passed]
    taken[several] = np.diff(np.array([0, *upto], np.int64))
    return taken


def _drawn(survey: Survey, places: NDArray[np.int64], what: str, seed: int) -> NDArray[np.int64]:
    """Identities in an order drawn from the seed."""
    hashes = stable_hashes((seed, what), [survey.identities[place].encode() for place in places])
    return places[np.argsort(hashes, kind="stable")]


def make(
    survey: Survey,
    taken: NDArray[np.int64],
    threshold: NDArray[np.uint64],
    *,
    shard_bytes: int,
    grouped: bool,
    seed: int,
) -> Plan:
    """Decide labels and shards.

    Labels are the places of the identities in sorted order, 0 to C-1 without gaps.

    Args:
        survey: What each identity has.
        taken: How many source images of each go to validation, by :func:`split`.
        threshold: Up to which split hash.
        shard_bytes: The size that shards should have.
        grouped: Whether identities stand together.
        seed: The stage's seed.

    Raises:
        DatasetError: There are fewer than two identities.
    """
    identities = len(survey.identities)
    if identities < 2:
        raise DatasetError(
            f"the faces are of {identities} identit{'y' if identities == 1 else 'ies'}, but a classifier needs at "
            "least 2: see augment's report for what its policy dropped."
        )
    learnt = taken < survey.images
    label = np.where(learnt, np.cumsum(learnt) - 1, NO_LABEL)
    # Of a source image that is validated on, the copies are left out.
    records = survey.records * (survey.images - taken) // survey.images
    train_shards = max(1, round(float(records.sum()) * survey.record_bytes / shard_bytes))
    validation = int(taken.sum())
    validation_shards = max(1, round(validation * survey.record_bytes / shard_bytes)) if validation else 0
    order = _drawn(survey, np.arange(identities), "group", seed)
    rank = np.empty(identities, np.int64)
    rank[order] = np.arange(identities)
    return Plan(
        survey.identities,
        label,
        taken,
        threshold,
        rank,
        train_shard=_dealt(records, order, train_shards),
        validation_shard=_dealt(taken, order, validation_shards),
        grouped=grouped,
        train_shards=train_shards,
        validation_shards=validation_shards,
        train_images=int(survey.images.sum()) - validation,
        validation_images=validation,
    )


def _dealt(records: NDArray[np.int64], order: NDArray[np.int64], shards: int) -> NDArray[np.int64]:
    """The shard of each identity if they are laid end to end in an order, and cut where each shard has its share."""
    middle = np.cumsum(records[order]) - records[order] / 2
    shard = np.empty(len(records), np.int64)
    shard[order] = np.minimum((middle * shards / max(1, records.sum())).astype(np.int64), max(0, shards - 1))
    return shard


def write_labels(plan: Plan, path: Path) -> None:
    """Write the identity of every label: a CSV file with the columns label and identity."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LABELS_COLUMNS)
        writer.writerows(enumerate(plan.classes))


def write(plan: Plan, folder: files.Location) -> str:
    """Write a plan where the workers can read it.

    Returns:
        The file, named by its contents: whoever has read a file of that name has read this plan.
    """
    columns = [pa.array(plan.identities, pa.string()), *(getattr(plan, name) for name in _ARRAYS.names)]
    counts = [int(getattr(plan, field.name)) for field in fields(plan)[-5:]]
    table = pa.table(columns, schema=pa.schema([("identity", pa.string()), *_ARRAYS]))
    written = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_COUNTS: " ".join(map(str, counts))}), written)
    location = files.join(folder, f"plan-{hashlib.sha256(written.getbuffer()).hexdigest()}.parquet")
    files.write_bytes(location, written.getvalue())
    return location


@lru_cache(maxsize=1)
def read(location: str) -> Plan:
    """Read a plan; a worker keeps the last one that it read."""
    with files.open_read(location) as file:
        table = pq.read_table(file)
    grouped, *counts = map(int, table.schema.metadata[_COUNTS].split())
    arrays: list[Any] = [table[name].to_numpy() for name in _ARRAYS.names]
    return Plan(*[table["identity"].to_pylist(), *arrays, bool(grouped), *counts])
