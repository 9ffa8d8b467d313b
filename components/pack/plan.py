"""The plan: labels, split and number of shards, decided from the survey before any image is moved."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import file_sha256, stable_hash
from faceflow.components.common.layout import LABELS_COLUMNS
from faceflow.components.pack.survey import Survey

_COLUMNS = pa.schema(
    [("identity", pa.string()), ("label", pa.int64()), ("validation", pa.int64()), ("threshold", pa.uint64())]
)
_COUNTS = b"counts"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one identity's images go.

    Attributes:
        label: Its class index.
        validation: How many of its source images go to validation.
        threshold: Those with a split hash up to this one, if any do.
    """

    label: int
    validation: int
    threshold: int

    def validates(self, split_hash: int) -> bool:
        """Whether a source image with this split hash goes to validation."""
        return self.validation > 0 and split_hash <= self.threshold


@dataclass(frozen=True)
class Plan:
    """What goes where.

    Attributes:
        places: For every identity, in the order of the labels.
        train_shards: Shards to learn from.
        validation_shards: Shards to validate on; 0 where no image goes there.
        train_images: Source images to learn from.
        validation_images: Source images to validate on.
    """

    places: Mapping[str, Place]
    train_shards: int
    validation_shards: int
    train_images: int
    validation_images: int

    @property
    def buckets(self) -> int:
        """Shards of both kinds."""
        return self.train_shards + self.validation_shards


def make(survey: Survey, validation_fraction: float, shard_bytes: int, seed: int) -> Plan:
    """Decide labels, split and shards.

    Labels are the places of the identities in sorted order, 0 to C-1 without gaps.

    Args:
        survey: What each identity has.
        validation_fraction: Fraction of the source images for validation.
        shard_bytes: The size that shards should have.
        seed: The stage's seed.

    Raises:
        DatasetError: There are fewer than two identities.
    """
    if len(survey) < 2:
        raise DatasetError(
            f"the faces are of {len(survey)} identit{'y' if len(survey) == 1 else 'ies'}, but a classifier needs at "
            "least 2: see augment's report for what its policy dropped."
        )
    validation = split({identity: len(owned.hashes) for identity, owned in survey.items()}, validation_fraction, seed)
    places = {}
    for label, (identity, owned) in enumerate(sorted(survey.items())):
        taken = validation[identity]
        places[identity] = Place(label, taken, int(owned.hashes[taken - 1]) if taken else 0)
    source_images = sum(len(owned.hashes) for owned in survey.values())
    source_bytes = sum(owned.source_bytes for owned in survey.values())
    validation_images = sum(validation.values())
    validation_bytes = source_bytes * validation_images / max(1, source_images)
    train_bytes = sum(owned.bytes for owned in survey.values()) - validation_bytes
    return Plan(
        places,
        train_shards=max(1, round(train_bytes / shard_bytes)),
        validation_shards=max(1, round(validation_bytes / shard_bytes)) if validation_images else 0,
        train_images=source_images - validation_images,
        validation_images=validation_images,
    )


def split(images: Mapping[str, int], fraction: float, seed: int) -> dict[str, int]:
    """How many source images of each identity go to validation.

    The identities with two images or more are laid end to end in an order drawn from the seed, and every
    (1 / fraction)-th image is taken: systematic sampling (Cochran, Sampling Techniques, ch. 8). So the total is exact,
    each identity gives its share up to rounding, and, since the fraction is at most a half, none gives all it has.

    Args:
        images: Source images of each identity.
        fraction: From 0 to 0.5; above 0 at least one image is taken where any identity has two.
        seed: The stage's seed.
    """
    taken = dict.fromkeys(images, 0)
    several = sorted(
        (identity for identity, count in images.items() if count >= 2),
        key=lambda identity: (stable_hash(seed, "split identity", identity), identity),
    )
    total = sum(images[identity] for identity in several)
    wanted = max(1, int(fraction * total + 0.5)) if fraction and total else 0
    passed = 0
    for identity in several:
        begin, passed = passed, passed + images[identity]
        taken[identity] = passed * wanted // total - begin * wanted // total
    return taken


def write_labels(plan: Plan, path: Path) -> None:
    """Write the label of every identity: a CSV file with the columns label and identity."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(LABELS_COLUMNS)
        writer.writerows((place.label, identity) for identity, place in plan.places.items())


def write(plan: Plan, directory: Path) -> Path:
    """Write a plan where the workers can read it.

    Returns:
        The file, named by its contents: whoever has read a file of that name has read this plan.
    """
    rows = [(identity, each.label, each.validation, each.threshold) for identity, each in plan.places.items()]
    counts = (plan.train_shards, plan.validation_shards, plan.train_images, plan.validation_images)
    table = pa.table([list(column) for column in zip(*rows, strict=True)], schema=_COLUMNS)
    aside = directory / "plan.parquet"
    pq.write_table(table.replace_schema_metadata({_COUNTS: " ".join(map(str, counts))}), aside)
    return aside.rename(directory / f"plan-{file_sha256(aside)}.parquet")


@lru_cache(maxsize=1)
def read(path: str) -> Plan:
    """Read a plan; a worker keeps the last one that it read."""
    table = pq.read_table(path)
    rows = zip(*(table[name].to_pylist() for name in _COLUMNS.names), strict=True)
    places = {identity: Place(*rest) for identity, *rest in rows}
    return Plan(places, *map(int, table.schema.metadata[_COUNTS].split()))
