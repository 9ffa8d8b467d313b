"""The second pass: one input shard becomes one output shard and, where identities are held out, one held-out shard.

What becomes of each image is decided for the whole shard from names alone; then its frames are moved. Where nothing of
a shard changes, the output is the input's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from faceflow.components.augment import plan as plans
from faceflow.components.augment.cleaning import NOTHING_CLEANED, Cleaned
from faceflow.components.augment.plan import EVERYTHING, HELD_OUT, Plan
from faceflow.components.augment.policy import Rule, parsed
from faceflow.components.augment.variants import drawn, online
from faceflow.components.common import contents, files, tfrecord
from faceflow.components.common.beside import beside
from faceflow.components.common.contents import Contents
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.hashing import stable_hashes
from faceflow.components.common.ledger import Fate, Reason

STAGE = "augment"

_DROP, _COPY, _CHANGE, _ASIDE = range(4)
_KEPT, _TOO_FEW, _SAMPLED_OUT, _HELD_OUT = range(4)


def augment_shard(
    shard: tuple[int, str],
    *,
    plan: str,
    scratch: str,
    policy: str,
    seed: int,
    jpeg_quality: int,
    materialize: bool,
    augmented: str,
    held_out: str,
    core_free: bool,
    cleaned: Cleaned = NOTHING_CLEANED,
) -> None:
    """Write what becomes of one shard's images. Bytes that no operation changes are passed on as they are.

    Args:
        shard: The shard's number over all inputs, and its path.
        plan: Path of the plan.
        scratch: Where :func:`contents.cut` wrote what the shards hold.
        policy: The policy's text.
        seed: The stage's seed.
        jpeg_quality: libjpeg quality of the variants.
        materialize: Whether to draw the variants, or leave them to the training.
        augmented: Directory for the augmented faces' part.
        held_out: Directory for the held-out faces' part; empty where none are held out.
        core_free: Whether to hash and write beside the work.
        cleaned: What cleaning drops.

    Raises:
        DatasetError: The shard is damaged, or does not hold what its dataset's ledger names.
    """
    index, path = shard
    held = contents.read(scratch, index)
    rules = parsed(policy).rules
    keys: list[bytes] = held.keys.cast(pa.binary()).to_pylist()
    decided = _decide(held, keys, plans.read(plan), rules, cleaned.of_shard(index), seed)
    with ExitStack() as stack:
        behind = stack.enter_context(beside(core_free))
        out = stack.enter_context(ShardWriter(augmented, index, stage=STAGE, behind=behind))
        aside = stack.enter_context(ShardWriter(held_out, index, stage=STAGE, behind=behind)) if held_out else None
        owners = held.owners
        out.tell(held.keys, owners, decided.fates, decided.codes)
        _account(out, held, decided.fates, decided.codes)
        if aside is not None:
            rows = np.flatnonzero(decided.actions == _ASIDE)
            codes = np.zeros(len(rows), np.int64)
            aside.tell(held.keys.take(pa.array(rows)), owners.take(pa.array(rows)), _AS_IT_WAS, codes)
            aside.account({held.identities[code] for code in np.unique(held.codes[rows])}, {"": len(rows)})
        adopting = bool((decided.actions == _COPY).all()) and not (
            files.is_remote(path) or files.is_remote(augmented) or tfrecord.is_gzip(path)
        )
        names = [tuple(variant.name for variant in rule.variants) for rule in rules]
        stays = decided.actions != _DROP
        looked_at = (key if there else None for key, there in zip(keys, stays.tolist(), strict=True))
        begun = 0
        for window, places in contents.named(path, looked_at):
            frames, begins = memoryview(window.data), window.begins
            rows = np.flatnonzero(stays[begun : begun + len(window)])
            actions, of_rules = decided.actions[begun + rows].tolist(), decided.rules[begun + rows].tolist()
            numbers = rows.tolist()
            begun += len(window)
            for number, payload, action, rule in zip(numbers, window.payloads(numbers), actions, of_rules, strict=True):
                if action == _CHANGE and materialize:
                    out.write_payloads(drawn(payload, rules[rule].variants, seed=seed, jpeg_quality=jpeg_quality))
                elif action == _CHANGE:
                    out.write_payloads([online(payload, places[number], names[rule])])
                elif not adopting:
                    side = aside if action == _ASIDE and aside is not None else out
                    side.write_frame(frames[begins[number] : begins[number + 1]])
        if adopting:
            out.adopt(path, held.shard)


_AS_IT_WAS = [Fate("kept", variants=("",))]


def _account(out: ShardWriter, held: Contents, fates: Sequence[Fate], codes: NDArray[np.int64]) -> None:
    """Say of whom the records are that the fates promise, and how many images of each variant."""
    stays = np.array([fate.outcome == "kept" for fate in fates], bool)[codes]
    variants: Counter[str] = Counter()
    for fate, count in zip(fates, np.bincount(codes, minlength=len(fates)).tolist(), strict=True):
        variants.update(dict.fromkeys(fate.variants, count))
    out.account({held.identities[code] for code in np.unique(held.codes[stays])}, variants)


@dataclass(frozen=True)
class _Decided:
    """What becomes of a shard's images.

    Attributes:
        fates: What the ledger says, each once.
        codes: (images,) the place of each image's fate among them.
        actions: (images,) int8: what is done with its record.
        rules: (images,) the rule that decides; without meaning where none does.
    """

    fates: list[Fate]
    codes: NDArray[np.int64]
    actions: NDArray[np.int8]
    rules: NDArray[np.int16]


def _decide(
    held: Contents,
    keys: Sequence[bytes],
    plan: Plan,
    rules: Sequence[Rule],
    cleaned: Mapping[bytes, tuple[Reason, str]],
    seed: int,
) -> _Decided:
    place = np.array([plan.places.get(name, -1) for name in held.identities], np.int64)[held.codes]
    rule, images = plan.rules[place], plan.images[place]
    drops = np.array([each.action == "drop" for each in rules], bool)
    changes = np.array([bool(each.variants) for each in rules], bool)
    kind = np.where(drops[rule], _TOO_FEW, _KEPT)
    competing = np.flatnonzero((kind == _KEPT) & (rule != HELD_OUT) & (plan.thresholds[place] < EVERYTHING))
    hashes = stable_hashes((seed, "sample"), [keys[row] for row in competing.tolist()])
    kind[competing[hashes > plan.thresholds[place[competing]]]] = _SAMPLED_OUT
    kind[rule == HELD_OUT] = _HELD_OUT
    # Few combinations of these occur, however many images there are.
    told, codes = np.unique((images << 18) + ((rule.astype(np.int64) + 1) << 2) + kind, return_inverse=True)
    fates = [_fate(rules, number & 3, (number >> 2 & 0xFFFF) - 1, number >> 18) for number in told.tolist()]
    actions = np.where(changes[rule], _CHANGE, _COPY).astype(np.int8)
    actions[kind != _KEPT] = _DROP
    actions[kind == _HELD_OUT] = _ASIDE
    for row in [row for row, key in enumerate(keys) if key in cleaned] if cleaned else []:
        codes[row] = len(fates)
        reason, detail = cleaned[keys[row]]
        fates.append(Fate("dropped", reason.value, detail))
        actions[row] = _DROP
    assert (actions[place < 0] == _DROP).all()  # an identity is not planned only if cleaning drops all it has
    return _Decided(fates, codes, actions, rule)


def _fate(rules: Sequence[Rule], kind: int, rule: int, images: int) -> Fate:
    if kind == _HELD_OUT:
        return Fate("dropped", Reason.HELD_OUT.value)
    if kind == _TOO_FEW:
        count = f"{images:,} image{'' if images == 1 else 's'}"
        return Fate("dropped", Reason.POLICY_TOO_FEW.value, f"{count} of this identity: {rules[rule]}")
    if kind == _SAMPLED_OUT:
        return Fate("dropped", Reason.POLICY_SAMPLED_OUT.value, f"{images:,} images: {rules[rule]}")
    return Fate("kept", variants=("", *(variant.name for variant in rules[rule].variants)))
