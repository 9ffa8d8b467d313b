import gzip
import io
import struct
import tarfile
import tracemalloc
import unicodedata
import zipfile

import pytest

from faceflow.components.common.errors import ArchiveError
from faceflow.components.download import streams
from faceflow.components.download.members import Members

FILES = {f"set/{who}/{i}.jpg": f"{who} {i}".encode() * (i + 1) * 100 for who in ("Ann Lee", "Zoë") for i in range(3)}
ARCHIVES = ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"]


def read(path):
    return {member.name: member.read() for member in Members(path, "the archive")}


def tar_of(path, *infos, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


@pytest.mark.parametrize("name", ["folder", *ARCHIVES])
def test_every_container_gives_the_same_names_and_bytes(write, name):
    assert read(write(name, FILES)) == FILES


@pytest.mark.parametrize("name", ARCHIVES)
def test_the_digest_is_that_of_the_archive_file(write, name):
    import hashlib

    path = write(name, FILES)
    members = Members(path, "the archive")
    for _ in members:
        pass
    assert members.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["../evil.jpg", "a/../../evil.jpg", "/etc/evil.jpg", "C:/evil.jpg", "..\\evil.jpg"])
@pytest.mark.parametrize("container", ["a.tar", "a.zip"])
def test_names_that_lead_outside_are_refused_and_named(write, container, name):
    with pytest.raises(ArchiveError, match="leads outside the archive") as caught:
        read(write(container, {"a/fine.jpg": b"x", name: b"evil"}))
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    path = tar_of(tmp_path / "a.tar", special("a/link.jpg", kind, "/etc/passwd"))
    with pytest.raises(ArchiveError, match=r"'a/link\.jpg' is a link or device"):
        read(path)


def test_links_and_encryption_in_a_zip_are_refused(tmp_path):
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ArchiveError, match=r"'a/link\.jpg' is a link or device"):
        read(tmp_path / "link.zip")
    with zipfile.ZipFile(tmp_path / "locked.zip", "w") as archive:
        archive.writestr("a/1.jpg", "x")
    data = bytearray((tmp_path / "locked.zip").read_bytes())
    for signature, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        data[data.index(signature) + offset] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    with pytest.raises(ArchiveError, match="is encrypted"):
        read(tmp_path / "locked.zip")


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_cut_anywhere_is_never_taken_for_a_whole_one(write, name):
    path = write(name, FILES)
    whole = path.read_bytes()
    end = len(whole)
    if name == "a.tar":
        with tarfile.open(path) as archive:
            archive.getmembers()
            end = archive.offset + 512  # behind the first block of the end mark there is only padding
    for cut in [*range(1, min(end, 8192), 512), *range(512, end, max(1, end // 40)), end - 1]:
        path.write_bytes(whole[:cut])
        with pytest.raises(ArchiveError):
            read(path)


def test_the_member_at_which_a_tar_broke_is_named(write):
    path = write("a.tar", FILES)
    path.write_bytes(path.read_bytes()[:2300])
    with pytest.raises(ArchiveError, match=r"(?s)Ann Lee/1\.jpg.*Fetch it again"):
        read(path)


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(write):
    path = write("a.tar", FILES)
    data = bytearray(path.read_bytes())
    place = data.index(b"set/Ann Lee/1.jpg")
    data[place + 100 : place + 108] = b"\xff" * 8
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"after member set/Ann Lee/0\.jpg"):
        read(path)


def test_a_flipped_byte_is_noticed_by_the_compression(write):
    path = write("a.tar.gz", FILES)
    plain = bytearray(gzip.decompress(path.read_bytes()))
    plain[600] ^= 1
    broken = gzip.compress(bytes(plain))
    path.write_bytes(broken[:-8] + gzip.compress(b"")[-8:-4] + struct.pack("<I", len(plain)))
    with pytest.raises(ArchiveError, match="CRC"):
        read(path)
    path = write("a.zip", FILES)
    data = bytearray(path.read_bytes())
    data[data.index(b"Ann Lee 0Ann") + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"Ann Lee/0\.jpg"):
        read(path)


@pytest.mark.parametrize("data", [b"", b"hello, I am text", b"\x89PNG\r\n\x1a\n" + b"x" * 600])
def test_what_is_no_archive_is_refused(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ArchiveError, match="neither a folder nor a tar nor a zip"):
        Members(tmp_path / "a", "the archive")


def test_gzip_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"hello" * 500))
    with pytest.raises(ArchiveError):
        read(tmp_path / "a.gz")


def test_names_are_composed_and_undecodable_bytes_are_shown(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Zoë/1.jpg")
    latin = tarfile.TarInfo(b"Zo\xeb/2.jpg".decode("utf-8", "surrogateescape"))
    path = tar_of(tmp_path / "a.tar", (tarfile.TarInfo(decomposed), b"1"), (latin, b"2"), mode="w")
    assert read(path) == {"Zoë/1.jpg": b"1", "Zo\\xeb/2.jpg": b"2"}


def test_a_zip_with_unflagged_utf8_names_is_read_as_utf8(tmp_path):
    name = "Zoë/1.jpg"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name.encode().decode("cp437").encode("ascii", "replace").decode(), b"x")
    data = (tmp_path / "a.zip").read_bytes()
    stand_in = name.encode().decode("cp437").encode("ascii", "replace")
    assert data.count(stand_in) == 2
    (tmp_path / "a.zip").write_bytes(data.replace(stand_in, name.encode()))
    assert read(tmp_path / "a.zip") == {name: b"x"}


def test_leading_dots_and_folder_entries_do_not_matter(tmp_path):
    path = tar_of(tmp_path / "a.tar", special("./a", tarfile.DIRTYPE), (tarfile.TarInfo("./a/1.jpg"), b"x"))
    assert read(path) == {"a/1.jpg": b"x"}


def test_memory_does_not_grow_with_the_number_of_members(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "STEP", 1 << 16)
    path = tar_of(tmp_path / "a.tar", *((tarfile.TarInfo(f"a/{i}.jpg"), b"x") for i in range(6000)))
    tracemalloc.start()
    assert sum(1 for _ in Members(path, "the archive")) == 6000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000  # tarfile alone keeps over a kilobyte for each member
