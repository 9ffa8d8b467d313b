"""The augment stage's report: images per identity, the policy's bands, what was cleaned, and the operations' effect."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from faceflow.components.augment.cleaning import Summary
from faceflow.components.augment.plan import HELD_OUT, Plan
from faceflow.components.augment.policy import Policy, Rule
from faceflow.components.common.dataset import Dataset
from faceflow.components.common.images import decode
from faceflow.components.common.ledger import Reason
from faceflow.components.common.operations import OPERATIONS, Variant
from faceflow.components.common.record import Record, glanced
from faceflow.components.common.reports import PALETTE, Report, figure
from faceflow.components.common.tfrecord import read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FACES = 4
_WIDTH_PX = 101  # four pictures, and the gaps between them, fill the KFP run page's side panel
_LINEAR_SPAN = 60  # more counts than this are drawn on a logarithmic axis


def write(
    path: Path,
    plan: Plan,
    policy: Policy,
    augmented: Dataset,
    held_out: Dataset,
    seed: int,
    cleaning: Summary | None = None,
    shards: Sequence[Path] = (),
) -> None:
    """Write the report.

    Args:
        path: The HTML file.
        plan: What became of every identity.
        policy: The policy.
        augmented: The stage's output.
        held_out: The stage's other output.
        seed: The stage's seed, with which the pictures' noise is drawn.
        cleaning: What cleaning found; None where nothing was cleaned.
        shards: The input's shards, which hold the images that cleaning dropped.
    """
    manifest = augmented.manifest
    written = manifest.images == manifest.records
    report = Report("Augmentation", f"Policy: {policy}")
    facts = {
        "identities in": len(plan),
        "identities out": manifest.identities,
        "images in": manifest.images_in,
        "images out": manifest.images,
        "augmented copies" if written else "copies that training makes": manifest.images - manifest.variants.get("", 0),
    }
    if held_out.manifest.images:
        facts["identities held out"] = held_out.manifest.identities
    if cleaning is not None:
        facts["images cleaned away"] = cleaning.images.total()
    report.facts(facts)
    report.figure(
        "Images per identity",
        histogram(plan, policy),
        "Identities by their number of images, before the policy and after it; each stripe is the band of one rule.",
    )
    report.table(
        "Band by band",
        ["images", "rule", "identities", "in", "out"],
        bands(plan, policy),
        "" if written else "Images out are those of an epoch: each is written once, and training makes the copies.",
    )
    if cleaning is not None:
        _write_cleaning(report, cleaning, shards)
    if policy.variants:
        report.images(
            "Operations",
            _effects(policy, _faces(augmented), seed),
            columns=_FACES,
            width_px=_WIDTH_PX,
            note="The first row shows faces as they came, each further row what one operation makes of them.",
        )
        named = dict.fromkeys(variant.operation for variant in policy.variants)
        report.table(
            "What they do",
            ["operation", "effect"],
            [(OPERATIONS[name].usage, OPERATIONS[name].summary.replace("`", "")) for name in named],
        )
    report.write(path)


def _effects(policy: Policy, faces: Sequence[Record], seed: int) -> list[tuple[NDArray[np.uint8], str]]:
    """A row of faces, and a row for each variant; only the first picture of a variant's row is captioned."""
    images = [decode(face.image) for face in faces]
    blank = np.full_like(images[0], 255)
    padding = [(blank, "")] * (_FACES - len(faces))
    cells = [(image, face.identity) for image, face in zip(images, faces, strict=True)] + padding
    for variant in policy.variants:
        made = [variant.make(image, seed, face.key) for image, face in zip(images, faces, strict=True)]
        cells += [(made[0], _caption(variant)), *((image, "") for image in made[1:]), *padding]
    return cells


def _write_cleaning(report: Report, cleaning: Summary, shards: Sequence[Path]) -> None:
    rows = [
        (reason.replace("_", " "), cleaning.identities[reason], cleaning.images[reason])
        for reason in sorted(cleaning.images)
    ]
    report.table(
        "Cleaning",
        ["reason", "identities", "images"],
        [*rows, ("all", "", cleaning.images.total())],
        "Dropped before the policy counted; the ledger names every image.",
    )
    places = {place for drop in cleaning.examples for place in ((drop.shard, drop.key), drop.kept) if place}
    pictures = _pictures(shards, places)
    pairs = [drop for drop in cleaning.examples if drop.kept]
    cells = []
    for drop in pairs:
        assert drop.kept is not None
        cells += [
            (pictures[drop.shard, drop.key], f"dropped: {drop.key}"),
            (pictures[drop.kept], f"kept: {drop.kept[1]}"),
        ]
    if cells:
        report.images("Near-duplicates", cells, columns=4, width_px=_WIDTH_PX, note="What was dropped, and what stays.")
    for reason, heading in ((Reason.OVERLAPS_EVALUATION, "Identities of the evaluation"), (Reason.OUTLIER, "Outliers")):
        found = [drop for drop in cleaning.examples if drop.reason == reason]
        if found:
            cells = [(pictures[drop.shard, drop.key], f"{drop.identity}: {drop.detail}") for drop in found]
            report.images(heading, cells, columns=4, width_px=_WIDTH_PX)


def _pictures(shards: Sequence[Path], wanted: set[tuple[int, str]]) -> dict[tuple[int, str], NDArray[np.uint8]]:
    """Find images by the number of their shard and their key."""
    found: dict[tuple[int, str], NDArray[np.uint8]] = {}
    for index in sorted({index for index, _ in wanted}):
        left = {key.encode(): key for number, key in wanted if number == index}
        for payload in read(shards[index]):
            key = left.pop(glanced(payload).key, None)
            if key is not None:
                found[index, key] = decode(Record.decode(payload).image)
            if not left:
                break
    return found


def bands(plan: Plan, policy: Policy) -> list[tuple[str, str, int, int, int]]:
    """One row a rule, one for held-out identities if there are any, and the total.

    Returns:
        Band, rule, identities, images in, images out.
    """
    rows = []
    for index, rule in enumerate(policy.rules):
        images = plan.images[plan.rules == index]
        rows.append((rule.band, rule.actions, len(images), int(images.sum()), int(_images_out(images, rule).sum())))
    held_out = plan.images[plan.rules == HELD_OUT]
    if len(held_out):
        rows.append(("2+", "held out for evaluation", len(held_out), int(held_out.sum()), 0))
    totals = [sum(column) for column in zip(*(row[2:] for row in rows), strict=True)]
    return [*rows, ("all", "", totals[0], totals[1], totals[2])]


def _images_out(images: NDArray[np.int64], rule: Rule) -> NDArray[np.int64]:
    """:meth:`Rule.images_out` of many identities."""
    several, back = np.unique(images, return_inverse=True)
    return np.array([rule.images_out(int(count)) for count in several], np.int64)[back]


def histogram(plan: Plan, policy: Policy) -> Figure:
    """Identities by images per identity, before and after, over the policy's bands."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    before = plan.images[plan.rules != HELD_OUT]
    after = np.concatenate(
        [_images_out(plan.images[plan.rules == index], rule) for index, rule in enumerate(policy.rules)]
    )
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
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
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
