import collections
import hashlib
import shutil

import pytest

from faceflow.components.common.errors import DiskSpaceError
from faceflow.components.common.hashing import canonical_json, file_sha256, fingerprint, generator, stable_hash
from faceflow.components.common.storage import readable_bytes, require_free_space, write_atomically


def test_hashes_are_the_published_blake2b():
    data = (2).to_bytes(8, "little") + b"ab" + (1).to_bytes(8, "little") + b"7"
    assert stable_hash("ab", 7) == int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def test_parts_do_not_run_into_each_other():
    assert stable_hash("ab", "c") != stable_hash("a", "bc")


def test_generators_repeat():
    assert generator(1, "k").integers(0, 1 << 60, 4).tolist() == generator(1, "k").integers(0, 1 << 60, 4).tolist()
    assert generator(1, "k").random() != generator(2, "k").random()


def test_a_fingerprint_does_not_depend_on_order_but_on_values():
    assert fingerprint({"a": 1, "b": [1.5, "é"]}) == fingerprint({"b": [1.5, "é"], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'
    with pytest.raises(ValueError):
        fingerprint(float("nan"))


def test_file_digest(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()


def test_a_full_disk_is_noticed_before_the_work(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, 3 * 10**9))
    require_free_space(tmp_path / "not" / "yet", 2 * 10**9, "rendering")
    with pytest.raises(DiskSpaceError, match=r"rendering needs about 3\.3 GB at .* only 3\.0 GB are free"):
        require_free_space(tmp_path, 3 * 10**9, "rendering")


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "f.json"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two" and [each.name for each in path.parent.iterdir()] == ["f.json"]


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (1500, "1.5 kB"), (2_345_678, "2.3 MB"), (9e15, "9,000.0 TB")]
)
def test_bytes_for_people(count, text):
    assert readable_bytes(count) == text
