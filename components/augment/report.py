"""The augment stage's report: the histogram before and after, the policy's bands, and each operation's effect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from faceflow.components.augment.operations import OPERATIONS, Variant
from faceflow.components.augment.plan import HELD_OUT, Plan
from faceflow.components.augment.policy import Policy
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.images import decode
from faceflow.components.common.record import Record
from faceflow.components.common.reports import PALETTE, Report, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FACES = 4
_PAGE_PX = 438  # what the KFP run page's side panel leaves for pictures
_GAP_PX = 8
_LINEAR_SPAN = 60  # more counts than this are drawn on a logarithmic axis


def write(path: Path, plan: Plan, policy: Policy, augmented: Dataset, held_out: Dataset, seed: int) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        plan: What became of every identity.
        policy: The policy.
        augmented: The stage's output.
        held_out: The stage's other output.
        seed: The stage's seed, with which the pictures' noise is drawn.
    """
    manifest = augmented.manifest
    report = Report("Augmentation", f"Policy: {policy}")
    facts = {
        "identities in": len(plan),
        "identities out": manifest.identities,
        "images in": manifest.images_in,
        "images out": manifest.images,
        "augmented copies": manifest.images - manifest.variants.get("", 0),
    }
    if held_out.manifest.images:
        facts["identities held out"] = held_out.manifest.identities
    report.facts(facts)
    report.figure(
        "Images per identity",
        histogram(plan, policy),
        "Identities by their number of images, before the policy and after it; each stripe is the band of one rule.",
    )
    report.table("Band by band", ["images", "rule", "identities", "in", "out"], bands(plan, policy))
    if policy.variants:
        faces = _faces(augmented)
        grid: list[tuple[NDArray[np.uint8], str]] = []
        for face in faces:
            image = decode(face.image)
            grid.append((image, face.identity))
            grid += [(variant.make(image, seed, face.key), _caption(variant)) for variant in policy.variants]
        columns = 1 + len(policy.variants)
        width = max(48, min(112, (_PAGE_PX - _GAP_PX * (columns - 1)) // columns))
        about = " ".join(dict.fromkeys(OPERATIONS[variant.operation].summary for variant in policy.variants))
        about = about.replace("`", "")
        report.images("Operations", grid, columns=columns, width_px=width, note=about)
    report.write(path)


def bands(plan: Plan, policy: Policy) -> list[tuple[str, str, int, int, int]]:
    """One row a rule, one for held-out identities if there are any, and the total.

    Returns:
        Band, rule, identities, images in, images out.
    """
    rows = []
    for index, rule in enumerate(policy.rules):
        counts = [each.images for each in plan.values() if each.rule == index]
        rows.append((rule.band, rule.actions, len(counts), sum(counts), sum(map(rule.images_out, counts))))
    held_out = [each.images for each in plan.values() if each.rule == HELD_OUT]
    if held_out:
        rows.append(("2+", "held out for evaluation", len(held_out), sum(held_out), 0))
    totals = [sum(column) for column in zip(*(row[2:] for row in rows), strict=True)]
    return [*rows, ("all", "", totals[0], totals[1], totals[2])]


def histogram(plan: Plan, policy: Policy) -> Figure:
    """Identities by images per identity, before and after, over the policy's bands."""
    from matplotlib.ticker import MaxNLocator

    decided = [each for each in plan.values() if each.rule != HELD_OUT]
    before = np.array([each.images for each in decided])
    after = np.array([policy.rules[each.rule].images_out(each.images) for each in decided])
    after = after[after > 0]
    # The highest and the lowest band are drawn wide enough to be seen whatever the data.
    ends = [rule.low for rule in policy.rules if rule.low > 1]
    highest = max(int(before.max()), int(after.max()), int(1.7 * max(ends, default=1)))
    lowest = max(1, min(int(before.min()), int(min(ends, default=1) / 1.7)))
    edges = _edges(lowest, highest, [end for end in ends if lowest < end <= highest])
    drawn, axes = figure(6.4, 3.4)
    logarithmic = highest - lowest > _LINEAR_SPAN
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else "")
        axes.xaxis.set_minor_formatter(lambda *_: "")
    for index, rule in enumerate(policy.rules):
        low = max(rule.low - 0.5, edges[0])
        high = edges[-1] if rule.high is None else min(rule.high + 0.5, edges[-1])
        if low >= high:
            continue
        axes.axvspan(low, high, color=PALETTE[1], alpha=0.14 if index % 2 else 0.05, linewidth=0)
        label = f"{rule.action} x{1 + len(rule.variants)}" if rule.variants else rule.actions
        axes.annotate(
            re.sub(r"\(| x", lambda found: f"\n{found[0].strip()}", label),
            (float(np.sqrt(low * high)) if logarithmic else (low + high) / 2, 1),
            (0, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            color="#8f4a1d",
        )
    axes.hist(before, edges, color=PALETTE[5], alpha=0.7, label=f"before: {len(before):,} identities")
    axes.hist(after, edges, histtype="step", linewidth=1.8, color=PALETTE[0], label=f"after: {len(after):,} identities")
    axes.set_xlim(edges[0], edges[-1])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images per identity")
    axes.set_ylabel("identities")
    drawn.legend(loc="outside lower center", ncols=2, frameon=False)
    return drawn


def _caption(variant: Variant) -> str:
    """An operation in words that break well below a small picture."""
    return re.sub(r"[_()]", " ", variant.description).replace("=", "\N{NO-BREAK SPACE}").strip()


def _edges(lowest: int, highest: int, ends: list[int]) -> list[float]:
    """Bin edges between whole numbers, a constant factor apart where there are many, and moved to the bands' ends."""
    if highest - lowest <= _LINEAR_SPAN:
        return [step - 0.5 for step in range(lowest, highest + 2)]
    steps = np.geomspace(lowest, highest + 1, 40).round()
    for end in ends:
        steps[1:-1][np.abs(np.log(steps[1:-1] / end)).argmin()] = end
    return [float(step) - 0.5 for step in np.unique(steps)]


def _faces(augmented: Dataset) -> Sequence[Record]:
    """The first untouched face of the first few identities."""
    found: dict[str, Record] = {}
    for record in augmented.records():
        if not record.variant:
            found.setdefault(record.identity, record)
        if len(found) == min(_FACES, augmented.manifest.identities):
            break
    return list(found.values())
