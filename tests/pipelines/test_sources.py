from pathlib import Path

import pytest

from faceflow.components.common.errors import SourceError
from faceflow.pipelines import sources


def test_one_path_and_several():
    assert sources.from_paths(["faces"]) == [{"kind": "folder", "path": "faces"}]
    names = [each["name"] for each in sources.from_paths(["a/faces", "b/faces", "c/fotos é", "d/éé"])]
    assert names == ["faces", "faces-2", "fotos", "folder"]


def test_local_paths_become_absolute_and_urls_stay(tmp_path):
    (tmp_path / "lfw").mkdir()
    (tmp_path / "pairs.txt").touch()
    given = {
        "seed": 1,
        "sources": [{"kind": "trillion_pairs", "archive": "https://example.org/a.tar.gz", "landmarks": "pairs.txt"}],
        "evaluate_sources": [
            {"kind": "lfw", "archive": "lfw", "pairs": str(tmp_path / "pairs.txt")},
            {"kind": "held_out"},
        ],
    }
    made = sources.resolved(given, tmp_path)
    assert made["sources"][0] == given["sources"][0] | {"landmarks": str(tmp_path / "pairs.txt")}
    assert made["evaluate_sources"][0]["archive"] == str(tmp_path / "lfw")
    assert list(sources.local_paths(made)) == [tmp_path / "pairs.txt", tmp_path / "lfw"]
    assert given["sources"][0]["landmarks"] == "pairs.txt"


def test_parts_mirrors_and_buckets(tmp_path):
    for name in ("set.tar.gz.aa", "set.tar.gz.ab", "one", "two", "copy.tgz"):
        (tmp_path / name).write_bytes(b"x")
    given = [
        {"kind": "folder", "path": "set.tar.gz.aa"},
        {
            "kind": "folder",
            "name": "b",
            "path": ["one", "https://example.org/two"],
            "mirrors": {"path": [["one", "two"]]},
        },
        {"kind": "folder", "name": "c", "path": "s3://bucket/set.tgz", "mirrors": {"path": ["gs://b/c", "copy.tgz"]}},
        {"kind": "folder", "name": "d", "path": "nowhere", "mirrors": {"path": ["s3://bucket/set.tgz"]}},
    ]
    made = sources.resolved({"sources": given}, tmp_path)
    at = {name: str(tmp_path / name) for name in ("set.tar.gz.aa", "one", "two", "copy.tgz", "nowhere")}
    assert made["sources"] == [
        given[0] | {"path": at["set.tar.gz.aa"]},
        given[1] | {"path": [at["one"], "https://example.org/two"], "mirrors": {"path": [[at["one"], at["two"]]]}},
        given[2] | {"mirrors": {"path": ["gs://b/c", at["copy.tgz"]]}},
        given[3] | {"path": at["nowhere"]},
    ]
    assert [path.name for path in sources.local_paths(made)] == [
        *("set.tar.gz.aa", "set.tar.gz.ab", "one", "two", "copy.tgz")
    ]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "folder", "path": "nowhere"}, "sources: source 'folder': path .*/nowhere does not exist"),
        ({"kind": "folder", "path": "file:///nowhere"}, "sources: source 'folder': path /nowhere does not exist"),
        ({"kind": "folder", "path": "nowhere", "mirrors": {"path": ["nor here"]}}, "path .*/nowhere does not exist"),
        ({"kind": "folder", "path": ["nowhere", "s3://b/x"]}, "path .*/nowhere does not exist"),
        ({"kind": "folder", "path": ""}, "lacks 'path'"),
        ({"kind": "folder", "paht": "x"}, "did you mean 'path'"),
        ({"path": "here"}, "lacks 'kind'"),
        ({"kind": "synthetic"}, "two sources are named 'synthetic'"),
    ],
)
def test_wrong_sources_are_refused(tmp_path, source, message):
    with pytest.raises(SourceError, match=message):
        sources.resolved({"sources": [{"kind": "synthetic"}, source]}, tmp_path)


def test_the_size_of_files_and_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(b"1" * 10)
    (tmp_path / "a" / "b" / "two").write_bytes(b"1" * 5)
    (tmp_path / "a" / "broken").symlink_to(Path("nowhere"))
    assert sources.size(tmp_path / "a" / "one") == 10
    assert sources.size(tmp_path / "a") == 15 + len("nowhere")
