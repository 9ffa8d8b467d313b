"""Verification pairs in folds that share no identity, as the LFW benchmark has them (Huang et al., 2007)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.hashing import generator

MOST_FOLDS, MOST_PAIRS = 10, 300
"""LFW has ten folds of 300 pairs of one person and 300 of two."""

Shot = tuple[int, int]
"""An image of a set: the number of its identity and its own number there, both from 0."""


@dataclass(frozen=True, slots=True)
class Fold:
    """One fold: as many pairs of one identity as of two.

    Attributes:
        same: Pairs of images of one identity.
        different: Pairs of images of two identities.
    """

    same: list[tuple[Shot, Shot]]
    different: list[tuple[Shot, Shot]]


def make_folds(images: Sequence[int], seed: int) -> list[Fold]:
    """Split identities into folds and choose their pairs: distinct ones, equally many in every fold and of both kinds.

    There are ten folds where there are twenty identities, otherwise one for every two identities, and at most 300 + 300
    pairs in each: as many as the poorest fold has distinct ones.

    Args:
        images: How many images each identity has.
        seed: What the choice is drawn from.

    Raises:
        SettingsError: Fewer than two folds can be made, or some fold has no two images of one identity.
    """
    folds = min(MOST_FOLDS, len(images) // 2)
    if folds < 2:
        raise SettingsError(f"verification pairs need at least 4 identities for 2 folds, not {len(images)}.")
    groups = _split(images, folds, generator(seed, "folds"))
    pairs = MOST_PAIRS
    for group in groups:
        pairs = min(pairs, sum(_pairs_of(images[i]) for i in group), _pairs_across([images[i] for i in group]))
    if pairs == 0:
        raise SettingsError(
            f"only {sum(count > 1 for count in images)} of {len(images)} identities have two images or more, but each "
            f"of {folds} folds needs one: raise images_per_identity."
        )
    return [_fold(group, images, pairs, generator(seed, "pairs", index)) for index, group in enumerate(groups)]


def _pairs_of(images: int) -> int:
    return images * (images - 1) // 2


def _pairs_across(images: Sequence[int]) -> int:
    return (sum(images) ** 2 - sum(n * n for n in images)) // 2


def _split(images: Sequence[int], folds: int, rng: np.random.Generator) -> list[list[int]]:
    """Deal identities out, richest first, each to the fold with the fewest people and, of those, the fewest pairs."""
    order = sorted(rng.permutation(len(images)).tolist(), key=lambda i: -_pairs_of(images[i]))
    groups: list[list[int]] = [[] for _ in range(folds)]
    wealth = [0] * folds
    for i in order:
        poorest = min(range(folds), key=lambda fold: (len(groups[fold]), wealth[fold]))
        groups[poorest].append(i)
        wealth[poorest] += _pairs_of(images[i])
    return [sorted(group) for group in groups]


def _fold(group: Sequence[int], images: Sequence[int], pairs: int, rng: np.random.Generator) -> Fold:
    return Fold(_same(group, images, pairs, rng), _different(group, images, pairs, rng))


def _same(group: Sequence[int], images: Sequence[int], pairs: int, rng: np.random.Generator) -> list[tuple[Shot, Shot]]:
    candidates = [((i, a), (i, b)) for i in group for a, b in combinations(range(images[i]), 2)]
    return [candidates[k] for k in sorted(rng.choice(len(candidates), pairs, replace=False))]


def _different(
    group: Sequence[int], images: Sequence[int], pairs: int, rng: np.random.Generator
) -> list[tuple[Shot, Shot]]:
    shots = [(i, k) for i in group for k in range(images[i])]
    if _pairs_across([images[i] for i in group]) <= 4 * pairs:
        candidates = [(a, b) for a, b in combinations(shots, 2) if a[0] != b[0]]
        return [candidates[k] for k in sorted(rng.choice(len(candidates), pairs, replace=False))]
    chosen: set[tuple[Shot, Shot]] = set()
    while len(chosen) < pairs:  # sparse among very many: draw again whatever is taken
        a, b = sorted(shots[k] for k in rng.integers(len(shots), size=2).tolist())
        if a[0] != b[0]:
            chosen.add((a, b))
    return sorted(chosen)
