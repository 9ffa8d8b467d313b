"""Names of people who do not exist: a given name that fits the gender, and a surname put together from syllables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from faceflow.components.common.hashing import generator
from faceflow.components.common.synthetic.cast import Sitter
from faceflow.components.common.synthetic.identity import Gender, make_identity

_GIVEN: dict[Gender, tuple[str, ...]] = {
    "female": (
        "Ada", "Alma", "Bela", "Clara", "Dina", "Edda", "Fara", "Gita", "Hana", "Ines", "Jana", "Kaia", "Lena", "Mira",
        "Nadia", "Olga", "Petra", "Rosa", "Sana", "Tilda", "Uma", "Vera", "Wanda", "Yara", "Zita",
    ),
    "male": (
        "Adam", "Boris", "Carl", "Dario", "Emil", "Felix", "Goran", "Hugo", "Igor", "Jonas", "Karim", "Lars", "Milan",
        "Nils", "Omar", "Pavel", "Ravi", "Samir", "Tomas", "Ugo", "Viktor", "Willem", "Xaver", "Yusuf", "Zoltan",
    ),
}  # fmt: skip
_ONSETS = ("b", "br", "d", "f", "g", "gr", "h", "k", "kl", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
_RIMES = ("a", "al", "an", "ar", "e", "el", "en", "er", "i", "il", "in", "o", "ol", "on", "or", "u", "ul", "um")
_ENDINGS = ("berg", "da", "dahl", "ek", "ley", "man", "mar", "nen", "ner", "ov", "rik", "sen", "son", "ti", "vic")

ACCENTED_GIVEN = (
    "Zoë",
    "José",
    "Åsa",
    "Jürgen",
    "Šárka",
    "Łukasz",
    "Renée",
    "Øystein",
    "Çağla",
    "Николай",
    "美咲",
    "Ελένη",
)
"""Given names with letters beyond ASCII, for sets that should have some."""


def surname(rng: np.random.Generator) -> str:
    """A surname of two or three syllables."""
    syllables = [_ONSETS[rng.integers(len(_ONSETS))] + _RIMES[rng.integers(len(_RIMES))]]
    if rng.uniform() < 0.4:
        syllables.append(_ONSETS[rng.integers(len(_ONSETS))] + _RIMES[rng.integers(len(_RIMES))])
    return ("".join(syllables) + _ENDINGS[rng.integers(len(_ENDINGS))]).capitalize()


def given_name(gender: Gender, rng: np.random.Generator) -> str:
    """A given name."""
    names = _GIVEN[gender]
    return names[rng.integers(len(names))]


def full_names(sitters: Sequence[Sitter], separator: str = "_") -> list[str]:
    """One name, ``Given_Surname``, for each sitter; all different, and each fits its sitter's gender.

    A name that is taken gets another surname beside the first.
    """
    taken: set[str] = set()
    names = []
    for sitter in sitters:
        rng = generator(sitter.seed, "name")
        name = separator.join([given_name(make_identity(sitter.seed).gender, rng), surname(rng)])
        while name in taken:
            name = separator.join([name, surname(rng)])
        taken.add(name)
        names.append(name)
    return names
