"""The plan: what becomes of every identity, decided from keys alone before any image is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from faceflow.components.augment.census import Census
from faceflow.components.augment.policy import Policy
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import file_sha256, stable_hash

HELD_OUT = -1
_EVERYTHING = (1 << 64) - 1
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


Plan = Mapping[str, Decision]


def make(census: Census, policy: Policy, holdout_fraction: float, seed: int) -> Plan:
    """Decide every identity.

    Identities are held out before the policy looks at the rest: ``max(2, fraction)`` of those with at least two images,
    since an identity with one image has no pair to score.

    Args:
        census: For every identity, the sorted sampling hashes of its images.
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
    held_out = _held_out(census, holdout_fraction, seed)
    plan = {}
    for identity, hashes in census.items():
        images = len(hashes)
        if identity in held_out:
            plan[identity] = Decision(images, HELD_OUT, _EVERYTHING)
            continue
        index = policy.decide(images)
        kept = policy.rules[index].kept(images)
        plan[identity] = Decision(images, index, int(hashes[kept - 1]) if 0 < kept < images else _EVERYTHING)
    left = [decision.images for decision in plan.values() if decision.rule != HELD_OUT]
    trained = sum(policy.rules[policy.decide(images)].action != "drop" for images in left)
    if trained < 2:
        raise SettingsError(
            f"setting 'policy' leaves {_counted(trained, 'identity', 'identities')} of {len(left):,} to train on, "
            f"but at least 2 are needed.\n  policy: {policy}\n{histogram(left)}\n{_advice(left)}"
        )
    return plan


def _held_out(census: Census, fraction: float, seed: int) -> set[str]:
    if fraction == 0:
        return set()
    eligible = [identity for identity, hashes in census.items() if len(hashes) >= 2]
    wanted = max(2, int(fraction * len(eligible) + 0.5))
    if len(eligible) < wanted or len(census) - wanted < 2:
        raise SettingsError(
            f"setting 'holdout_fraction' is {fraction:g}, which holds out {wanted:,} identities; "
            f"the data has {len(census):,}, {len(eligible):,} of them with the 2 images that scoring takes, "
            "and at least 2 must be left to train on. "
            "Lower the fraction, set it to 0 for no held-out identities, or add identities."
        )
    return set(sorted(eligible, key=lambda identity: (stable_hash(seed, "holdout", identity), identity))[:wanted])


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


def write(plan: Plan, directory: Path) -> Path:
    """Write a plan where the workers can read it.

    Returns:
        The file, named by its contents: whoever has read a file of that name has read this plan.
    """
    rows = [(identity, each.images, each.rule, each.threshold) for identity, each in plan.items()]
    aside = directory / "plan.parquet"
    pq.write_table(pa.table([list(column) for column in zip(*rows, strict=True)], schema=_SCHEMA), aside)
    return aside.rename(directory / f"plan-{file_sha256(aside)}.parquet")


@lru_cache(maxsize=1)
def read(path: str) -> Plan:
    """Read a plan; a worker keeps the last one that it read."""
    columns = pq.read_table(path, schema=_SCHEMA).to_pydict()
    return {identity: Decision(*rest) for identity, *rest in zip(*columns.values(), strict=True)}
