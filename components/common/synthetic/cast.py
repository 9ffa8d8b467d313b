"""The cast of a set: who appears in it, and in how many pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.hashing import generator, stable_hash


@dataclass(frozen=True, slots=True)
class Sitter:
    """One identity of a set.

    Attributes:
        seed: The identity's seed.
        images: How many pictures are taken; their seeds are 0 .. images - 1.
    """

    seed: int
    images: int


def image_range(images_per_identity: int | Sequence[int]) -> tuple[int, int]:
    """The fewest and the most pictures of an identity, from one number or a pair.

    Raises:
        SettingsError: Neither a positive number nor a pair of positive numbers in order.
    """
    given = [images_per_identity] * 2 if isinstance(images_per_identity, int) else list(images_per_identity)
    if len(given) != 2 or not all(isinstance(n, int) and n >= 1 for n in given) or given[0] > given[1]:
        raise SettingsError(
            f"images_per_identity is {images_per_identity!r}, but must be a number of at least 1, "
            "or the fewest and the most as a pair, for instance [5, 20]."
        )
    return given[0], given[1]


def identity_seed(seed: int, index: int, role: str = "identity") -> int:
    """The seed of a set's identity: a 64-bit hash, so that sets of different seeds or roles never share a person."""
    return stable_hash(seed, "synthetic", role, index)


def make_cast(seed: int, identities: int, images_per_identity: int | Sequence[int]) -> list[Sitter]:
    """Choose the identities of a set and draw how many pictures each gets, evenly between the fewest and the most."""
    fewest, most = image_range(images_per_identity)
    sitters = []
    for index in range(identities):
        person = identity_seed(seed, index)
        sitters.append(Sitter(person, int(generator(person, "images").integers(fewest, most + 1))))
    return sitters
