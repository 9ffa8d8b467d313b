"""RecordIO files are written here from the format's description, apart from the reader and the synthetic layouts."""

import pickle
import struct

import pytest

from faceflow.components.common.errors import ArchiveError, SourceError
from faceflow.components.download.insightface import BinReader, RecordReader

MAGIC = struct.pack("<I", 0xCED7230A)


def framed(data):
    """One record; where the magic number stands at a multiple of four it is left out and the record continued."""
    parts, begin = [], 0
    for at in range(0, len(data) - 3, 4):
        if data[at : at + 4] == MAGIC and at >= begin:
            parts.append(data[begin:at])
            begin = at + 4
    parts.append(data[begin:])
    flags = [0] if len(parts) == 1 else [1] + [2] * (len(parts) - 2) + [3]
    return b"".join(
        MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
        for flag, part in zip(flags, parts, strict=True)
    )


def record(number, labels, image=b""):
    if isinstance(labels, list):
        head = struct.pack("<IfQQ", len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels)
    else:
        head = struct.pack("<IfQQ", 0, labels, number, 0)
    return number, framed(head + image)


def write_rec(folder, records):
    folder.mkdir(exist_ok=True)
    offset = 0
    with open(folder / "train.rec", "wb") as rec, open(folder / "train.idx", "w") as idx:
        for number, data in records:
            idx.write(f"{number}\t{offset}\n")
            offset += rec.write(data)
    (folder / "property").write_text("2,112,112")
    return folder


def read(folder):
    return [(item.identity, item.file, item.name, item.read()) for item in RecordReader(folder, "set").items()]


@pytest.fixture
def images(picture):
    return [picture(0), picture(1), picture(2)]


@pytest.mark.parametrize("header", ["first", "last"])
def test_images_and_labels_are_read_wherever_the_header_record_stands(tmp_path, images, header):
    body = [record(1, 0.0, images[0]), record(2, 0.0, images[1]), record(3, 7.0, images[2])]
    ends = [record(4, [1.0, 3.0]), record(5, [3.0, 4.0])]
    begin = [record(0, [4.0, 6.0])]
    folder = write_rec(tmp_path / "set", begin + body + ends if header == "first" else body + begin + ends)
    assert read(folder) == [
        ("0", "00000001.jpg", "1", images[0]),
        ("0", "00000002.jpg", "2", images[1]),
        ("7", "00000003.jpg", "3", images[2]),
    ]


def test_of_several_labels_the_first_counts(tmp_path, images):
    folder = write_rec(tmp_path / "set", [record(1, [5.0, 0.25, 1.0], images[0])])
    assert [row[0] for row in read(folder)] == ["5"]


@pytest.mark.parametrize("prefix", [b"", b"x", b"xx", b"xxx", b"xxxx"])
def test_data_that_holds_the_magic_number_is_put_together_again(tmp_path, prefix):
    data = prefix + b"ab" + MAGIC + b"cd" + MAGIC + MAGIC + b"e"
    folder = write_rec(tmp_path / "set", [record(1, 0.0, data), record(2, 1.0, b"next")])
    assert [row[3] for row in read(folder)] == [data, b"next"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    folder = write_rec(tmp_path / "set", [record(1, 0.0, b"a" * 30), record(2, 1.0, b"b" * 31 + MAGIC * 3)])
    whole = (folder / "train.rec").read_bytes()
    for cut in range(len(whole)):
        (folder / "train.rec").write_bytes(whole[:cut])
        with pytest.raises(ArchiveError, match=r"train\.rec is cut short|damaged"):
            read(folder)


def test_an_index_of_another_file_is_noticed(tmp_path, images):
    folder = write_rec(tmp_path / "set", [record(1, 0.0, images[0]), record(2, 1.0, images[1])])
    index = (folder / "train.idx").read_text().splitlines()
    (folder / "train.idx").write_text(f"{index[0]}\n2\t12345\n")
    with pytest.raises(ArchiveError, match="do not belong together"):
        read(folder)
    (folder / "train.idx").write_text("1 zero\n")
    with pytest.raises(SourceError, match=r"train\.idx, line 1"):
        read(folder)
    (folder / "train.idx").unlink()
    with pytest.raises(SourceError, match=r"train\.idx is missing"):
        read(folder)
    (folder / "train.rec").unlink()
    with pytest.raises(SourceError, match=r"must hold one \.rec file, but there is: none"):
        read(folder)


def test_an_index_in_another_order_than_the_file_is_sorted(tmp_path, images):
    folder = write_rec(tmp_path / "set", [record(number, 0.0, image) for number, image in enumerate(images, start=5)])
    lines = (folder / "train.idx").read_text().splitlines()
    (folder / "train.idx").write_text("\n".join(reversed(lines)) + "\n")
    assert [(row[2], row[3]) for row in read(folder)] == [(str(5 + i), image) for i, image in enumerate(images)]


@pytest.mark.parametrize("line", ["1 -4", "-1 0", "1 99999999999999999999", "1", "x" * 10_000])
def test_an_index_line_that_no_file_can_have_is_refused(tmp_path, images, line):
    folder = write_rec(tmp_path / "set", [record(1, 0.0, images[0])])
    (folder / "train.idx").write_text(line)
    with pytest.raises(SourceError, match=r"train\.idx, line 1"):
        read(folder)


def test_a_record_that_never_ends_takes_no_memory(tmp_path):
    folder = write_rec(tmp_path / "set", [record(1, 0.0, b"image")])
    part = MAGIC + struct.pack("<I", 2 << 29 | (1 << 20)) + bytes(1 << 20)
    first = MAGIC + struct.pack("<I", 1 << 29 | 4) + b"head"
    with open(folder / "train.rec", "wb") as file:
        file.write(first + MAGIC + struct.pack("<I", 2 << 29 | ((1 << 29) - 1)) + part)
    with pytest.raises(ArchiveError, match=r"at byte 12: a record has more than 268,435,456 bytes"):
        read(folder)


@pytest.mark.parametrize("label", [-1.0, 0.5, float("nan"), float("inf")])
def test_a_label_that_is_no_class_is_refused(tmp_path, label):
    with pytest.raises(ArchiveError, match="record 1 has the label"):
        read(write_rec(tmp_path / "set", [record(1, label, b"image")]))


def test_a_record_that_promises_too_many_labels_is_refused(tmp_path):
    data = framed(struct.pack("<IfQQ", 1 << 30, 0.0, 1, 0) + b"abc")
    with pytest.raises(ArchiveError, match="promises"):
        read(write_rec(tmp_path / "set", [(1, data)]))


def test_pairs_of_a_bin_become_identities_and_ten_folds(tmp_path):
    same = [index % 3 != 0 for index in range(23)]
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([b"%d" % i for i in range(46)], same)))
    reader = BinReader(tmp_path / "x.bin", "set")
    images = {item.path: item for item in reader.items()}
    assert [item.read() for item in images.values()] == [b"%d" % i for i in range(46)]
    pairs = list(reader.pairs())
    for index, pair in enumerate(pairs):
        assert pair.same == same[index]
        assert (images[pair.first].identity == images[pair.second].identity) == pair.same
        assert (images[pair.first].name, images[pair.second].name) == (str(2 * index), str(2 * index + 1))
    # As scikit-learn documents KFold: the first n % k folds have one more.
    assert [pair.fold for pair in pairs] == [0] * 3 + [1] * 3 + [2] * 3 + [fold for fold in range(3, 10) for _ in "ab"]
