"""Archives that are hostile, odd or damaged: tarfile and zipfile write the sound ones, the others are made by hand."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import threading
import zipfile
import zlib

import numpy as np
import pytest

from faceflow.components.common.errors import ArchiveError
from faceflow.components.download import stage
from faceflow.components.download.members import Members


def read(path, **options):
    return {member.name: member.read() for member in Members(path, "the archive", **options)}


def noise(size, seed=0):
    """Bytes that no compression gains anything on."""
    return np.random.default_rng(seed).bytes(size)


def header(name, size=0, kind=b"0", prefix=b"", magic=b"ustar\x0000", size_field=None):
    """A tar header by the book: POSIX.1-2017, pax, ustar Interchange Format."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    block[124:136] = size_field if size_field is not None else b"%011o\0" % size
    block[136:148], block[148:156], block[156:157] = b"00000000000\0", b" " * 8, kind
    block[257:265] = magic
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def member(name, data=b"x", **options):
    return header(name, len(data), **options) + padded(data)


def extension(kind, data):
    return header(b"ext", len(data), kind=kind) + padded(data)


def pax(**records):
    data = b""
    for keyword, value in records.items():
        value = value if isinstance(value, bytes) else str(value).encode()
        body = b" " + keyword.replace("__", ".").encode() + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        data += str(length).encode() + body
    return data


END = bytes(1024)


def tar(tmp_path, *pieces, end=END):
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(pieces) + end)
    return path


# What is odd but sound is read, as tarfile reads it.


def by_tarfile(path):
    with tarfile.open(path) as archive:
        return {info.name.removeprefix("./"): archive.extractfile(info).read() for info in archive if info.isfile()}


LONG = "a/" + "long name " * 30 + ".jpg"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_format_is_read_as_tarfile_reads_it(tmp_path, form, mode):
    names = ["a/1.jpg", "b" * 90 + "/" + "c" * 90 + ".jpg", "./d/2.jpg"]
    names += [] if form == tarfile.USTAR_FORMAT else [LONG, "Zoë/ä.jpg"]
    with tarfile.open(tmp_path / "a", mode, format=form) as archive:
        for index, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size, info.mtime = 700 * index, 1.5 if form == tarfile.PAX_FORMAT else 1
            archive.addfile(info, io.BytesIO(noise(info.size)))
    assert read(tmp_path / "a") == by_tarfile(tmp_path / "a")


def test_sizes_in_base_256_pax_sizes_and_old_headers_are_read(tmp_path):
    base256 = b"\x80" + (3).to_bytes(11, "big")
    path = tar(
        tmp_path,
        member(b"a/1.jpg", b"one", size_field=base256),
        extension(b"x", pax(path="a/2.jpg", size=5, mtime="1.5")),
        header(b"short", 0) + padded(b"seven"),
        member(b"a/3.jpg", b"old", kind=b"\0", magic=bytes(8)),
        member(b"3.jpg", b"prefixed", prefix=b"b"),
        extension(b"g", pax(comment="of all")),
        member(b"c/4.jpg", b"four", kind=b"7"),
    )
    assert read(path) == {
        "a/1.jpg": b"one", "a/2.jpg": b"seven", "a/3.jpg": b"old", "b/3.jpg": b"prefixed", "c/4.jpg": b"four",
    }  # fmt: skip


def test_a_folder_has_no_data_whatever_its_size_says(tmp_path):
    path = tar(
        tmp_path,
        header(b"a/", 4096, kind=b"5"),
        header(b"b/", 512, kind=b"\0", magic=bytes(8)),
        member(b"a/1.jpg", b"one"),
    )
    assert read(path) == by_tarfile(path) == {"a/1.jpg": b"one"}


def test_gnu_headers_keep_times_where_ustar_has_the_prefix(tmp_path):
    path = tar(tmp_path, member(b"a/1.jpg", b"one", magic=b"ustar  \0", prefix=b"14525252525\0"))
    assert list(read(path)) == ["a/1.jpg"]


def test_archives_put_one_after_the_other_are_read_on_and_told(tmp_path, caplog):
    path = tar(tmp_path, member(b"a/1.jpg"), END, bytes(9216), member(b"a/2.jpg", b"y"))
    with caplog.at_level("WARNING"):
        assert read(path) == {"a/1.jpg": b"x", "a/2.jpg": b"y"}
    assert "another archive begins at byte 11,264" in caplog.text


def test_compressed_streams_put_one_after_the_other_are_one(tmp_path):
    whole = member(b"a/1.jpg", noise(5000)) + member(b"a/2.jpg", b"y") + END
    for name, compress in (("gz", gzip.compress), ("xz", lzma.compress)):
        path = tmp_path / f"a.tar.{name}"
        path.write_bytes(compress(whole[:2000]) + compress(whole[2000:]) + bytes(16))
        assert list(read(path)) == ["a/1.jpg", "a/2.jpg"]


def test_what_old_programs_leave_behind_the_end_mark_of_a_record_does_not_matter(tmp_path):
    assert list(read(tar(tmp_path, member(b"a/1.jpg"), END, b"left over" * 50))) == ["a/1.jpg"]


def test_parts_are_read_as_one_file(write, tmp_path):
    files = {f"{'AB'[i % 2]}/{i}.jpg": noise(3000, i) for i in range(10)}
    for name in ("a.tar", "a.tar.gz", "a.zip"):
        whole = write(name, files).read_bytes()
        cuts = [0, 1, 700, 700, 9000, len(whole)]
        parts = []
        for index, (begin, end) in enumerate(zip(cuts, cuts[1:], strict=False)):
            parts.append(tmp_path / f"{name}.{index:03d}")
            parts[-1].write_bytes(whole[begin:end])
        assert read(parts) == files


# What is hostile or damaged is refused, with the member and the place.

REFUSED = {
    "a sparse file, GNU": (member(b"a/s.jpg", b"x", kind=b"S"), "'a/s.jpg' is a sparse file"),
    "a sparse file, pax": (
        extension(b"x", pax(GNU__sparse__major=1, path="a/s.jpg")) + member(b"s"), "'a/s.jpg' is a sparse file",
    ),
    "an unknown kind": (member(b"a/1.jpg", kind=b"Z"), "unknown kind"),
    "a huge pax header": (header(b"ext", 1 << 32, kind=b"x"), r"a header of 4,294,967,296 bytes"),
    "a huge long name": (header(b"ext", 1 << 33, kind=b"L"), r"a header of 8,589,934,592 bytes"),
    "a name of a megabyte": (
        extension(b"x", pax(path="a/" + "n" * 900_000)) + member(b"s"), "has a name of 900,002 letters",
    ),
    "a way out by pax": (extension(b"x", pax(path="../../etc/evil")) + member(b"s"), "leads outside the archive"),
    "a way out by a long name": (extension(b"L", b"/etc/evil\0") + member(b"s"), "leads outside the archive"),
    "a way out by a folder": (header(b"../up/", kind=b"5"), "leads outside the archive"),
    "a name with NUL": (extension(b"x", pax(path=b"a/1.jpg\0/../evil")) + member(b"s"), "leads outside the archive"),
    "no name": (member(b""), "leads outside the archive"),
}  # fmt: skip
DAMAGED = {
    "a pax header without lengths": (extension(b"x", b"path=a/1.jpg\n") + member(b"s"), "pax header is damaged"),
    "a pax length that lies": (extension(b"x", b"99 path=a/1.jpg\n") + member(b"s"), "pax header is damaged"),
    "a pax length of nothing": (extension(b"x", b"0 path=a/1.jpg\n") + member(b"s"), "pax header is damaged"),
    "a pax size that is none": (extension(b"x", pax(size="-5")) + member(b"s"), "pax header has the size"),
    "a negative size": (header(b"a/1.jpg", size_field=b"\xff" * 12), "negative size"),
    "a size that is none": (header(b"a/1.jpg", size_field=b"0000009zzzz\0"), "header has the size"),
    "a size beyond the end": (header(b"a/1.jpg", 1 << 33), r"in member a/1\.jpg.*bytes too early"),
    "a header with holes": (header(b"a/1.jpg", 5)[:120] + bytes(4) + header(b"a/1.jpg", 5)[124:], "header is damaged"),
    "a hole of zeros": (bytes(20_480) + b"\xff" * 512, "followed by something that is no header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_hostile_tars_are_refused(tmp_path, case):
    piece, words = REFUSED[case]
    with pytest.raises(ArchiveError, match=words):
        read(tar(tmp_path, member(b"a/0.jpg"), piece))


@pytest.mark.parametrize("case", ["a way out by pax", "a way out by a folder", "a sparse file, GNU", "a link", "cut"])
def test_of_a_hostile_archive_the_stage_leaves_nothing_anywhere(tmp_path, picture, case):
    good = member(b"a/0.jpg", picture()) + member(b"b/0.jpg", picture())
    piece = {"a link": header(b"a/link.jpg", kind=b"2"), "cut": header(b"a/1.jpg", 5000)}.get(case)
    path = tar(tmp_path, good, piece or REFUSED[case][0])
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "work").mkdir()
    source = {"kind": "folder", "path": str(path)}
    with pytest.raises(ArchiveError, match=r"a\.tar"):
        stage.run(stage.Settings(), stage.Inputs(source), stage.Outputs(tmp_path / "work" / "out"))
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "work"])


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_tars_tell_where(tmp_path, case):
    piece, words = DAMAGED[case]
    with pytest.raises(ArchiveError, match=words) as caught:
        read(tar(tmp_path, member(b"a/0.jpg"), piece))
    assert "at byte " in str(caught.value) and "Fetch it again" in str(caught.value)


def test_a_million_nested_headers_take_no_memory_and_no_recursion(tmp_path):
    path = tar(tmp_path, extension(b"x", pax(path="a/1.jpg")) * 20_000, member(b"s", b"one"))
    assert read(path) == {"a/1.jpg": b"one"}


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress])
def test_a_bomb_is_stopped_long_before_it_fills_anything(tmp_path, packed):
    zeros = header(b"a/zeros.jpg", 72 << 20) + bytes(72 << 20) + END
    (tmp_path / "a.tar.gz").write_bytes(packed(zeros))
    read_bytes = 0
    with pytest.raises(ArchiveError, match="unpacks to more than 100 times its size"):
        for each in Members(tmp_path / "a.tar.gz", "the archive"):
            for piece in each.pieces():
                read_bytes += len(piece)
    assert read_bytes <= 64 << 20


def test_an_xz_that_wants_a_gigabyte_of_memory_is_refused(tmp_path):
    # The dictionary's size is one byte of the block header: a small file can ask for 4 GB.
    data = bytearray(lzma.compress(member(b"a/1.jpg") + END, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    place = data.index(b"\x21\x01", 12) + 2
    data[place] = 40
    size = (data[12] + 1) * 4
    data[12 + size - 4 : 12 + size] = struct.pack("<I", zlib.crc32(data[12 : 12 + size - 4]))
    (tmp_path / "a.tar.xz").write_bytes(data)
    with pytest.raises(ArchiveError, match="Memory usage limit"):
        read(tmp_path / "a.tar.xz")


GZIP_LABELS = range(4, 15)
"""Date, level and system of the gzip header, and the name ``a.tar`` (RFC 1952, 2.3): they say nothing of the data."""


@pytest.mark.parametrize(
    "kind, labels, unpack",
    [("gz", GZIP_LABELS, gzip.decompress), ("bz2", (), bz2.decompress), ("xz", (), lzma.decompress)],
)
def test_every_byte_of_a_compressed_archive_matters(write, kind, labels, unpack):
    files = {"a/1.jpg": noise(300), "a/2.jpg": b"y" * 300}
    path = write(f"a.tar.{kind}", files)
    whole = path.read_bytes()
    tar_file = unpack(whole)
    harmless = set()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x55
        path.write_bytes(damaged)
        try:
            assert read(path) == files, f"byte {place} changes what is read, and nobody notices"
        except ArchiveError:
            continue
        harmless.add(place)
        # Among the zeros at a tar file's end a copy from further back is another writing of the same bytes.
        assert place in labels or unpack(damaged) == tar_file
    assert harmless.issuperset(labels)


def test_garbage_behind_a_gzip_stream_is_no_end(write):
    path = write("a.tar.gz", {"a/1.jpg": b"x"})
    path.write_bytes(path.read_bytes() + b"garbage")
    with pytest.raises(ArchiveError, match="cut short or damaged"):
        read(path)


def test_the_thread_that_reads_ahead_ends_with_its_reader(write):
    path = write("a.tar.gz", {f"a/{i}.jpg": noise(200_000, i) for i in range(60)})
    before = set(threading.enumerate())
    members = iter(Members(path, "the archive"))
    next(members)
    (reader,) = set(threading.enumerate()) - before
    members.close()
    assert not reader.is_alive()


# Zips.


def zipped(tmp_path, files, **options):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", **options) as archive:
        for name, data in files:
            archive.writestr(name, data)
    return tmp_path / "a.zip"


class Pipe(io.RawIOBase):
    """What zipfile can write to and cannot seek in."""

    def __init__(self):
        self.written = bytearray()

    def writable(self):
        return True

    def write(self, data):
        self.written += data
        return len(data)


def test_zips_of_every_writing_are_read(tmp_path):
    files = {"a/": b"", "a/1.jpg": noise(5000), "Zoë/2.jpg": b"y" * 5000}
    wanted = {name: data for name, data in files.items() if not name.endswith("/")}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path = zipped(tmp_path, files.items(), compression=method)
        assert read(path) == wanted
        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w", method) as archive:  # writes data descriptors
            for name, data in files.items():
                archive.writestr(name, data)
        path.write_bytes(bytes(pipe.written))
        assert read(path) == wanted


def test_backslashes_in_a_zip_are_slashes(tmp_path):
    path = zipped(tmp_path, [("set/Al/1.jpg", b"x"), ("set/Bo/", b"")])
    path.write_bytes(path.read_bytes().replace(b"set/Al/1.jpg", b"set\\Al\\1.jpg").replace(b"set/Bo/", b"set\\Bo\\"))
    assert read(path) == {"set/Al/1.jpg": b"x"}
    assert list(Members(path, "the archive").names()) == ["set/Al/1.jpg"]


def test_zip64_is_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a/1.jpg", "w", force_zip64=True) as file:
        file.write(b"one")
    data = path.read_bytes()
    assert read(path) == {"a/1.jpg": b"one"}
    # The same with every field of the end record and of the directory entry in its 64-bit form.
    directory, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entry = bytearray(data[directory:end])
    name_length = struct.unpack_from("<H", entry, 28)[0]
    extra = struct.pack("<HHQQQ", 1, 24, 3, 3, 0)
    entry[20:28], entry[30:32], entry[42:46] = b"\xff" * 8, struct.pack("<H", len(extra)), b"\xff" * 4
    entry = entry[: 46 + name_length] + extra
    end64 = struct.pack("<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(entry), directory)
    place = struct.pack("<4sLQL", b"PK\x06\x07", 0, directory + len(entry), 1)
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:directory] + entry + end64 + place + last)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("a/1.jpg") == b"one"
    assert read(path) == {"a/1.jpg": b"one"}


def test_a_zip_whose_members_share_their_bytes_is_a_bomb(tmp_path):
    path = zipped(tmp_path, [("a/1.jpg", b"x" * 90), ("a/2.jpg", b"y" * 90)])
    data = bytearray(path.read_bytes())
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[second + 42 : second + 46] = bytes(4)  # the second entry points at the first member
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"'a/2\.jpg' overlaps another"):
        read(path)


def test_a_zip_bomb_is_refused_before_anything_is_unpacked(tmp_path):
    path = zipped(tmp_path, [("a/1.jpg", bytes(80 << 20))], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match=r"'a/1\.jpg' unpacks from .* to 83,886,080 bytes"):
        read(path)
    assert len(read(path, max_expansion=2000)["a/1.jpg"]) == 80 << 20


def test_a_zip_member_that_is_larger_than_it_says_is_damaged(tmp_path):
    path = zipped(tmp_path, [("a/1.jpg", b"x" * 90_000)], compression=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    path.write_bytes(data)
    with pytest.raises(ArchiveError, match=r"in member a/1\.jpg, at byte 0: it does not unpack to its 10 bytes"):
        read(path)


def test_a_zip_header_with_another_name_is_damaged(tmp_path):
    path = zipped(tmp_path, [("a/1.jpg", b"x")])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"a/1.jpg", b"../evil", 1))
    with pytest.raises(ArchiveError, match="another name than the central directory"):
        read(path)


@pytest.mark.parametrize("place", ["directory", "member"])
def test_a_damaged_zip_tells_the_member(tmp_path, place):
    path = zipped(tmp_path, [("a/1.jpg", b"x" * 500), ("a/2.jpg", b"y" * 500)])
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\x01\x02" if place == "directory" else b"PK\x03\x04")
    data[second] ^= 1
    path.write_bytes(data)
    words = r"after member a/1\.jpg.*directory is damaged" if place == "directory" else r"in member a/2\.jpg"
    with pytest.raises(ArchiveError, match=words):
        read(path)


def test_bytes_lost_in_the_middle_of_a_zip_are_noticed(tmp_path):
    path = zipped(tmp_path, [(f"a/{i}.jpg", noise(500, i)) for i in range(5)])
    data = path.read_bytes()
    path.write_bytes(data[:700] + data[900:])
    with pytest.raises(ArchiveError):
        read(path)


def test_a_folder_of_a_zip_is_checked_too(tmp_path):
    with pytest.raises(ArchiveError, match="leads outside the archive"):
        read(zipped(tmp_path, [("../up/", b"")]))
