"""A serialised record's names and few small fields, read and set without parsing the picture.

A record is written with its fields in the order of their names, so the bytes around the picture have one shape, which
two regular expressions match; a parser would copy the picture and build an object for every field, at several times
the cost of copying the record. What does not have that shape, because another program wrote it, is left to the parser:
:func:`glance` says None.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

_VARINT = rb"[\x80-\xff]{0,4}[\x00-\x7f]"


def _entry(name: str, value: bytes) -> bytes:
    """Pattern of one entry of the map from names to features (tensorflow/core/example/feature.proto)."""
    text = re.escape(name.encode())
    return rb"\n" + _VARINT + rb"\n" + re.escape(bytes([len(name)])) + text + rb"\x12" + _VARINT + value


def _bytes(value: bytes) -> bytes:
    return rb"\n" + _VARINT + rb"\n" + value


_NUMBER = rb"\x1a[\x03-\x0c]\n[\x01-\x0a]" + rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_FLOAT = rb"\x12\x06\n\x04.{4}"


def _head(box: bytes = b"") -> re.Pattern[bytes]:
    return re.compile(
        rb"\n(" + _VARINT + rb")"
        rb"(?:" + _entry("age", _FLOAT) + rb")?" + box
        + rb"(?:" + _entry("detector/score", _FLOAT) + rb")?"
        rb"(?:" + _entry("gender", _bytes(_VARINT + rb"(?:fe)?male")) + rb")?"
        + _entry("identity", _bytes(rb"(" + _VARINT + rb")")),
        re.DOTALL,
    )  # fmt: skip


_HEAD = _head()
# Only raw records have a box, and they are read at a glance least often: the others are not searched for one.
_HEAD_WITH_BOX = _head(_entry("box", rb"\x12\x12\n\x10.{16}"))
_IMAGE = re.compile(_entry("image/encoded", _bytes(rb"(" + _VARINT + rb")")), re.DOTALL)
_KEY = re.compile(
    _entry("image/height", _NUMBER) + _entry("image/width", _NUMBER) + _entry("key", _bytes(rb"(" + _VARINT + rb")")),
    re.DOTALL,
)
_REST = re.compile(
    rb"((?:" + _entry("label", _NUMBER) + rb")?)"
    rb"(?:" + _entry("landmarks", rb"\x12\x2a\n\x28.{40}") + rb")?"
    rb"((?:" + _entry("online_variants", rb"\n" + _VARINT + rb"(?:\n" + _VARINT + rb"[ -~]+?)+") + rb")?)"
    + _entry("variant", _bytes(rb"(" + _VARINT + rb")")),
    re.DOTALL,
)  # fmt: skip


_ONLINE_HEAD = re.compile(_entry("online_variants", rb"\n" + _VARINT), re.DOTALL)
_ONE_NAME = re.compile(rb"\n(" + _VARINT + rb")", re.DOTALL)


class Glance:
    """What is seen of a serialised record at a glance.

    Attributes:
        payload: The record.
        key: Its key, UTF-8.
        identity: Its identity, UTF-8.
        variant: Its variant, UTF-8.
    """

    __slots__ = (
        "_body", "_label_begin", "_label_end", "_online_begin", "_online_end",
        "identity", "key", "payload", "variant",
    )  # fmt: skip

    def __init__(
        self,
        payload: bytes,
        key: bytes,
        identity: bytes,
        variant: bytes,
        body: int,
        label_begin: int,
        label_end: int,
        online_begin: int,
        online_end: int,
    ) -> None:
        """Note the names, and the places of the fields that can be set."""
        self.payload = payload
        self.key = key
        self.identity = identity
        self.variant = variant
        self._body = body
        self._label_begin = label_begin
        self._label_end = label_end
        self._online_begin = online_begin
        self._online_end = online_end

    @property
    def online(self) -> bool:
        """Whether it carries online variants."""
        return self._online_end > self._online_begin

    @property
    def online_variants(self) -> tuple[str, ...]:
        """The online variants that it carries."""
        return _online_names(self.payload[self._online_begin : self._online_end])

    def with_label(self, label: int) -> bytes:
        """The record with this label, as :meth:`~faceflow.components.common.record.Record.encode` would write it."""
        return self._replaced(self._label_begin, self._label_end, _label_entry(label))

    def with_online_variants(self, names: Sequence[str]) -> bytes:
        """The record with these online variants, which may be none."""
        return self._replaced(self._online_begin, self._online_end, _online_entry(tuple(names)))

    def _replaced(self, begin: int, end: int, entry: bytes) -> bytes:
        payload, body = self.payload, self._body
        size = varint(len(payload) - body - (end - begin) + len(entry))
        return b"".join((b"\n", size, payload[body:begin], entry, payload[end:]))


def key_entry(key: bytes) -> bytes:
    """The bytes of a record that hold its key: they end where its label begins, or would begin."""
    return _key_head(len(key)) + key


@lru_cache(maxsize=1 << 10)
def _key_head(length: int) -> bytes:
    entry = b"\n\x03key\x12" + _sized(b"\n" + _sized(b"\n" + _sized(bytes(length))))
    whole = b"\n" + _sized(entry)
    return whole[: len(whole) - length]


def labelled(payload: bytes, place: int, label: int) -> bytes | None:
    """A record with a label, as :meth:`Glance.with_label` gives it, where the way there is short.

    Args:
        payload: The record.
        place: Where its key's entry ends; see :func:`key_entry`.
        label: The label.

    Returns:
        The record; None where it has a label, or is not in the shape that this package writes.
    """
    if payload.startswith(b"\n\x05label\x12", place + 2):
        return None
    return _spliced(payload, place, _label_entry(label))


def with_online_variants(payload: bytes, place: int, names: tuple[str, ...]) -> bytes | None:
    """A record with online variants, as :meth:`Glance.with_online_variants` gives it, where the way there is short.

    Args:
        payload: The record.
        place: Where its key's entry ends; see :func:`key_entry`.
        names: The variants.

    Returns:
        The record; None where it has some, is an augmented copy, or is not in the shape that this package writes.
    """
    if not payload.endswith(_NO_VARIANT) or payload.find(b"\x0fonline_variants", place) >= 0:
        return None
    return _spliced(payload, len(payload) - len(_NO_VARIANT), _online_entry(names))


def _spliced(payload: bytes, place: int, entry: bytes) -> bytes | None:
    lead = _lead_of(len(payload))
    if lead is None or not payload.startswith(lead):
        return None
    begin = len(lead)
    return b"".join((_lead(len(payload) - begin + len(entry)), payload[begin:place], entry, payload[place:]))


@lru_cache(maxsize=1 << 16)
def _lead(size: int) -> bytes:
    """What a record begins with: the tag and the size of its one field (tensorflow/core/example/example.proto)."""
    return b"\n" + varint(size)


@lru_cache(maxsize=1 << 16)
def _lead_of(length: int) -> bytes | None:
    """What a record of so many bytes begins with; None where no record can have so many."""
    leads = (_lead(max(0, length - 1 - digits)) for digits in range(1, 6))
    return next((lead for digits, lead in enumerate(leads, 1) if len(lead) == 1 + digits), None)


@lru_cache(maxsize=1 << 17)
def _label_entry(label: int) -> bytes:
    body = b"\n\x05label\x12" + _sized(b"\x1a" + _sized(b"\n" + _sized(varint(label))))
    return b"\n" + _sized(body)


@lru_cache(maxsize=1 << 10)
def _online_entry(names: tuple[str, ...]) -> bytes:
    if not names:
        return b""
    value = b"".join(b"\n" + _sized(name.encode()) for name in names)
    return b"\n" + _sized(b"\n\x0fonline_variants\x12" + _sized(b"\n" + _sized(value)))


@lru_cache(maxsize=1 << 10)
def _online_names(entry: bytes) -> tuple[str, ...]:
    if not entry:
        return ()
    names = []
    place = len(_ONLINE_HEAD.match(entry)[0])  # type: ignore[index]  # glance() has matched it
    while place < len(entry):
        found = _ONE_NAME.match(entry, place)
        assert found is not None
        place = found.end() + _value(found[1])
        names.append(entry[found.end() : place].decode())
    return tuple(names)


def glance(payload: bytes) -> Glance | None:
    """Read a serialised record's names; None where its bytes are not in the shape that this package writes."""
    found = _HEAD.match(payload) or _HEAD_WITH_BOX.match(payload)
    if found is None:
        return None
    size, digits = found.groups()
    begin = found.end()
    end = begin + (digits[0] if len(digits) == 1 else _value(digits))
    identity = payload[begin:end]
    found = _IMAGE.match(payload, end)
    if found is None:
        return None
    found = _KEY.match(payload, found.end() + _value(found[1]))
    if found is None:
        return None
    digits = found[1]
    begin = found.end()
    end = begin + (digits[0] if len(digits) == 1 else _value(digits))
    key = payload[begin:end]
    found = _REST.match(payload, end)
    if found is None:
        return None
    variant = payload[found.end() :]
    if (variant and _value(found[3]) != len(variant)) or _value(size) != len(payload) - 1 - len(size):
        return None
    return Glance(payload, key, identity, variant, 1 + len(size), *found.span(1), *found.span(2))


def varint(number: int) -> bytes:
    """A number from 0 on in base 128, low digits first (protobuf's encoding)."""
    if number < 128:
        return _SMALL[number]
    digits = bytearray()
    while number >= 128:
        digits.append(number & 127 | 128)
        number >>= 7
    digits.append(number)
    return bytes(digits)


_SMALL = [bytes([number]) for number in range(128)]


def _value(digits: bytes) -> int:
    if len(digits) == 1:
        return digits[0]
    if len(digits) == 2:
        return digits[0] & 127 | digits[1] << 7
    number = 0
    for place, digit in enumerate(digits):
        number |= (digit & 127) << 7 * place
    return number


def _sized(data: bytes) -> bytes:
    return varint(len(data)) + data


_NO_VARIANT = b"\n" + _sized(b"\n\x07variant\x12" + _sized(b"\n" + _sized(b"\n" + _sized(b""))))
