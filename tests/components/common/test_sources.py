import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from faceflow.components.common import sources
from faceflow.components.common.errors import SourceError
from faceflow.components.common.sources import KINDS, parse, parse_all


def refusal(spec):
    with pytest.raises(SourceError) as caught:
        parse(spec)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_the_documented_example_of_each_kind_is_valid_and_survives_a_round_trip(kind):
    example = json.loads(KINDS[kind].example())
    source = parse(example)
    assert source.kind == kind
    assert example.items() <= source.spec.items()
    assert parse(source.spec) == source
    assert parse(json.loads(json.dumps(source.spec))).fingerprint == source.fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_is_documented(kind):
    documented = (KINDS[kind].__doc__ or "") + (sources.Source.__doc__ or "")
    for item in fields(KINDS[kind]):
        assert re.search(rf"^\s+{item.name}: ", documented, re.MULTILINE), item.name


DOCUMENT = Path(__file__).parents[3] / "docs" / "sources.md"


def documented_examples():
    """The JSON objects of the page on sources."""
    decoder, found = json.JSONDecoder(), []
    for block in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL):
        while block := block.strip():
            example, end = decoder.raw_decode(block)
            found.append(example)
            block = block[end:]
    return found


def test_the_page_on_sources_has_a_valid_example_of_every_kind_and_scheme():
    examples = documented_examples()
    made = [parse(example) for example in examples]
    assert {source.kind for source in made} == set(KINDS)
    for kind in KINDS.values():
        assert json.loads(kind.example()) in examples, f"the example of {kind.kind}"
    places = [part for source in made for label in source.locations for part in sum(source.places(label), [])]
    assert {sources.scheme_of(place) for place in places} - {""} == set(sources.SCHEMES)
    assert any(source.checksums for source in made) and any(source.mirrors for source in made)


def test_the_page_on_sources_names_every_field_and_scheme():
    text = DOCUMENT.read_text(encoding="utf-8")
    for item in fields(sources.Source):
        assert f"| `{item.name}` |" in text, item.name
    for scheme, example in sources.SCHEMES.items():
        assert re.search(rf"^\| .*`{scheme}`.* \|", text, re.MULTILINE), scheme
        assert scheme == "http" or f"`{example}`" in text, example


def test_the_name_begins_keys_and_identities_unless_a_namespace_is_given():
    assert (parse({"kind": "lfw", "archive": "a", "pairs": "p"}).name) == "lfw"
    assert parse({"kind": "trillion_pairs", "archive": "a", "landmarks": "b"}).namespace == "trillion-pairs"
    both = parse({"kind": "folder", "path": "a", "name": "mine", "namespace": "people"})
    assert (both.name, both.namespace) == ("mine", "people")


def test_the_fingerprint_changes_with_every_field():
    specs = [
        {"kind": "folder", "path": "a"},
        {"kind": "folder", "path": "b"},
        {"kind": "folder", "path": "a", "name": "x"},
        {"kind": "folder", "path": "a", "namespace": "x"},
        {"kind": "folder", "path": "a", "attributes": "t.csv"},
        {"kind": "folder", "path": "a", "aligned": "arcface_112"},
        {"kind": "folder", "path": "a", "strip": 0},
    ]
    assert len({parse(spec).fingerprint for spec in specs}) == len(specs)


def test_locations_are_the_fields_that_hold_paths():
    source = parse({"kind": "lfw", "archive": "a.tgz", "pairs": "p.txt", "attributes": "t.csv"})
    assert source.locations == {"attributes": ["t.csv"], "archive": ["a.tgz"], "pairs": ["p.txt"]}
    assert not {"archive", "pairs", "attributes"} & set(source.spec_without_locations)


def test_numbers_that_kfp_carries_as_floats_are_whole_again():
    source = parse({"kind": "synthetic", "identities": 5.0, "images_per_identity": [3.0, 9.0], "seed": 1.0})
    assert source == parse({"kind": "synthetic", "identities": 5, "images_per_identity": [3, 9], "seed": 1})
    assert type(source.identities) is int


@pytest.mark.parametrize(
    "spec, words",
    [
        ("johns", ["'johns'", "JSON object"]),
        ({}, ["lacks 'kind'", "trillion_pairs"]),
        ({"kind": "foldr"}, ["'foldr'", "did you mean 'folder'"]),
        ({"kind": 7}, ["unknown kind 7"]),
        ({"kind": "folder"}, ["lacks 'path'", "photos.zip"]),
        ({"kind": "folder", "path": ""}, ["lacks 'path'"]),
        ({"kind": "folder", "path": "x", "pathh": "y"}, ["'pathh'", "did you mean 'path'"]),
        ({"kind": "folder", "path": 7}, ["'folder'", "path is 7", "type str or list"]),
        ({"kind": "folder", "path": "x", "strip": True}, ["strip is True", "type int"]),
        ({"kind": "folder", "path": "x", "strip": -2}, ["strip is -2"]),
        ({"kind": "folder", "path": "ftp://bucket/x"}, ["path is 'ftp://bucket/x'", "https://, s3://, gs://"]),
        (
            {"kind": "folder", "path": "s3://bucket"},
            ["path is 's3://bucket'", "must name a bucket and what lies in it"],
        ),
        ({"kind": "folder", "path": "gs:///x"}, ["path is 'gs:///x'", "gs://bucket/set.tar.gz"]),
        ({"kind": "folder", "path": ["x", ""]}, ["path is ['x', '']", "list of the locations of its parts"]),
        ({"kind": "folder", "path": "x", "checksums": "md5:1"}, ["checksums is 'md5:1'", "type dict"]),
        ({"kind": "folder", "path": "x", "checksums": {"pth": ""}}, ["checksums is {'pth': ''}", "may only have path"]),
        ({"kind": "folder", "path": "x", "checksums": {"path": "md5:1"}}, ["checksums.path is 'md5:1'", "32"]),
        (
            {"kind": "folder", "path": "x", "checksums": {"path": "f" * 32}},
            ["checksums.path is 'ffff", "sha256: with 64"],
        ),
        ({"kind": "folder", "path": ["x", "y"], "checksums": {"path": ["md5:1"]}}, ["one for each of the 2 parts"]),
        ({"kind": "folder", "path": "x", "mirrors": {"path": "y"}}, ["mirrors.path is 'y'", "must be a list"]),
        ({"kind": "folder", "path": "x", "mirrors": {"path": ["ftp://y"]}}, ["mirrors.path is ['ftp://y']", "s3://"]),
        ({"kind": "folder", "path": ["x", "y"], "mirrors": {"path": ["z"]}}, ["as many parts as path, 2"]),
        ({"kind": "folder", "path": "x", "mirrors": {"attributes": ["y"]}}, ["mirrors is", "may only have path"]),
        ({"kind": "folder", "path": "x", "name": "my photos"}, ["'my photos'", "letters, digits"]),
        ({"kind": "folder", "path": "x", "name": "a/b"}, ["'a/b'"]),
        ({"kind": "folder", "path": "x", "name": ".."}, ["'..'"]),
        ({"kind": "folder", "path": "x", "namespace": "Zoë"}, ["namespace is 'Zoë'"]),
        ({"kind": "folder", "path": "x", "aligned": "arcface"}, ["aligned is 'arcface'", "arcface_112"]),
        ({"kind": "synthetic", "layout": "coco"}, ["layout is 'coco'", "trillion_pairs"]),
        ({"kind": "synthetic", "identities": 1}, ["identities is 1", "nothing to tell apart"]),
        ({"kind": "synthetic", "identities": 2.5}, ["identities is 2.5", "type int"]),
        ({"kind": "synthetic", "images_per_identity": [9, 3]}, ["images_per_identity is [9, 3]"]),
        ({"kind": "synthetic", "images_per_identity": [3]}, ["images_per_identity is [3]"]),
        ({"kind": "synthetic", "images_per_identity": ["3", "4"]}, ["whole number"]),
        ({"kind": "synthetic", "seed": "1"}, ["seed is '1'", "null"]),
        ({"kind": "synthetic", "size_px": 0}, ["size_px is 0"]),
    ],
)
def test_a_wrong_spec_is_refused_with_the_field_the_value_and_what_is_allowed(spec, words):
    message = refusal(spec)
    for word in words:
        assert word in message, message


def test_two_sources_of_one_name_are_refused_because_their_keys_would_collide():
    specs = [{"kind": "folder", "path": "a"}, {"kind": "folder", "path": "b"}]
    with pytest.raises(SourceError, match="two sources are named 'folder'"):
        parse_all(specs)
    assert [each.name for each in parse_all([specs[0], specs[1] | {"name": "b"}])] == ["folder", "b"]
