"""Source specs: what a run reads, as a JSON object for each source.

Every kind is a dataclass below; its fields are the object's fields. All kinds take ``name`` (the first part of every
image's key), ``namespace`` (the first part of every identity; sources that name people alike share one),
``attributes`` (a CSV of ``path,gender,age``) and ``aligned`` (the template of images that are aligned already).
A location is a local path or an http(s) URL.

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
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from faceflow.components.common.errors import SourceError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.hashing import fingerprint

_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SCHEMES = ("http", "https", "file")

Layout = Literal["trillion_pairs", "lfw", "megaface", "facescrub", "insightface_rec", "insightface_bin", "folder"]


def _location(default: Any = MISSING) -> Any:
    """A field that holds a local path or an http(s) URL; an empty one is not used."""
    return field(default=default, metadata={"location": True})


def is_remote(location: str) -> bool:
    """Whether a location is an http(s) URL."""
    return location.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class Source:
    """Base of the kinds.

    Attributes:
        name: First part of every key; letters, digits, ``_``, ``.`` and ``-``. Every kind has a default.
        namespace: First part of every identity; the name by default. Give two sources one namespace where equal
            identity names mean the same person.
        attributes: CSV with a header and the columns ``path`` (``<identity>/<file>``), ``gender`` and ``age``.
        aligned: The template that the images are aligned to already, or empty.
    """

    kind: ClassVar[str]

    name: str = ""
    namespace: str = ""
    attributes: str = _location("")
    aligned: str = ""

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
        for label, location in self.locations.items():
            scheme = _SCHEME.match(location)
            if scheme and scheme.group(1).lower() not in _SCHEMES:
                raise self._wrong(label, "must be a local path or an http(s) URL")

    @property
    def locations(self) -> dict[str, str]:
        """The fields that say where something is, and what they hold; unused ones are left out."""
        return {
            item.name: getattr(self, item.name)
            for item in fields(self)
            if item.metadata.get("location") and getattr(self, item.name)
        }

    @property
    def spec(self) -> dict[str, Any]:
        """The JSON object, every default filled in."""
        return {"kind": self.kind, **asdict(self)}

    @property
    def spec_without_locations(self) -> dict[str, Any]:
        """The JSON object without paths and URLs: it is the same on every machine."""
        places = {item.name for item in fields(self) if item.metadata.get("location")}
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

    def _wrong(self, label: str, allowed: str) -> SourceError:
        called = self.name if isinstance(self.name, str) and self.name else self.kind
        return SourceError(f"source '{called}': {label} is {getattr(self, label)!r}, but {allowed}.")

    def _check_type(self, label: str, value: Any, hint: Any) -> None:
        if get_origin(hint) is Literal:
            if value not in get_args(hint):
                raise self._wrong(label, f"must be one of {', '.join(get_args(hint))}")
            return
        kinds = get_args(hint) or (hint,)
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

    archive: str = _location()
    landmarks: str = _location()


@dataclass(frozen=True, kw_only=True)
class Lfw(Source):
    """Labelled Faces in the Wild, or another set of its shape: ``<name>/<name>_0001.jpg`` and a pairs file.

    Attributes:
        archive: ``lfw.tgz`` or the like, or a folder.
        pairs: ``pairs.txt``: a header, then for each fold its same pairs and its different pairs.
    """

    kind = "lfw"

    archive: str = _location()
    pairs: str = _location()


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """``<identity>/<image>``, in a folder, .tar, .tar.gz or .zip.

    Attributes:
        path: The folder or archive.
        strip: Leading folders that wrap the identities; -1 finds out.
    """

    kind = "folder"

    path: str = _location()
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

    path: str = _location()
    list: str = _location()


@dataclass(frozen=True, kw_only=True)
class FaceScrub(Source):
    """FaceScrub probes: images named by a JSON list ``{"path": [...], "id": [...]}``.

    Attributes:
        path: The folder or archive of the images.
        list: The JSON list; images that it does not name are left alone.
    """

    kind = "facescrub"

    path: str = _location()
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


def _whole(value: Any) -> Any:
    """Whole floats as ints, lists included: KFP's parameters carry every JSON number as a float."""
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
