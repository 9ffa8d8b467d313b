"""The plan: what becomes of every identity, decided from keys alone before any image is touched."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.augment.census import Census
from faceflow.components.augment.policy import Policy
from faceflow.components.common import files
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import stable_hashes

HELD_OUT = -1
EVERYTHING = (1 << 64) - 1
_SCHEMA = pa.schema(
    [("identity", pa.string()), ("images", pa.int64()), ("rule", pa.int16()), ("threshold", pa.uint64())]
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one identity.

    Attributes:
        images: How many it has.
        rule: Index of the policy's rule that decides it; ``HELD_OUT`` where it is held out instead.
        threshold: Its images with a sampling hash up to this one are kept, if the rule keeps any.
    """

    images: int
    rule: int
    threshold: int


class Plan(Mapping[str, Decision]):
    """The decision of every identity, in arrays: there may be a million of them.

    Args:
        identities: Their names, sorted.
        images: (identities,) int64, see :class:`Decision`.
        rules: (identities,) int16.
        thresholds: (identities,) uint64.
    """

    def __init__(
        self,
        identities: Sequence[str],
        images: NDArray[np.int64],
        rules: NDArray[np.int16],
        thresholds: NDArray[np.uint64],
    ) -> None:
        """Keep the arrays."""
        self.identities = identities
        self.images = images
        self.rules = rules
        self.thresholds = thresholds

    @cached_property
    def places(self) -> dict[bytes, int]:
        """Where in the arrays each identity is, by its name in UTF-8."""
        return {identity.encode(): place for place, identity in enumerate(self.identities)}

    def __getitem__(self, identity: str) -> Decision:
        """The decision of one identity."""
        return self._at(self.places[identity.encode()])

    def _at(self, place: int) -> Decision:
        return Decision(int(self.images[place]), int(self.rules[place]), int(self.thresholds[place]))

    def __iter__(self) -> Iterator[str]:
        """The identities, sorted."""
        return iter(self.identities)

    def __len__(self) -> int:
        """Number of identities."""
        return len(self.identities)


def make(census: Census, policy: Policy, holdout_fraction: float, seed: int) -> Plan:
    """Decide every identity.

    Identities are held out before the policy looks at the rest: ``max(2, fraction)`` of those with at least two images,
    since an identity with one image has no pair to score.

    Args:
        census: What each identity has; of those that are sampled, as many hashes as the sample takes.
        policy: The policy.
        holdout_fraction: Fraction of the identities to hold out; 0 for none.
        seed: The stage's seed.

    Raises:
        DatasetError: There are fewer than two identities.
        SettingsError: Too few identities would be left to hold out or to train on.
    """
    if len(census) < 2:
        raise DatasetError(
            f"the data holds {_counted(len(census), 'identity', 'identities')}: telling faces apart takes at least 2. "
            "Check that the source has one folder for each identity, and align's ledger for images that were dropped."
        )
    images = census.images
    several, back = np.unique(images, return_inverse=True)
    decided = [policy.decide(int(count)) for count in several]
    kept = np.array([policy.rules[rule].kept(int(n)) for n, rule in zip(several, decided, strict=True)], np.int64)[back]
    rules = np.array(decided, np.int16)[back]
    rules[_held_out(census, holdout_fraction, seed)] = HELD_OUT
    thresholds = np.full(len(census), EVERYTHING, np.uint64)
    sampled = np.flatnonzero((rules != HELD_OUT) & (kept > 0) & (kept < images))
    thresholds[sampled] = census.smallest.nth(sampled, kept[sampled] - 1)
    left = images[rules != HELD_OUT]
    trained = int(((rules != HELD_OUT) & (kept > 0)).sum())
    if trained < 2:
        raise SettingsError(
            f"setting 'policy' leaves {_counted(trained, 'identity', 'identities')} of {len(left):,} to train on, "
            f"but at least 2 are needed.\n  policy: {policy}\n{histogram(left.tolist())}\n{_advice(left.tolist())}"
        )
    return Plan(census.identities, images, rules, thresholds)


def _held_out(census: Census, fraction: float, seed: int) -> NDArray[np.int64]:
    if fraction == 0:
        return np.empty(0, np.int64)
    eligible = np.flatnonzero(census.images >= 2)
    wanted = max(2, int(fraction * len(eligible) + 0.5))
    if len(eligible) < wanted or len(census) - wanted < 2:
        raise SettingsError(
            f"setting 'holdout_fraction' is {fraction:g}, which holds out {wanted:,} identities; "
            f"the data has {len(census):,}, {len(eligible):,} of them with the 2 images that scoring takes, "
            "and at least 2 must be left to train on. "
            "Lower the fraction, set it to 0 for no held-out identities, or add identities."
        )
    hashes = stable_hashes((seed, "holdout"), [census.identities[place].encode() for place in eligible])
    return eligible[np.argsort(hashes, kind="stable")[:wanted]]


def histogram(counts: Sequence[int]) -> str:
    """Images per identity as lines of text, in bins that double."""
    lines = ["  images per identity | identities"]
    top = max(counts)
    totals = []
    low = 1
    while low <= top:
        high = 2 * low - 1
        totals.append((f"{low:,}" if low == high else f"{low:,} to {high:,}", sum(low <= n <= high for n in counts)))
        low *= 2
    most = max(total for _, total in totals)
    for label, total in totals:
        bar = "#" * -(-30 * total // most)
        lines.append(f"  {label:>19} | {total:<7,} {bar}".rstrip())
    return "\n".join(lines)


def suggest(counts: Sequence[int]) -> Policy | None:
    """The default policy with its thresholds scaled down to the data: most identities with two images or more stay.

    Returns:
        The policy, or None where no threshold could leave two identities.
    """
    several = [n for n in counts if n >= 2]
    if len(several) < 2:
        return None
    fewest = max(1, int(np.quantile(several, 0.25, method="lower")) // 2)
    few, many, most = 3 * fewest, fewest * 20 // 3, fewest * 35 // 3
    return Policy.parse(
        f"n > {most}: sample({most}) | n > {many}: keep | n > {few}: keep, opening | "
        f"n > {fewest}: keep, opening, gaussian_noise, salt_pepper | drop"
    )


def _advice(counts: Sequence[int]) -> str:
    found = suggest(counts)
    if found is None:
        return "Fewer than two identities have two images or more: add images."
    return f"Lower the thresholds, for instance to\n  {found}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def write(plan: Plan, folder: files.Location) -> str:
    """Write a plan where the workers can read it.

    Returns:
        The file, named by its contents: whoever has read a file of that name has read this plan.
    """
    columns = [pa.array(plan.identities, pa.string()), plan.images, plan.rules, plan.thresholds]
    written = io.BytesIO()
    pq.write_table(pa.table(columns, schema=_SCHEMA), written)
    location = files.join(folder, f"plan-{hashlib.sha256(written.getbuffer()).hexdigest()}.parquet")
    files.write_bytes(location, written.getvalue())
    return location


@lru_cache(maxsize=1)
def read(location: str) -> Plan:
    """Read a plan; a worker keeps the last one that it read."""
    with files.open_read(location) as file:
        table = pq.read_table(file, schema=_SCHEMA)
    arrays = [table[name].to_numpy() for name in ("images", "rule", "threshold")]
    return Plan(table["identity"].to_pylist(), *arrays)
