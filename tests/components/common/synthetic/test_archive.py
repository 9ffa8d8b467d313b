"""Archives are read by GNU tar and Python alike, and equal members give equal bytes."""

import shutil
import subprocess
import tarfile

import pytest

from faceflow.components.common.synthetic.archive import ArchiveWriter

MEMBERS = {"set/a/1.jpg": b"one" * 1000, "set/a/2.jpg": b"", "set/b/1.jpg": bytes(range(256)) * 40}


def pack(path):
    with ArchiveWriter(path) as archive:
        for name, data in MEMBERS.items():
            archive.add(name, data)
    return path.read_bytes()


def test_equal_members_give_equal_bytes_whatever_the_file_is_called(tmp_path):
    assert pack(tmp_path / "one.tar.gz") == pack(tmp_path / "another.tgz")


def test_python_reads_it(tmp_path):
    pack(tmp_path / "set.tar.gz")
    with tarfile.open(tmp_path / "set.tar.gz", "r:gz") as tar:
        assert [entry.name for entry in tar if entry.isdir()] == ["set", "set/a", "set/b"]
        assert {entry.name: tar.extractfile(entry).read() for entry in tar if entry.isfile()} == MEMBERS


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
def test_the_tar_command_reads_it(tmp_path):
    pack(tmp_path / "set.tar.gz")
    subprocess.run(["tar", "xzf", "set.tar.gz"], cwd=tmp_path, check=True)
    assert {name: (tmp_path / name).read_bytes() for name in MEMBERS} == MEMBERS


def test_a_failure_leaves_no_archive(tmp_path):
    with pytest.raises(KeyboardInterrupt), ArchiveWriter(tmp_path / "set.tar.gz") as archive:
        archive.add("set/a/1.jpg", b"one" * 1000)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
