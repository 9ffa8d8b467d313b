"""Files on a disk and in an object store, which here is an S3 server (moto) on this machine, read back with boto3."""

import errno
import io
import os
import subprocess
import sys
import time

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from faceflow.components.common import files
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import StorageError
from faceflow.components.common.record import Record
from faceflow.components.common.tfrecord import read

BIG = np.random.default_rng(0).bytes(11_000_000)  # several parts of an upload


@pytest.fixture
def s3(s3_endpoint, monkeypatch):
    """A client of the server, which Beam reaches through its own option; the keys come from the environment."""
    for name, value in (("ACCESS_KEY_ID", "key"), ("SECRET_ACCESS_KEY", "secret"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="bucket")
    files.configure([f"--s3_endpoint_url={s3_endpoint}"])
    yield client
    files.configure([])


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    """An empty folder of either kind."""
    if request.param == "disk":
        return str(tmp_path)
    request.getfixturevalue("s3")
    return f"s3://bucket/{request.node.originalname}/deep"


def test_what_is_written_can_be_read_listed_and_removed(folder, tmp_path):
    sizes = {"a": 0, "b.gz": 7, "c": len(BIG)}
    for name, size in sizes.items():
        files.write_bytes(files.join(folder, name), BIG[:size])
    files.make_folder(files.join(folder, "below"))
    files.write_bytes(files.join(folder, "below", "d"), b"deep")
    assert files.listing(folder) == sizes
    for name, size in sizes.items():
        location = files.join(folder, name)
        assert files.exists(location) and files.size(location) == size and files.name_of(location) == name
        assert files.read_bytes(location) == BIG[:size]
    files.delete(files.join(folder, "a"))
    files.delete(files.join(folder, "a"))
    assert not files.exists(files.join(folder, "a")) and list(files.listing(folder)) == ["b.gz", "c"]
    files.delete(folder)
    assert files.listing(folder) == {} and files.listing(files.join(folder, "below")) == {}


@pytest.mark.parametrize("buffering", [None, 1000])
def test_a_file_can_be_sought(folder, buffering):
    files.write_bytes(files.join(folder, "big"), BIG)
    with files.open_read(files.join(folder, "big"), buffering) as file:
        for place, size in ((10_500_000, 2_000_000), (5, 3), (2_000_000, 6_000_000)):
            file.seek(place)
            assert file.read(size) == BIG[place : place + size]
        assert file.tell() == 8_000_000


def test_a_file_appears_when_it_is_complete_or_not_at_all(folder):
    location = files.join(folder, "f")
    with pytest.raises(ZeroDivisionError), files.create(location) as file:
        file.write(BIG)
        raise ZeroDivisionError
    assert not files.exists(location) and files.listing(folder) == {}
    with files.create(location) as file:
        file.write(b"one")
        assert not files.exists(location)
    files.write_bytes(location, b"two")
    assert files.read_bytes(location) == b"two" and files.listing(folder) == {"f": 3}


def test_what_is_not_there_is_told_as_ever(folder):
    for ask in (files.read_bytes, files.size):
        with pytest.raises(FileNotFoundError):
            ask(files.join(folder, "nothing"))
    assert not files.exists(files.join(folder, "nothing")) and files.listing(files.join(folder, "none")) == {}


def test_copies_there_and_back_are_equal(folder, tmp_path):
    (tmp_path / "source").write_bytes(BIG)
    files.copy_out(tmp_path / "source", files.join(folder, "copy"))
    files.copy_in(files.join(folder, "copy"), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == BIG


def test_parts_and_tables_go_to_either(folder):
    with ShardWriter(folder, 3, stage="align") as part:
        part.write(Record("s/a/1.jpg", "s/a", b"jpeg", 4, 5))
        part.kept("s/a/1.jpg", "s/a")
    assert list(files.listing(folder)) == ["part-00003.json", "part-00003.ledger.parquet", "part-00003.tfrecord"]
    (payload,) = read(files.join(folder, "part-00003.tfrecord"))
    assert Record.decode(payload).image == b"jpeg"
    with ShardWriter(folder, 4, stage="align"):
        pass
    assert list(read(files.join(folder, "part-00004.tfrecord"))) == []
    table = pa.table({"n": range(5)})
    with files.create(files.join(folder, "t.parquet")) as file:
        pq.write_table(table, file)
    with files.open_read(files.join(folder, "t.parquet")) as file:
        assert pq.read_table(file) == table


def test_an_object_is_what_other_clients_see(s3):
    files.write_bytes("s3://bucket/seen.gz", BIG)
    assert s3.get_object(Bucket="bucket", Key="seen.gz")["Body"].read() == BIG
    s3.upload_fileobj(io.BytesIO(BIG[:9]), "bucket", "theirs")
    assert files.read_bytes("s3://bucket/theirs") == BIG[:9]


def test_an_upload_that_breaks_off_leaves_no_object(s3, monkeypatch):
    from apache_beam.io.aws.s3io import S3Uploader

    put = S3Uploader.put

    def break_off(self, data):
        if self.part_number > 1:
            raise ConnectionError("the line went dead")
        put(self, data)

    monkeypatch.setattr(S3Uploader, "put", break_off)
    with pytest.raises(StorageError, match="bucket/half cannot be reached.*the line went dead"):
        files.write_bytes("s3://bucket/half", BIG)
    assert "Contents" not in s3.list_objects_v2(Bucket="bucket", Prefix="half")


def test_a_store_that_refuses_is_an_error_with_advice(s3):
    with pytest.raises(StorageError, match="s3://no-such-bucket/f cannot be reached.*credentials.*boto3"):
        files.write_bytes("s3://no-such-bucket/f", b"x")
    files.configure(["--s3_endpoint_url=http://127.0.0.1:9"])
    with pytest.raises(StorageError, match="s3://bucket/f cannot be reached.*127.0.0.1:9"):
        files.write_bytes("s3://bucket/f", b"x")


def test_the_usual_environment_leads_to_the_server_too(s3, s3_endpoint, monkeypatch):
    files.configure([])
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    files.write_bytes("s3://bucket/by-environment", b"found")
    assert s3.get_object(Bucket="bucket", Key="by-environment")["Body"].read() == b"found"


def test_a_path_does_not_bring_beam(tmp_path):
    code = (
        "import sys; from faceflow.components.common import files, dataset; folder = sys.argv[1]\n"
        "files.write_bytes(folder + '/f', b'x'); files.listing(folder); files.read_bytes(folder + '/f')\n"
        "assert 'apache_beam' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_a_file_that_is_taken_over_is_the_file_itself_and_not_a_way_to_it(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_bytes(b"content")
    (tmp_path / "there" / "way").symlink_to("file")
    for _ in range(2):
        creation = files.create(tmp_path / "taken")
        creation.file.write(b"of no use")
        creation.adopt(tmp_path / "there" / "way")
        creation.commit()
        assert (tmp_path / "taken").read_bytes() == b"content"
        assert not (tmp_path / "taken").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["taken", "there"]


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux tells what memory caches")
def test_memory_lets_go_of_what_is_written_and_the_file_has_all_of_it(tmp_path):
    block = os.urandom(1 << 20)
    creation = files.create(tmp_path / "file")
    for _ in range(8):
        creation.file.write(block)
        creation.let_go()
    creation.file.flush()
    os.fsync(creation.file.fileno())
    left = cached(tmp_path, len(block))
    until = time.monotonic() + 20
    while left and time.monotonic() < until:
        creation.let_go()  # the system keeps for a moment what it is busy with
        left = cached(tmp_path, len(block))
    creation.commit()
    assert (tmp_path / "file").read_bytes() == 8 * block
    if left is None:
        pytest.skip("this file system does not tell what memory caches")
    assert left == 0


def cached(folder, size):
    """How many of a file's eight blocks can be read without waiting for the disk."""
    (path,) = folder.iterdir()
    count = 0
    with open(path, "rb", buffering=0) as file:
        for number in range(8):
            try:
                count += os.preadv(file.fileno(), [bytearray(1)], number * size, os.RWF_NOWAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno == errno.EOPNOTSUPP:
                    return None
                raise
    return count
