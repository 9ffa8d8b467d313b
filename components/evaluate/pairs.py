"""The pairs that a verification protocol scores: a list that came with the faces, or seeded ones made from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.hashing import generator, stable_hash
from faceflow.components.common.layout import PAIRS_COLUMNS

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class Pairs:
    """Pairs of images with their truth.

    Attributes:
        keys: Two record keys for each pair.
        same: (N,) bool: whether both are of one identity.
        folds: (N,) int: the fold of each pair.
        protocol: What they are, for people.
        note: How the folds were made, if that needs saying.
    """

    keys: list[tuple[str, str]]
    same: NDArray[np.bool_]
    folds: NDArray[np.int64]
    protocol: str
    note: str = ""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.keys)

    def only(self, wanted: NDArray[np.bool_]) -> Pairs:
        """The pairs that a mask selects."""
        keys = [pair for pair, chosen in zip(self.keys, wanted, strict=True) if chosen]
        return Pairs(keys, self.same[wanted], self.folds[wanted], self.protocol, self.note)


def read_pairs(path: Path) -> Pairs:
    """Read a ``pairs.csv`` attachment.

    Raises:
        DatasetError: A column is missing or a value is not allowed; the message has the line.
    """
    keys, same, folds = [], [], []
    with open(path, newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if not set(PAIRS_COLUMNS) <= set(rows.fieldnames or ()):
            raise DatasetError(f"{path} must begin with the header {','.join(PAIRS_COLUMNS)}: download the set again.")
        for row in rows:
            truth = _TRUTH.get((row["same"] or "").lower())
            try:
                fold = int(row["fold"])
            except (TypeError, ValueError):
                fold = None
            if truth is None or fold is None or not row["key_a"] or not row["key_b"]:
                raise DatasetError(
                    f"{path}, line {rows.line_num}: {[row[name] for name in PAIRS_COLUMNS]} is no pair, it needs two "
                    "keys, same as 0 or 1, and a fold's number: download the set again."
                )
            keys.append((row["key_a"], row["key_b"]))
            same.append(truth)
            folds.append(fold)
    count = len(set(folds))
    return Pairs(keys, np.array(same, bool), np.array(folds, np.int64), f"{count}-fold over the set's own pairs")


@dataclass
class _Group:
    """The images of a fold, by identity, and the pairs that can be drawn from them."""

    images: Mapping[str, Sequence[str]]
    identities: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.identities = sorted(self.images)

    def positives(self, wanted: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Draw pairs within identities: as equally many from each as its images allow, none twice."""
        capacity = {name: len(self.images[name]) * (len(self.images[name]) - 1) // 2 for name in self.identities}
        shares = share_out([capacity[name] for name in self.identities], wanted, rng)
        drawn: list[tuple[str, str]] = []
        for name, share in zip(self.identities, shares, strict=True):
            images = sorted(self.images[name])
            for place in np.sort(rng.choice(capacity[name], share, replace=False)) if share else ():
                i, j = unrank(int(place))
                drawn.append((images[i], images[j]))
        return drawn

    def negatives(self, wanted: int, rng: np.random.Generator) -> list[tuple[str, str]]:
        """Draw pairs across identities, every two identities being equally likely, none twice."""
        if self.count_negatives() <= 4 * wanted:
            every = [
                (a, b)
                for place, one in enumerate(self.identities)
                for other in self.identities[:place]
                for a in sorted(self.images[other])
                for b in sorted(self.images[one])
            ]
            return [every[place] for place in np.sort(rng.choice(len(every), wanted, replace=False))]
        drawn: dict[tuple[str, str], None] = {}
        while len(drawn) < wanted:
            first, second = np.sort(rng.choice(len(self.identities), 2, replace=False))
            one, other = (sorted(self.images[self.identities[place]]) for place in (first, second))
            drawn[one[rng.integers(len(one))], other[rng.integers(len(other))]] = None
        return list(drawn)

    def count_positives(self) -> int:
        return sum(len(images) * (len(images) - 1) // 2 for images in self.images.values())

    def count_negatives(self) -> int:
        sizes = [len(images) for images in self.images.values()]
        return (sum(sizes) ** 2 - sum(size * size for size in sizes)) // 2


def unrank(place: int) -> tuple[int, int]:
    """The place-th pair (i, j), i < j, counting (0,1), (0,2), (1,2), (0,3), ..."""
    j = int((1 + (1 + 8 * place) ** 0.5) / 2)
    while j * (j - 1) // 2 > place:
        j -= 1
    return place - j * (j - 1) // 2, j


def share_out(capacities: Sequence[int], wanted: int, rng: np.random.Generator) -> list[int]:
    """Share a number out as evenly as capacities allow; who gets the odd ones is drawn."""
    shares = np.zeros(len(capacities), np.int64)
    left = wanted
    while left:
        open_ones = rng.permutation(np.flatnonzero(shares < np.array(capacities)))
        each = max(1, left // len(open_ones))
        for place in open_ones[:left]:
            taken = min(each, capacities[place] - int(shares[place]), left)
            shares[place] += taken
            left -= taken
    return [int(share) for share in shares]


def make_pairs(
    images: Mapping[str, Sequence[str]], seed: int, most_folds: int = 10, pairs_per_fold: int = 300
) -> Pairs | str:
    """Draw balanced pairs from faces that came without any.

    With at least 4 identities the folds share none: ``min(most_folds, identities // 2)`` folds, fewer where too few
    identities have two images. With 2 or 3 there are two folds over different pairs of the same identities. Each fold
    has as many pairs of one identity as of two, and no pair occurs twice.

    Args:
        images: Record keys of each identity.
        seed: Of every choice; the order of the mapping has no influence.
        most_folds: Largest number of folds.
        pairs_per_fold: Largest number of pairs of each kind in a fold.

    Returns:
        The pairs, or a sentence that says why none can be made.
    """
    shuffled = sorted(images, key=lambda name: stable_hash(seed, "fold", name))
    several = [name for name in shuffled if len(images[name]) > 1]
    single = [name for name in shuffled if len(images[name]) == 1]
    identities = len(several) + len(single)
    if identities < 2:
        return f"{identities} identity gives no pair of two identities"
    if not several:
        return "no identity has two images, so there is no pair of one identity"
    count = min(most_folds, identities // 2, len(several))
    if identities >= 4 and count >= 2:
        dealt: list[dict[str, Sequence[str]]] = [{} for _ in range(count)]
        for place, name in enumerate([*several, *single]):
            dealt[place % count][name] = images[name]
        drawn = [_draw(_Group(part), pairs_per_fold, generator(seed, "pairs", fold)) for fold, part in enumerate(dealt)]
        protocol = f"{count}-fold over seeded pairs"
        return _assembled(drawn, protocol, "no two folds share an identity")
    group = _Group(images)
    each = min(pairs_per_fold, group.count_positives() // 2, group.count_negatives() // 2)
    if each == 0:
        return f"{identities} identities with {sum(map(len, images.values()))} images give too few pairs for two folds"
    rng = generator(seed, "pairs", "shared")
    # drawn pairs are grouped by identity: shuffled, so that both folds get some of each
    positives, negatives = (
        [drawn[place] for place in rng.permutation(2 * each)]
        for drawn in (group.positives(2 * each, rng), group.negatives(2 * each, rng))
    )
    halves = [(positives[half::2], negatives[half::2]) for half in (0, 1)]
    note = f"both folds share the {identities} identities: too few to divide"
    return _assembled(halves, "2-fold over seeded pairs", note)


_Drawn = tuple[list[tuple[str, str]], list[tuple[str, str]]]


def _draw(group: _Group, most: int, rng: np.random.Generator) -> _Drawn:
    count = min(most, group.count_positives(), group.count_negatives())
    return group.positives(count, rng), group.negatives(count, rng)


def _assembled(drawn: Sequence[_Drawn], protocol: str, note: str) -> Pairs:
    keys: list[tuple[str, str]] = []
    same: list[bool] = []
    folds: list[int] = []
    for fold, (positives, negatives) in enumerate(drawn):
        keys += [*positives, *negatives]
        same += [True] * len(positives) + [False] * len(negatives)
        folds += [fold] * (len(positives) + len(negatives))
    return Pairs(keys, np.array(same, bool), np.array(folds, np.int64), protocol, note)
