"""One face record, and its encoding as a ``tf.train.Example``.

``schema.pbtxt`` beside this module describes the fields. The Example message is declared here in a private descriptor
pool: it is wire-compatible with TensorFlow's, without importing TensorFlow into stages that only move bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from faceflow.components.common import wire
from faceflow.components.common.errors import DatasetError

SCHEMA_PATH = Path(__file__).with_name("schema.pbtxt")
ONLINE_VARIANTS = "online_variants"


def _example_class() -> Any:
    """Declare ``tensorflow.Example`` (tensorflow/core/example/example.proto and feature.proto)."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="faceflow/example.proto", package="faceflow", syntax="proto3")
    lists = (("BytesList", kinds.TYPE_BYTES), ("FloatList", kinds.TYPE_FLOAT), ("Int64List", kinds.TYPE_INT64))
    for name, kind in lists:
        file.message_type.add(name=name).field.add(name="value", number=1, label=kinds.LABEL_REPEATED, type=kind)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, _) in enumerate(lists, start=1):
        feature.field.add(
            name=name.removesuffix("List").lower() + "_list",
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=f".faceflow.{name}",
            oneof_index=0,
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_STRING)
    entry.field.add(
        name="value", number=2, label=kinds.LABEL_OPTIONAL, type=kinds.TYPE_MESSAGE, type_name=".faceflow.Feature"
    )
    features.field.add(
        name="feature",
        number=1,
        label=kinds.LABEL_REPEATED,
        type=kinds.TYPE_MESSAGE,
        type_name=".faceflow.Features.FeatureEntry",
    )
    file.message_type.add(name="Example").field.add(
        name="features",
        number=1,
        label=kinds.LABEL_OPTIONAL,
        type=kinds.TYPE_MESSAGE,
        type_name=".faceflow.Features",
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("faceflow.Example"))


_Example = _example_class()


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One face.

    Attributes:
        key: Unique name, ``<source>/<identity>/<file>``.
        identity: Whose face it is, ``<namespace>/<identity>``.
        image: The encoded image.
        height: Rows of the upright image, pixels.
        width: Columns of the upright image, pixels.
        landmarks: (5, 2) float32, x and y in pixels of the upright image: image-left eye, image-right eye, nose,
            mouth left, mouth right; None if unknown.
        score: The detector's confidence; None where no detector ran.
        variant: Empty, or the augmentation applied.
        online_variants: Augmentations that the training applies to this image, each an image more in every epoch.
        label: Dense class index, set by pack.
        gender: ``female`` or ``male``; None if unknown.
        age: Years; None if unknown.
        box: (4,) float32 left, top, right and bottom of the face that the source means, in pixels of the upright image;
            None if it gives none. Only raw records have one.
    """

    key: str
    identity: str
    image: bytes
    height: int
    width: int
    landmarks: NDArray[np.float32] | None = None
    score: float | None = None
    variant: str = ""
    online_variants: tuple[str, ...] = ()
    label: int | None = None
    gender: str | None = None
    age: float | None = None
    box: NDArray[np.float32] | None = None

    def __eq__(self, other: object) -> bool:
        """Compare by value, to the bit."""
        return isinstance(other, Record) and self.encode() == other.encode()

    def __hash__(self) -> int:
        """Hash the key, which is unique."""
        return hash(self.key)

    def encode(self) -> bytes:
        """Serialise as a ``tf.train.Example``; equal records give equal bytes."""
        example = _Example()
        feature = example.features.feature
        feature["key"].bytes_list.value.append(self.key.encode())
        feature["identity"].bytes_list.value.append(self.identity.encode())
        feature["image/encoded"].bytes_list.value.append(self.image)
        feature["image/height"].int64_list.value.append(self.height)
        feature["image/width"].int64_list.value.append(self.width)
        feature["variant"].bytes_list.value.append(self.variant.encode())
        if self.online_variants:
            feature[ONLINE_VARIANTS].bytes_list.value.extend(name.encode() for name in self.online_variants)
        if self.landmarks is not None:
            if self.landmarks.shape != (5, 2):
                raise ValueError(f"{self.key}: landmarks must have shape (5, 2), not {self.landmarks.shape}")
            feature["landmarks"].float_list.value.extend(self.landmarks.ravel().tolist())
        if self.score is not None:
            feature["detector/score"].float_list.value.append(self.score)
        if self.label is not None:
            feature["label"].int64_list.value.append(self.label)
        if self.gender is not None:
            feature["gender"].bytes_list.value.append(self.gender.encode())
        if self.age is not None:
            feature["age"].float_list.value.append(self.age)
        if self.box is not None:
            if self.box.shape != (4,):
                raise ValueError(f"{self.key}: box must have shape (4,), not {self.box.shape}")
            feature["box"].float_list.value.extend(self.box.tolist())
        data: bytes = example.SerializeToString(deterministic=True)
        return data

    @classmethod
    def decode(cls, payload: bytes) -> Record:
        """Parse a serialised Example.

        Raises:
            DatasetError: The bytes are no Example, or a required field is missing.
        """
        feature = _features(payload)
        try:
            points = feature["landmarks"].float_list.value if "landmarks" in feature else None
            box = feature["box"].float_list.value if "box" in feature else None
            return cls(
                key=feature["key"].bytes_list.value[0].decode(),
                identity=feature["identity"].bytes_list.value[0].decode(),
                image=feature["image/encoded"].bytes_list.value[0],
                height=feature["image/height"].int64_list.value[0],
                width=feature["image/width"].int64_list.value[0],
                landmarks=None if points is None else np.array(points, np.float32).reshape(5, 2),
                score=feature["detector/score"].float_list.value[0] if "detector/score" in feature else None,
                variant=feature["variant"].bytes_list.value[0].decode(),
                online_variants=_online_variants(feature),
                label=feature["label"].int64_list.value[0] if "label" in feature else None,
                gender=feature["gender"].bytes_list.value[0].decode() if "gender" in feature else None,
                age=feature["age"].float_list.value[0] if "age" in feature else None,
                box=None if box is None else np.array(box, np.float32).reshape(4),
            )
        except (KeyError, IndexError, ValueError) as error:
            raise DatasetError(
                f"a record does not fit schema.pbtxt ({error!r}): fields {sorted(feature)}. "
                "It was not written by this version of faceflow: run the stage that wrote it again."
            ) from error


def _features(payload: bytes) -> Mapping[str, Any]:
    try:
        parsed = _Example.FromString(payload).features.feature
    except Exception as error:  # protobuf's own DecodeError class differs between its implementations
        raise DatasetError(f"a record is not a tf.train.Example: {error}") from error
    # A map field creates an entry when a missing key is read; a plain dict raises instead.
    return {name: parsed[name] for name in parsed}


def peek(payload: bytes) -> tuple[str, str, str]:
    """Key, identity and variant of a serialised record.

    Raises:
        DatasetError: The bytes are no record.
    """
    seen = glanced(payload)
    return seen.key.decode(), seen.identity.decode(), seen.variant.decode()


def glanced(payload: bytes) -> wire.Glance:
    """The names of a serialised record and the places where fields can be set.

    A record that another program wrote, with its fields in another order or with fields of its own, is first written
    again as :meth:`Record.encode` writes it.

    Raises:
        DatasetError: The bytes are no record.
    """
    seen = wire.glance(payload) or wire.glance(Record.decode(payload).encode())
    assert seen is not None  # what encode() writes has the shape that glance() reads
    return seen


def online_variants(payload: bytes) -> tuple[str, ...]:
    """The online variants of a serialised record.

    Raises:
        DatasetError: The bytes are no record.
    """
    return glanced(payload).online_variants


def _online_variants(feature: Mapping[str, Any]) -> tuple[str, ...]:
    found = feature.get(ONLINE_VARIANTS)
    return () if found is None else tuple(name.decode() for name in found.bytes_list.value)


def variant_key(key: str, variant: str) -> str:
    """The key of an augmented copy: its source image's key with ``#<variant>`` appended."""
    return f"{key}#{variant}"
