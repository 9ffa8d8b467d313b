"""Names of people who do not exist: a given name that fits the gender, and a surname put together from syllables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

_ACCENTED: dict[Gender, tuple[str, ...]] = {
    "female": ("Zoë", "Åsa", "Šárka", "Renée", "Çağla", "美咲", "Ελένη"),
    "male": ("José", "Jürgen", "Łukasz", "Øystein", "Đorđe", "Николай", "健"),
}


def surname(rng: np.random.Generator) -> str:
    """A surname of two or three syllables."""
    syllables = [_ONSETS[rng.integers(len(_ONSETS))] + _RIMES[rng.integers(len(_RIMES))]]
    if rng.uniform() < 0.4:
        syllables.append(_ONSETS[rng.integers(len(_ONSETS))] + _RIMES[rng.integers(len(_RIMES))])
    return ("".join(syllables) + _ENDINGS[rng.integers(len(_ENDINGS))]).capitalize()


def full_names(sitters: Sequence[Sitter], accented: Callable[[int], bool] = lambda index: False) -> list[str]:
    """One name, ``Given_Surname``, for each sitter; all different, and each fits its sitter's gender.

    A name that is taken gets another surname beside the first.

    Args:
        sitters: The people.
        accented: Whether the given name of the sitter at an index has letters beyond ASCII.
    """
    taken: set[str] = set()
    names = []
    for index, sitter in enumerate(sitters):
        rng = generator(sitter.seed, "name")
        given = (_ACCENTED if accented(index) else _GIVEN)[make_identity(sitter.seed).gender]
        name = f"{given[rng.integers(len(given))]}_{surname(rng)}"
        while name in taken:
            name = f"{name}_{surname(rng)}"
        taken.add(name)
        names.append(name)
    return names
