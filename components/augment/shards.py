"""The second pass: one input shard becomes one output shard and, where identities are held out, one held-out shard."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from faceflow.components.augment import plan as plans
from faceflow.components.augment.census import sampling_hash
from faceflow.components.augment.operations import Variant
from faceflow.components.augment.policy import parsed
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DatasetError, ImageError
from faceflow.components.common.images import decode, encode_jpeg
from faceflow.components.common.ledger import Reason
from faceflow.components.common.record import Record, peek, variant_key
from faceflow.components.common.tfrecord import read

STAGE = "augment"


def augment_shard(
    shard: tuple[int, str],
    *,
    plan: str,
    policy: str,
    seed: int,
    jpeg_quality: int,
    augmented: str,
    held_out: str,
) -> None:
    """Write what becomes of one shard's images. Bytes that no operation changes are passed on as they are.

    Args:
        shard: The shard's number over all inputs, and its path.
        plan: Path of the plan.
        policy: The policy's text.
        seed: The stage's seed.
        jpeg_quality: libjpeg quality of the variants.
        augmented: Directory for the augmented faces' part.
        held_out: Directory for the held-out faces' part; empty where none are held out.
    """
    index, path = shard
    decisions = plans.read(plan)
    rules = parsed(policy).rules
    with ExitStack() as stack:
        out = stack.enter_context(ShardWriter(Path(augmented), index, stage=STAGE))
        aside = stack.enter_context(ShardWriter(Path(held_out), index, stage=STAGE)) if held_out else None
        for payload in read(Path(path)):
            key, identity, _ = peek(payload)
            decision = decisions[identity]
            if decision.rule == plans.HELD_OUT and aside is not None:
                aside.write_payload(payload)
                aside.kept(key, identity)
                out.dropped(key, identity, Reason.HELD_OUT)
                continue
            rule = rules[decision.rule]
            if rule.action == "drop":
                count = f"{decision.images:,} image{'' if decision.images == 1 else 's'}"
                out.dropped(key, identity, Reason.POLICY_TOO_FEW, f"{count} of this identity: {rule}")
                continue
            if sampling_hash(seed, key) > decision.threshold:
                out.dropped(key, identity, Reason.POLICY_SAMPLED_OUT, f"{decision.images:,} images: {rule}")
                continue
            out.write_payload(payload)
            if rule.variants:
                for record in variants_of(Record.decode(payload), rule.variants, seed, jpeg_quality):
                    out.write(record)
            out.kept(key, identity, ["", *(variant.name for variant in rule.variants)])


def variants_of(source: Record, variants: tuple[Variant, ...], seed: int, jpeg_quality: int) -> list[Record]:
    """The augmented copies of one face.

    Args:
        source: The face.
        variants: What to make.
        seed: The stage's seed.
        jpeg_quality: libjpeg quality.

    Returns:
        One record a variant, with everything but the image, the key and the variant as in the source.

    Raises:
        DatasetError: The image cannot be decoded.
    """
    try:
        image = decode(source.image)
    except ImageError as error:
        raise DatasetError(
            f"image '{source.key}' of an aligned dataset cannot be decoded: {error}. Run align again."
        ) from error
    return [
        replace(
            source,
            key=variant_key(source.key, variant.name),
            image=encode_jpeg(variant.make(image, seed, source.key), jpeg_quality),
            variant=variant.name,
        )
        for variant in variants
    ]
