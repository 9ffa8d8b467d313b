"""What the publishers of known sets say of their use: printed once, and carried by the manifests to the model.

A set is known by the kind of its source and the names of its files, so a renamed archive goes unnoticed: the terms are
then the reader's to give, as ``licence`` in the source spec. A notice is a pointer and no advice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from faceflow.components.common.sources import Source


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A published set.

    Attributes:
        name: What it is called.
        terms: What its publisher says, and where.
        kinds: Kinds of source that it comes as.
        files: Pattern of the names of its archives or folders, in small letters; an empty one fits every name.
    """

    name: str
    terms: str
    kinds: tuple[str, ...]
    files: str = ""

    @property
    def notice(self) -> str:
        """The two in a sentence."""
        return f"{self.name}: {self.terms}"


_RESEARCH = "for non-commercial research purposes only"
_WITHDRAWN = "its publisher has withdrawn it, and gave it"

KNOWN: tuple[KnownSet, ...] = (
    KnownSet("Trillion Pairs (DeepGlint)", "CC BY-NC 4.0, attribution, no commercial use", ("trillion_pairs",)),
    KnownSet(
        "MS-Celeb-1M",
        f"{_WITHDRAWN} {_RESEARCH}; what was derived from it has no better title",
        ("trillion_pairs", "insightface", "folder"),
        r"ms-?celeb|train_msra|msra|ms1m|faces_emore",
    ),
    KnownSet(
        "InsightFace data",
        f"training data with their annotation, and the models trained with them, are {_RESEARCH} "
        "(github.com/deepinsight/insightface)",
        ("insightface",),
    ),
    KnownSet("Glint360K", f"published by InsightFace {_RESEARCH}", ("folder",), r"glint360k"),
    KnownSet(
        "Labeled Faces in the Wild",
        "photographs from the news, whose rights remain with their owners; its publisher warns against concluding from "
        "it that an algorithm suits a commercial purpose",
        ("lfw", "insightface"),
        r"(?<![acp])lfw",
    ),
    KnownSet("CFP", "given on request for research", ("lfw", "insightface"), r"cfp"),
    KnownSet("AgeDB", f"given on request {_RESEARCH}", ("lfw", "insightface"), r"agedb"),
    KnownSet(
        "CALFW and CPLFW", "photographs of LFW's people; published for research", ("lfw", "insightface"), r"c[ap]lfw"
    ),
    KnownSet(
        "MegaFace",
        f"{_WITHDRAWN} {_RESEARCH}; photographs from Flickr, each under its own Creative Commons licence",
        ("megaface",),
    ),
    KnownSet(
        "FaceScrub",
        "a list of addresses; the photographs belong to the sites that show them, and the list is for research",
        ("facescrub",),
    ),
    KnownSet("CASIA-WebFace", f"given on request {_RESEARCH}", ("folder", "insightface"), r"casia|webface"),
    KnownSet(
        "VGGFace2",
        "its publisher has withdrawn it; the rights in the photographs remain with their owners",
        ("folder", "insightface"),
        r"vgg-?_?face_?-?2",
    ),
    KnownSet(
        "VGG-Face",
        "its publisher has withdrawn it; the rights in the photographs remain with their owners",
        ("folder",),
        r"vgg-?_?face(?!_?-?2)",
    ),
)


def notices(source: Source, names: Iterable[str]) -> list[str]:
    """The notices that belong to a source.

    Args:
        source: The source; its own ``licence`` comes first.
        names: Names of its files and folders.
    """
    own = [f"{source.name}: {source.licence}"] if source.licence else []
    lowered: Sequence[str] = [name.lower() for name in names]
    return own + [
        known.notice
        for known in KNOWN
        if source.kind in known.kinds and any(re.search(known.files, name) for name in lowered)
    ]


MD5S = {
    "train_msra.tar.gz": "c5b668f2204c400099b14f367069aef5",
    "msra_lmk.tar.gz": "7c053dd0462b4af243bb95b7b31da6e6",
    "train_celebrity.tar.gz": "9f2e9858afb6c1032c4f9d7332a92064",
    "celebrity_lmk.tar.gz": "9c0260c77c13fbb32692fc06a5dbfaf0",
    "testdata.tar.gz": "f17c4712f7562ea6d45f0a158e59b792",
}
"""MD5 of the Trillion Pairs archives, by their published names."""
