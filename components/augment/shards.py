"""The second pass: one input shard becomes one output shard and, where identities are held out, one held-out shard."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from faceflow.components.augment import plan as plans
from faceflow.components.augment.cleaning import NOTHING_CLEANED, Cleaned
from faceflow.components.augment.policy import Rule, parsed
from faceflow.components.augment.variants import made
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import stable_hasher
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import glanced
from faceflow.components.common.tfrecord import read_checked
from faceflow.components.common.wire import Glance

STAGE = "augment"


def augment_shard(
    shard: tuple[int, str],
    *,
    plan: str,
    policy: str,
    seed: int,
    jpeg_quality: int,
    materialize: bool,
    augmented: str,
    held_out: str,
    cleaned: Cleaned = NOTHING_CLEANED,
) -> None:
    """Write what becomes of one shard's images. Bytes that no operation changes are passed on as they are.

    Args:
        shard: The shard's number over all inputs, and its path.
        plan: Path of the plan.
        policy: The policy's text.
        seed: The stage's seed.
        jpeg_quality: libjpeg quality of the variants.
        materialize: Whether to draw the variants, or leave them to the training.
        augmented: Directory for the augmented faces' part.
        held_out: Directory for the held-out faces' part; empty where none are held out.
        cleaned: What cleaning drops.
    """
    index, path = shard
    decided = plans.read(plan)
    places, chosen, thresholds = decided.places, decided.rules.tolist(), decided.thresholds
    rules = parsed(policy).rules
    names = [("", *(variant.name for variant in rule.variants)) for rule in rules]
    sampling = stable_hasher(seed, "sample")
    fates = _Fates(rules)
    dropped = cleaned.of_shard(index)
    with ExitStack() as stack:
        behind = stack.enter_context(ThreadPoolExecutor(1))
        out = stack.enter_context(ShardWriter(augmented, index, stage=STAGE, behind=behind))
        aside = stack.enter_context(ShardWriter(held_out, index, stage=STAGE, behind=behind)) if held_out else None
        for payload, footer in read_checked(path):
            seen = glanced(payload)
            key, identity = seen.key, seen.identity
            if dropped and key in dropped:
                out.dropped(key, identity, *dropped[key])
                continue
            place = places.get(identity)
            if place is None or seen.variant:
                raise _stranger(path, seen)
            number = chosen[place]
            if number == plans.HELD_OUT and aside is not None:
                aside.write_checked(seen, footer)
                aside.kept(key, identity)
                out.dropped(key, identity, Reason.HELD_OUT)
                continue
            rule = rules[number]
            if rule.action == "drop":
                out.dropped(key, identity, Reason.POLICY_TOO_FEW, fates.too_few(number, decided.images[place]))
                continue
            if rule.sample is not None and sampling(key) > thresholds[place]:
                out.dropped(key, identity, Reason.POLICY_SAMPLED_OUT, fates.sampled_out(number, decided.images[place]))
                continue
            if rule.variants:
                for each in made(seen, rule.variants, seed=seed, jpeg_quality=jpeg_quality, materialize=materialize):
                    out.write_payload(each)
            else:
                out.write_checked(seen, footer)
            out.kept(key, identity, names[number])


class _Fates:
    """The ledger's words for images that the policy drops, made once for each count and rule."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._told: dict[tuple[int, int], str] = {}

    def too_few(self, rule: int, images: int) -> str:
        key = (rule, images)
        if key not in self._told:
            count = f"{images:,} image{'' if images == 1 else 's'}"
            self._told[key] = f"{count} of this identity: {self._rules[rule]}"
        return self._told[key]

    def sampled_out(self, rule: int, images: int) -> str:
        key = (rule, images)
        if key not in self._told:
            self._told[key] = f"{images:,} images: {self._rules[rule]}"
        return self._told[key]


def _stranger(path: str, seen: Glance) -> DatasetError:
    if seen.variant:
        told = f"is an augmented copy ({seen.variant.decode()}): give augment the datasets that align wrote."
    else:
        told = "is of an identity that the dataset's ledger does not name: run the stage that wrote it again."
    return DatasetError(f"{path}: image '{seen.key.decode()}' {told}")
