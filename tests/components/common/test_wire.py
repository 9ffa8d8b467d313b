"""The parser of protobuf, behind Record, as the oracle for what is read and set without it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceflow.components.common import wire
from faceflow.components.common.errors import DatasetError
from faceflow.components.common.record import Record, _Example, glanced, peek

names = st.text(min_size=1, max_size=150)
records = st.builds(
    Record,
    key=names,
    identity=names,
    image=st.binary(max_size=40) | st.binary(min_size=127, max_size=129) | st.just(b"x" * 20_000),
    height=st.integers(0, 2**40),
    width=st.integers(-1, 300),
    landmarks=st.none() | st.just(np.linspace(0, 112, 10, dtype=np.float32).reshape(5, 2)),
    score=st.none() | st.floats(width=32, allow_nan=False),
    variant=st.sampled_from(["", "opening", "gaussian_noise(sigma=20)", "x" * 200]),
    online_variants=st.lists(st.sampled_from(["opening", "blur(sigma=2.5)", "y" * 130]), max_size=3).map(tuple),
    label=st.none() | st.sampled_from([0, 1, 127, 128, 180_854, 2**31]),
    gender=st.none() | st.sampled_from(["female", "male"]),
    age=st.none() | st.floats(0, 120, width=32),
    box=st.none() | st.lists(st.floats(width=32), min_size=4, max_size=4).map(lambda box: np.array(box, np.float32)),
)


@given(records)
def test_what_is_seen_at_a_glance_is_what_a_parser_finds(record):
    payload = record.encode()
    seen = wire.glance(payload)
    assert seen is not None
    assert (seen.key.decode(), seen.identity.decode(), seen.variant.decode()) == peek(payload)
    assert peek(payload) == (record.key, record.identity, record.variant)
    assert seen.online == bool(record.online_variants)
    assert seen.online_variants == record.online_variants


@given(records, st.sampled_from([0, 127, 128, 16_383, 16_384, 2**40]))
def test_a_field_that_is_set_gives_the_bytes_that_encoding_gives(record, label):
    seen = wire.glance(record.encode())
    assert seen.with_label(label) == replace(record, label=label).encode()
    for variants in ((), ("opening",), ("blur(sigma=2.5)", "z" * 300)):
        assert seen.with_online_variants(variants) == replace(record, online_variants=variants).encode()


@given(records, st.sampled_from([0, 127, 128, 16_384]))
def test_the_short_way_to_set_a_field_gives_the_same_bytes_or_none(record, label):
    payload = record.encode()
    entry = wire.key_entry(record.key.encode())
    place = payload.rfind(entry) + len(entry)
    found = wire.labelled(payload, place, label)
    assert found == (None if record.label is not None else replace(record, label=label).encode())
    variants = ("blur(sigma=2.5)", "z" * 300)
    found = wire.with_online_variants(payload, place, variants)
    taken = record.variant or record.online_variants
    assert found == (None if taken else replace(record, online_variants=variants).encode())
    # Another writer's record, or a length that no record has.
    assert wire.labelled(b"\x12" + payload[1:], place, label) is None
    assert wire.labelled(payload + b"xy", place, label) is None


@given(st.binary(max_size=200))
def test_bytes_that_are_no_record_are_not_taken_for_one(data):
    assert wire.glance(data) is None
    with pytest.raises(DatasetError):
        glanced(data)


@given(records, st.data())
def test_a_record_that_is_cut_or_longer_is_not_taken_for_one(record, data):
    payload = record.encode()
    cut = data.draw(st.integers(0, len(payload) - 1))
    assert wire.glance(payload[:cut]) is None
    assert wire.glance(payload + b"x") is None


def test_a_record_of_another_writer_is_read_through_the_parser():
    record = Record("s/a/1.jpg", "s/a", b"picture", 4, 5, score=0.5)
    example = _Example.FromString(record.encode())
    example.features.feature["more"].int64_list.value.append(3)
    payload = example.SerializeToString(deterministic=True)
    assert wire.glance(payload) is None
    assert peek(payload) == ("s/a/1.jpg", "s/a", "")
    assert glanced(payload).payload == record.encode()


@given(st.integers(0, 2**63 - 1))
def test_a_number_in_base_128_is_protobufs(number):
    example = _Example()
    example.features.feature["n"].int64_list.value.append(number)
    assert example.SerializeToString().endswith(wire.varint(number))
