"""Source specs: what a run reads, as a JSON object for each source.

Every kind is a dataclass below; its fields are the object's fields. All kinds take ``name`` (the first part of every
image's key), ``namespace`` (the first part of every identity; sources that name people alike share one),
``attributes`` (a CSV of ``path,gender,age``), ``exclude`` (a list of identities and images to leave out), ``licence``
(the terms of a set of your own), ``aligned`` (the template of images that are aligned already),
``checksums`` and ``mirrors``. A location is a local path or an address that begins with ``file://``, ``http://``,
``https://``, ``s3://`` or ``gs://``; docs/sources.md has an example of each. An archive that was cut into parts is a
list of locations, or that of its first part.

| kind | example |
|---|---|
| synthetic | ``{"kind": "synthetic", "layout": "lfw", "identities": 40, "images_per_identity": [5, 60]}`` |
| trillion_pairs | ``{"kind": "trillion_pairs", "archive": "train_msra.tar.gz", "landmarks": "msra_lmk"}`` |
| lfw | ``{"kind": "lfw", "archive": "lfw.tgz", "pairs": "pairs.txt"}`` |
| folder | ``{"kind": "folder", "path": "photos.zip", "attributes": "photos.csv"}`` |
| insightface | ``{"kind": "insightface", "path": "faces_emore"}``, or a ``.bin`` |
| megaface | ``{"kind": "megaface", "path": "megaface_images", "list": "megaface_features_list.json_1000000_1"}`` |
| facescrub | ``{"kind": "facescrub", "path": "facescrub.tar.gz", "list": "facescrub_features_list.json"}`` |
| held_out | ``{"kind": "held_out"}`` |
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from types import UnionType
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from faceflow.components.common.errors import SourceError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.hashing import fingerprint

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SCHEMES = {
    "file": "file:///data/set.tar.gz",
    "http": "http://example.org/set.tar.gz",
    "https": "https://example.org/set.tar.gz",
    "s3": "s3://bucket/set.tar.gz",
    "gs": "gs://bucket/set.tar.gz",
}
"""The schemes that a location may have, each with an example; one without a scheme is a local path."""
DIGESTS = {"md5": 32, "sha256": 64}
"""The checksums that a file can be compared with, and the hexadecimal digits of each."""

Layout = Literal["trillion_pairs", "lfw", "megaface", "facescrub", "insightface_rec", "insightface_bin", "folder"]
VerificationLayout = Literal["lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"]


def _location(default: Any = MISSING) -> Any:
    """A field that holds a location; an empty one is not used."""
    return field(default=default, metadata={"location": True})


def scheme_of(location: str) -> str:
    """The scheme of a location in small letters, or nothing for a plain path."""
    found = _SCHEME.match(location)
    return found.group(1).lower() if found else ""


def is_remote(location: str) -> bool:
    """Whether a location is on a server: http(s), s3 or gs."""
    return scheme_of(location) not in ("", "file")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Base of the kinds.

    Attributes:
        name: First part of every key; letters, digits, ``_``, ``.`` and ``-``. Every kind has a default.
        namespace: First part of every identity; the name by default. Give two sources one namespace where equal
            identity names mean the same person.
        attributes: CSV with a header and the columns ``path`` (``<identity>/<file>``), ``gender`` and ``age``.
        aligned: The template that the images are aligned to already, or empty.
        exclude: A text file that names identities or images to leave out, one a line, such as those that an evaluation
            set has too. An identity stands by itself (``m.0107_f``), an image as ``<identity>/<file>``; both may have
            the namespace or the name of the source before them. ``#`` begins a comment.
        licence: The terms of a set that faceflow does not know; they are printed and noted in the manifests.
        checksums: What the files must have, for any of the location fields: ``{"archive": "md5:..."}`` or ``sha256:``.
            Of an archive in parts, one of the whole, or a list with one for each part.
        mirrors: Where else the files are, for any of the location fields: ``{"archive": ["https://...", ...]}``, in
            the order in which they are tried.
    """

    kind: ClassVar[str]

    name: str = ""
    namespace: str = ""
    attributes: str = _location("")
    aligned: str = ""
    exclude: str = _location("")
    licence: str = ""
    checksums: dict[str, Any] = field(default_factory=dict)
    mirrors: dict[str, Any] = field(default_factory=dict, metadata={"places": True})

    def __post_init__(self) -> None:
        """Check types and values.

        Raises:
            SourceError: Names the field and what it may hold.
        """
        hints = get_type_hints(type(self))
        for item in fields(self):
            self._check_type(item.name, getattr(self, item.name), hints[item.name])
        object.__setattr__(self, "name", self.name or self.kind.replace("_", "-"))
        object.__setattr__(self, "namespace", self.namespace or self.name)
        for label in ("name", "namespace"):
            value = getattr(self, label)
            if not _NAME.fullmatch(value) or value in (".", ".."):
                raise SourceError(
                    f"source of kind '{self.kind}': {label} is {value!r}, but may only have letters, digits and '_.-'."
                )
        if self.aligned and self.aligned not in TEMPLATES:
            raise self._wrong("aligned", f"must be one of {', '.join(TEMPLATES)}, or be left out")
        for label, parts in self.locations.items():
            self._check_locations(parts, label, getattr(self, label))
        self._check_mirrors()
        self._check_checksums()

    @property
    def locations(self) -> dict[str, list[str]]:
        """The fields that say where something is, and the parts it is in, mostly one; unused fields are left out."""
        return {
            item.name: _listed(getattr(self, item.name))
            for item in fields(self)
            if item.metadata.get("location") and getattr(self, item.name)
        }

    def places(self, label: str) -> list[list[str]]:
        """Where the file of a location field is: the parts there, then those of each mirror."""
        return [self.locations[label], *(_listed(mirror) for mirror in _listed(self.mirrors.get(label, [])))]

    @property
    def spec(self) -> dict[str, Any]:
        """The JSON object, every default filled in."""
        return {"kind": self.kind, **asdict(self)}

    @property
    def spec_without_locations(self) -> dict[str, Any]:
        """The JSON object without paths and URLs: it is the same on every machine."""
        places = {item.name for item in fields(self) if item.metadata.get("location") or item.metadata.get("places")}
        return {label: value for label, value in self.spec.items() if label not in places}

    @property
    def fingerprint(self) -> str:
        """A digest of :attr:`spec`."""
        return fingerprint(self.spec)

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> Self:
        """Make a source from the fields of its object, ``kind`` left out.

        Raises:
            SourceError: A field is unknown, missing or has a value that is not allowed.
        """
        known = {item.name: item for item in fields(cls)}
        for label in given:
            if label not in known:
                near = difflib.get_close_matches(str(label), known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it may have {', '.join(['kind', *known])}."
                raise SourceError(f"source of kind '{cls.kind}' has an unknown field '{label}': {hint}")
        for label, item in known.items():
            needed = item.default is MISSING and item.default_factory is MISSING
            if needed and not given.get(label):
                raise SourceError(f"source of kind '{cls.kind}' lacks '{label}': add it, for instance {cls.example()}.")
        return cls(**given)

    @classmethod
    def example(cls) -> str:
        """The JSON of a source of this kind, as the table above has it."""
        row = re.search(rf"^\| {cls.kind} \| ``(\{{.*?\}})``", __doc__ or "", re.MULTILINE)
        return row.group(1) if row else cls.kind

    def _check_locations(self, parts: list[str], label: str, shown: Any) -> None:
        """Refuse what is no location, and an address that lacks the bucket or the key."""
        for location in parts:
            if not isinstance(location, str) or not location:
                raise self._wrong(label, "must be a location, or a list of the locations of its parts", shown)
            scheme = scheme_of(location)
            if scheme and scheme not in SCHEMES:
                schemes = ", ".join(f"{each}://" for each in SCHEMES)
                raise self._wrong(label, f"must be a local path or an address that begins with {schemes}", shown)
            if scheme in ("s3", "gs"):
                bucket, _, key = location.partition("://")[2].partition("/")
                if not bucket or not key:
                    raise self._wrong(label, f"must name a bucket and what lies in it: {SCHEMES[scheme]}", shown)

    def _check_mirrors(self) -> None:
        for label, mirrors in self.mirrors.items():
            field_name = f"mirrors.{label}"
            if label not in self.locations:
                raise self._wrong("mirrors", f"may only have {', '.join(self.locations) or 'nothing here'}")
            if not isinstance(mirrors, list):
                raise self._wrong(field_name, "must be a list of locations, the first to try first", mirrors)
            for parts in map(_listed, mirrors):
                self._check_locations(parts, field_name, mirrors)
                if len(parts) != len(self.locations[label]):
                    wanted = len(self.locations[label])
                    raise self._wrong(field_name, f"must have as many parts as {label}, {wanted}", mirrors)

    def _check_checksums(self) -> None:
        for label, given in self.checksums.items():
            if label not in self.locations:
                raise self._wrong("checksums", f"may only have {', '.join(self.locations) or 'nothing here'}")
            if isinstance(given, list) and len(given) != len(self.locations[label]):
                wanted = len(self.locations[label])
                raise self._wrong(f"checksums.{label}", f"must have one for each of the {wanted} parts", given)
            for text in _listed(given):
                name, _, digits = text.partition(":") if isinstance(text, str) else ("", "", "")
                if not re.fullmatch(rf"[0-9a-fA-F]{{{DIGESTS.get(name, 0)}}}", digits) or not digits:
                    raise self._wrong(
                        f"checksums.{label}", "must be md5: with 32 or sha256: with 64 hexadecimal digits", given
                    )

    def _wrong(self, label: str, allowed: str, shown: Any = MISSING) -> SourceError:
        called = self.name if isinstance(self.name, str) and self.name else self.kind
        value = getattr(self, label) if shown is MISSING else shown
        return SourceError(f"source '{called}': {label} is {value!r}, but {allowed}.")

    def _check_type(self, label: str, value: Any, hint: Any) -> None:
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise self._wrong(label, f"must be one of {', '.join(get_args(hint))}")
            return
        kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
        plain = tuple(get_origin(kind) or kind for kind in kinds)
        if not isinstance(value, plain) or isinstance(value, bool):
            names = ("null" if kind is type(None) else kind.__name__ for kind in plain)
            raise self._wrong(label, f"must be of type {' or '.join(names)}")


@dataclass(frozen=True, kw_only=True)
class Synthetic(Source):
    """Rendered faces, written in a real set's layout and read back through that set's reader.

    Attributes:
        layout: The real layout; ``megaface`` gives the distractors of a challenge and ``facescrub`` its probes.
        identities: People.
        images_per_identity: Images of each, or [fewest, most].
        seed: Of everything; the stage's seed if None.
        size_px: Side of a rendered image; that of the real set if None. The ``insightface_*`` layouts hold aligned
            112x112 crops of them.
    """

    kind = "synthetic"

    layout: Layout = "folder"
    identities: int = 40
    images_per_identity: int | list[int] = 20
    seed: int | None = None
    size_px: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers too."""
        for label in ("identities", "images_per_identity", "seed", "size_px"):
            object.__setattr__(self, label, _whole(getattr(self, label)))
        super().__post_init__()
        if self.identities < 2:
            raise self._wrong("identities", "must be at least 2: with one there is nothing to tell apart")
        few, many = self.images_range
        if not 1 <= few <= many:
            raise self._wrong("images_per_identity", "must be at least 1, or [fewest, most]")
        if self.size_px is not None and not 64 <= self.size_px <= 512:
            raise self._wrong("size_px", "must be 64 to 512, or null for the real set's")

    @property
    def images_range(self) -> tuple[int, int]:
        """Fewest and most images of an identity.

        Raises:
            SourceError: The list has not two whole numbers.
        """
        if isinstance(self.images_per_identity, int):
            return self.images_per_identity, self.images_per_identity
        if len(self.images_per_identity) != 2 or not all(type(count) is int for count in self.images_per_identity):
            raise self._wrong("images_per_identity", "must be a whole number or [fewest, most]")
        return self.images_per_identity[0], self.images_per_identity[1]


@dataclass(frozen=True, kw_only=True)
class TrillionPairs(Source):
    """A Trillion Pairs set (DeepGlint): ``<set>/<identity>/<file>`` in a tar, and the landmarks beside it.

    Attributes:
        archive: ``train_msra.tar.gz``, ``train_celebrity.tar.gz`` or the like, or a folder of the same shape.
        landmarks: The ``_lmk`` file: plain, gzipped, or alone in a tar.
    """

    kind = "trillion_pairs"

    archive: str | list[str] = _location()
    landmarks: str = _location()


@dataclass(frozen=True, kw_only=True)
class Lfw(Source):
    """A verification set: Labelled Faces in the Wild, or one of the family.

    Attributes:
        layout: ``lfw``: ``<name>/<name>_0001.jpg`` and a pairs file. ``cfp_fp``: ``Data/Images`` and ``Protocol`` as
            CFP has them. ``calfw``, ``cplfw``, ``agedb_30``: images in one folder and a list of pairs of their names.
        archive: ``lfw.tgz`` or the like, or a folder.
        pairs: ``pairs.txt``: a header, then for each fold its same pairs and its different pairs; or the list of the
            layout. Of CFP the folder ``Protocol``, where it is not in the archive.
    """

    kind = "lfw"

    layout: VerificationLayout = "lfw"
    archive: str | list[str] = _location()
    pairs: str = _location("")

    def __post_init__(self) -> None:
        """Check that there are pairs too."""
        super().__post_init__()
        if not self.pairs and self.layout != "cfp_fp":
            raise SourceError(
                f"source of kind 'lfw' lacks 'pairs': add it, for instance {type(self).example()}. Only the archive "
                'of "layout": "cfp_fp" has them in it.'
            )


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """``<identity>/<image>``, in a folder, .tar, .tar.gz or .zip.

    Attributes:
        path: The folder or archive.
        strip: Leading folders that wrap the identities; -1 finds out.
    """

    kind = "folder"

    path: str | list[str] = _location()
    strip: int = -1

    def __post_init__(self) -> None:
        """Check the number too."""
        object.__setattr__(self, "strip", _whole(self.strip))
        super().__post_init__()
        if self.strip < -1:
            raise self._wrong("strip", "must be -1 (find out) or the number of leading folders to leave out")


@dataclass(frozen=True, kw_only=True)
class InsightFace(Source):
    """An InsightFace training set (``.rec``, ``.idx``, ``property``) or verification set (``.bin``).

    Both hold images that are aligned already, so ``aligned`` is ``arcface_112`` unless given; an empty text has the
    faces detected afresh.

    Attributes:
        path: The folder with the ``.rec``, or one ``.bin``.
    """

    kind = "insightface"

    path: str = _location()
    aligned: str = "arcface_112"


@dataclass(frozen=True, kw_only=True)
class MegaFace(Source):
    """MegaFace distractors: images named by a JSON list ``{"path": [...]}``.

    Attributes:
        path: The folder or archive of the images.
        list: The JSON list; images that it does not name are left alone.
    """

    kind = "megaface"

    path: str | list[str] = _location()
    list: str = _location()


@dataclass(frozen=True, kw_only=True)
class FaceScrub(Source):
    """FaceScrub probes: images named by a JSON list ``{"path": [...], "id": [...]}``.

    Attributes:
        path: The folder or archive of the images.
        list: The JSON list; images that it does not name are left alone.
    """

    kind = "facescrub"

    path: str | list[str] = _location()
    list: str = _location()


@dataclass(frozen=True, kw_only=True)
class HeldOut(Source):
    """For evaluation: the identities that augment held out. There is nothing to download."""

    kind = "held_out"


KINDS: dict[str, type[Source]] = {
    each.kind: each for each in (Synthetic, TrillionPairs, Lfw, Folder, InsightFace, MegaFace, FaceScrub, HeldOut)
}


def parse(spec: Any) -> Source:
    """Check a source spec.

    Args:
        spec: The JSON object, as the run form or a preset has it.

    Raises:
        SourceError: Names the field, its value, and what is allowed.
    """
    if not isinstance(spec, Mapping):
        raise SourceError(f"a source is {spec!r}, but must be a JSON object such as {Folder.example()}.")
    kind = spec.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        near = difflib.get_close_matches(kind, KINDS, n=1) if isinstance(kind, str) else []
        hint = f"did you mean '{near[0]}'?" if near else f"it must be one of {', '.join(KINDS)}."
        lacking = "a source lacks 'kind'" if kind is None else f"a source has the unknown kind {kind!r}"
        raise SourceError(f"{lacking}: {hint}")
    return KINDS[kind].from_fields({label: value for label, value in spec.items() if label != "kind"})


def parse_all(specs: Sequence[Any]) -> list[Source]:
    """Check the sources of one run.

    Raises:
        SourceError: One of them is wrong, or two have one name, which would make their images' keys collide.
    """
    sources = [parse(spec) for spec in specs]
    names: set[str] = set()
    for source in sources:
        if source.name in names:
            raise SourceError(
                f"two sources are named '{source.name}': give each a name of its own "
                "(and one 'namespace' if equal identity names mean the same person)."
            )
        names.add(source.name)
    return sources


def _listed(value: Any) -> list[Any]:
    """The value if it is a list, otherwise a list of it alone."""
    return value if isinstance(value, list) else [value]


def _whole(value: Any) -> Any:
    """Whole floats as ints, lists included: KFP's parameters carry every JSON number as a float."""
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
