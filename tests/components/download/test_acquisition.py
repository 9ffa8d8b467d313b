"""Files of a source, wherever they are: an S3 server (moto) and a web server on this machine, and its disk."""

import hashlib
import os
import threading

import boto3
import numpy as np
import pytest

from faceflow.components.common.errors import ChecksumError, DatasetError, SourceError
from faceflow.components.common.locations import Patience, describe
from faceflow.components.common.sources import parse
from faceflow.components.download.acquisition import acquire, forget, workplace
from faceflow.components.download.transfer import AtHand, Manner

DATA = np.random.default_rng(0).bytes(3_000_000)
PARTS = [DATA[:1_200_000], DATA[1_200_000:2_400_000], DATA[2_400_000:]]
PATIENCE = Patience(timeout_seconds=5, retries=1, wait_seconds=0)
MD5 = f"md5:{hashlib.md5(DATA).hexdigest()}"
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")


@pytest.fixture
def bucket(s3_endpoint, monkeypatch, request):
    """A bucket of its own for each test, found by the usual environment variables."""
    for name, value in zip(VARIABLES, ("key", "secret", "", s3_endpoint, "eu-west-1"), strict=True):
        monkeypatch.setenv(name, value)
    name = hashlib.md5(request.node.name.encode()).hexdigest()
    client = boto3.client("s3")
    client.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})

    def put(key, data):
        client.put_object(Bucket=name, Key=key, Body=data)
        return f"s3://{name}/{key}"

    put.name = name
    return put


def folder_of(location, **fields):
    return parse({"kind": "folder", "path": location, **fields})


def got(source, tmp_path, **manner):
    found, _ = acquire(source, tmp_path / "scratch", Manner(PATIENCE, **manner))
    return found["path"]


def joined(paths):
    return b"".join(path.read_bytes() for path in (paths if isinstance(paths, list) else [paths]))


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("key", ["set.tgz", "some faces/sét+1 %20?.tgz"])
def test_an_object_of_s3_is_fetched_and_gone_on_from(bucket, tmp_path, connections, key):
    source = folder_of(bucket(key, DATA), checksums={"path": MD5})
    path = got(source, tmp_path, connections=connections)
    assert path.read_bytes() == DATA
    part = AtHand(path).part
    os.truncate(path, 2_000_000)
    path.rename(part)
    assert got(source, tmp_path, connections=connections).read_bytes() == DATA


def test_the_description_of_an_object_follows_its_etag(bucket):
    source = folder_of(bucket("set.tgz", DATA))
    first = describe(source, PATIENCE)["path"]
    assert (first["size"], first["etag"]) == (len(DATA), f'"{hashlib.md5(DATA).hexdigest()}"')
    assert describe(source, PATIENCE)["path"] == first
    bucket("set.tgz", DATA[::-1])
    assert describe(source, PATIENCE)["path"]["etag"] != first["etag"]


def test_an_object_that_changed_between_attempts_is_fetched_anew(bucket, tmp_path):
    source = folder_of(bucket("set.tgz", DATA))
    path = got(source, tmp_path)
    os.truncate(path, 2_000_000)
    path.rename(AtHand(path).part)
    bucket("set.tgz", DATA[::-1])
    assert got(source, tmp_path).read_bytes() == DATA[::-1]


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_prefix_is_a_folder(bucket, tmp_path, slash):
    files = {"Al/1.jpg": b"1" * 10, "Al/2.jpg": b"2", "Zoë Smith/b c.jpg": b"3", ".DS_Store": b"x"}
    for name, data in files.items():
        bucket(f"people/{name}", data)
    bucket("people/", b"")
    bucket("people2/Al/1.jpg", b"of another")
    source = folder_of(f"s3://{bucket.name}/people{slash}")
    path = got(source, tmp_path)
    found = {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}
    assert found == {name: data for name, data in files.items() if not name.startswith(".")}
    told = describe(source, PATIENCE)["path"]
    assert (told["files"], told["bytes"]) == (4, 13)
    bucket("people/Al/2.jpg", b"3")
    assert describe(source, PATIENCE)["path"]["listing"] != told["listing"]
    assert (got(source, tmp_path) / "Al/2.jpg").read_bytes() == b"3"
    assert len(list((tmp_path / "scratch" / "path").iterdir())) == 1, "what was there before is gone"


@pytest.mark.parametrize(
    "key, words",
    [("nothing.tgz", "not found .*404"), ("nothing/", "no objects below"), ("../x.tgz", "not found|refuses")],
)
def test_what_is_not_in_the_bucket_is_named(bucket, tmp_path, key, words):
    with pytest.raises(SourceError, match=words):
        got(folder_of(f"s3://{bucket.name}/{key}"), tmp_path)


def test_an_object_that_leads_outside_is_refused(bucket, tmp_path):
    bucket("people/Al/1.jpg", b"1")
    bucket("people/Zoe/1.jpg", b"1")
    bucket("people//outside.jpg", b"1")
    with pytest.raises(SourceError, match="leads outside"):
        got(folder_of(f"s3://{bucket.name}/people/"), tmp_path)


def test_a_store_that_cannot_be_reached_or_refuses_says_what_to_check(server, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
    server.no_head = 403
    server.statuses = [403, 403]
    with pytest.raises(SourceError, match="refuses access.* AWS_ACCESS_KEY_ID"):
        got(folder_of("s3://bucket/set.tgz"), tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="Gave up") as caught:
        got(folder_of("s3://bucket/set.tgz"), tmp_path)
    assert "X-Amz-Signature" not in str(caught.value), "a signed address lets its reader in"


def test_without_credentials_s3_is_asked_anonymously(server, tmp_path, monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url(""))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    server.files["/bucket/set.tgz"] = DATA
    assert got(folder_of("s3://bucket/set.tgz"), tmp_path).read_bytes() == DATA
    assert server.requests[-1][1] == "/bucket/set.tgz"


def test_an_object_of_google_is_fetched_and_gone_on_from(server, tmp_path, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url(""))
    address = "/download/storage/v1/b/bucket/o/faces%2Fset.tgz?alt=media"
    server.files[address], server.etags[address] = DATA, '"CJ+2"'
    server.cut_after = [2_000_000]
    assert got(folder_of("gs://bucket/faces/set.tgz"), tmp_path).read_bytes() == DATA
    assert len({path for _, path, _ in server.requests}) == 1
    assert int(server.requests[-1][2].removeprefix("bytes=").rstrip("-")) > 1_900_000


@pytest.mark.parametrize("names", [("aa", "ab", "ac"), ("001", "002", "003"), ("part1", "part2", "part3")])
@pytest.mark.parametrize("where", ["disk", "s3", "http"])
def test_the_parts_of_an_archive_are_found_from_the_first(request, tmp_path, where, names):
    if where == "disk":
        for name, data in zip(names, PARTS, strict=True):
            (tmp_path / f"set.tar.gz.{name}").write_bytes(data)
        first = tmp_path / f"set.tar.gz.{names[0]}"
    elif where == "s3":
        put = request.getfixturevalue("bucket")
        first = [put(f"set.tar.gz.{name}", data) for name, data in zip(names, PARTS, strict=True)][0]
    else:
        web = request.getfixturevalue("server")
        web.files = {f"/set.tar.gz.{name}": data for name, data in zip(names, PARTS, strict=True)}
        web.cut_after = [1_000_000, 100, 100_000]
        first = web.url(f"/set.tar.gz.{names[0]}")
    source = folder_of(str(first), checksums={"path": MD5})
    paths = got(source, tmp_path)
    assert len(paths) == 3 and joined(paths) == DATA
    with pytest.raises(ChecksumError, match="and the parts after it has the md5"):
        got(folder_of(str(first), checksums={"path": "md5:" + "0" * 32}), tmp_path)


def test_a_missing_part_is_named(server, tmp_path):
    server.files = {f"/set.tar.gz.{name}": b"x" for name in ("aa", "ab", "ad")}
    with pytest.raises(SourceError, match=r"set\.tar\.gz\.ac is missing"):
        got(folder_of(server.url("/set.tar.gz.aa")), tmp_path)


def test_a_server_that_never_says_no_cannot_tell_the_number_of_parts(server, tmp_path):
    server.files = {"/set.tar.gz.aa": b"x", "/set.tar.gz.aa.none": b"<html>There is no such page.</html>"}
    with pytest.raises(SourceError, match="give the list of parts"):
        got(folder_of(server.url("/set.tar.gz.aa")), tmp_path)


def test_a_list_of_parts_may_have_a_checksum_each_and_mirrors(server, tmp_path):
    server.files = {f"/{host}/{index}": data for host in "ab" for index, data in enumerate(PARTS)}
    del server.files["/a/1"]
    digests = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in PARTS]
    parts = [server.url(f"/a/{index}") for index in range(3)]
    mirror = [server.url(f"/b/{index}") for index in range(3)]
    source = folder_of(parts, checksums={"path": digests}, mirrors={"path": [mirror]})
    assert joined(got(source, tmp_path)) == DATA
    assert describe(source, PATIENCE) == {"path": {"size": len(DATA), "checksum": digests}}
    with pytest.raises(ChecksumError, match="/b/2 has the sha256"):
        got(folder_of(mirror, checksums={"path": [*digests[:2], digests[0]]}), tmp_path / "other")


def test_parts_found_from_the_first_are_had_from_a_mirror_too(server, tmp_path):
    server.files = {f"/b/copy.tar.gz.{name}": data for name, data in zip(("aa", "ab", "ac"), PARTS, strict=True)}
    server.files["/a/set.tar.gz.aa"] = PARTS[0]
    server.files["/a/set.tar.gz.ab"] = PARTS[1]
    server.files["/a/set.tar.gz.ac"] = PARTS[2]
    addresses = server.url("/a/set.tar.gz.aa"), server.url("/b/copy.tar.gz.aa")
    source = folder_of(addresses[0], mirrors={"path": [addresses[1]]})

    class Failing(dict):
        def get(self, path, default=None):
            gone = path == "/a/set.tar.gz.ab" and server.requests[-1][0] == "GET"
            return default if gone else super().get(path, default)

    server.files = Failing(server.files)
    assert joined(got(source, tmp_path)) == DATA
    assert ("GET", "/b/copy.tar.gz.ab", None) in server.requests


def test_a_mirror_stands_in_where_the_first_place_has_nothing(server, tmp_path):
    server.files["/b/set.tgz"] = DATA
    places = {"mirrors": {"path": [str(tmp_path / "nowhere.tgz"), server.url("/b/set.tgz")]}}
    assert got(folder_of(server.url("/a/set.tgz"), **places), tmp_path).read_bytes() == DATA
    with pytest.raises(SourceError, match="none of its 2 places has it.*cannot be opened"):
        got(folder_of(server.url("/a"), mirrors={"path": [str(tmp_path / "nowhere")]}), tmp_path)


def test_a_mirror_on_disk_stands_in_when_the_servers_fail_on_the_way(server, tmp_path):
    server.files["/set.tgz"] = DATA
    server.cut_after = [1_000_000, 0, 0]
    (tmp_path / "set.tgz").write_bytes(DATA)
    mirrors = {"path": [str(tmp_path / "set.tgz")]}
    path = got(folder_of(server.url("/set.tgz"), mirrors=mirrors, checksums={"path": MD5}), tmp_path)
    assert path == tmp_path / "set.tgz"


def test_a_pinned_file_is_the_same_wherever_it_comes_from(server):
    server.files = {"/a/set.tgz": DATA, "/b/set.tgz": DATA}
    server.etags = {"/a/set.tgz": '"a"', "/b/set.tgz": '"b"'}
    source = folder_of(server.url("/a/set.tgz"), mirrors={"path": [server.url("/b/set.tgz")]}, checksums={"path": MD5})
    before = describe(source, PATIENCE)
    del server.files["/a/set.tgz"]
    assert describe(source, PATIENCE) == before == {"path": {"size": len(DATA), "checksum": MD5}}


def test_a_local_file_is_compared_with_its_checksum_and_a_folder_has_none(tmp_path):
    (tmp_path / "set.tgz").write_bytes(DATA)
    location = f"file://{tmp_path}/set.tgz"
    assert got(folder_of(location, checksums={"path": MD5}), tmp_path) == tmp_path / "set.tgz"
    with pytest.raises(ChecksumError, match=f"has the md5 {MD5[4:]}, but 'checksums' says 0"):
        got(folder_of(location, checksums={"path": "md5:" + "0" * 32}), tmp_path)
    for name in ("a", "b"):
        (tmp_path / "people" / name).mkdir(parents=True)
        (tmp_path / "people" / name / "1.jpg").write_bytes(b"x")
    with pytest.raises(SourceError, match="is a folder: a checksum is for a file"):
        got(folder_of(str(tmp_path / "people"), checksums={"path": MD5}), tmp_path)


def test_damaged_files_are_fetched_again_unless_their_checksum_is_right(server, tmp_path):
    server.files["/set.tgz"] = DATA
    pinned, loose = (folder_of(server.url("/set.tgz"), checksums=each) for each in ({"path": MD5}, {}))
    for source, kept in ((pinned, True), (loose, False)):
        path = got(source, tmp_path)
        forget(source, tmp_path / "scratch")
        assert path.exists() == kept


def test_one_process_at_a_time_uses_a_workplace_and_the_next_finds_it_empty(tmp_path):
    order = []
    entered = threading.Event()

    def second():
        entered.wait()
        with workplace(tmp_path, "faces") as folder:
            order.append(("second", list(folder.iterdir())))

    other = threading.Thread(target=second)
    other.start()
    with workplace(tmp_path, "faces") as folder:
        entered.set()
        (folder / "part").write_bytes(b"x")
        other.join(0.3)
        order.append(("first", folder.exists()))
    other.join()
    assert order == [("first", True), ("second", [])]
    with pytest.raises(DatasetError), workplace(tmp_path, "faces") as folder:
        (folder / "part").write_bytes(b"x")
        raise DatasetError("the ingest failed")
    assert (tmp_path / "faces" / "part").exists(), "what was fetched waits for the next attempt"
