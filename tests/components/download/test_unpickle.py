"""``pickle`` itself writes what must be readable; what must not be is put together by hand."""

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from faceflow.components.common.errors import ArchiveError
from faceflow.components.download import unpickle
from faceflow.components.download.unpickle import read_verification_set

REAL = Path(__file__).parents[4] / "shared/data/formats/small_lfw.bin"
IMAGES, FLAGS = [b"one", b"two\xff\x00", b"three", b"four"], [True, False]


def read(tmp_path, data):
    path = tmp_path / "set.bin"
    path.write_bytes(data)
    return read_verification_set(path, "the set")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("images", ["bytes", "arrays"])
@pytest.mark.parametrize("flags", ["bools", "numpy bools", "array", "ints"])
@pytest.mark.parametrize("outer", [tuple, list])
def test_every_way_of_writing_a_set_is_read(tmp_path, protocol, images, flags, outer):
    pictures = IMAGES if images == "bytes" else [np.frombuffer(image, np.uint8) for image in IMAGES]
    same = {
        "bools": FLAGS, "numpy bools": [np.bool_(flag) for flag in FLAGS], "array": np.array(FLAGS), "ints": [1, 0],
    }[flags]  # fmt: skip
    assert read(tmp_path, pickle.dumps(outer((pictures, same)), protocol=protocol)) == (IMAGES, FLAGS)


def test_a_set_written_by_python_2_is_read(tmp_path):
    body = b"".join(b"U" + struct.pack("B", len(image)) + image for image in IMAGES)
    data = b"\x80\x02](" + body + b"e](\x88\x89e\x86."
    assert pickle.loads(data, encoding="bytes") == (IMAGES, FLAGS)
    assert read(tmp_path, data) == (IMAGES, FLAGS)


def test_numbers_of_other_byte_orders_and_layouts_are_read_as_numpy_does():
    for array in (np.arange(6, dtype=">i4").reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3))):
        for protocol in range(2, 6):
            loaded = unpickle._Unpickler(io.BytesIO(pickle.dumps(array, protocol)), encoding="bytes").load()
            np.testing.assert_array_equal(loaded.values, array)


class _Runs:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_pickle_that_runs_a_command_does_not(tmp_path):
    mark = tmp_path / "ran"
    for function, arguments in (
        (os.system, (f"touch {mark}",)),
        (eval, (f"open({str(mark)!r}, 'w')",)),
        (open, (str(mark), "w")),
        (getattr, ("text", "upper")),
        (np.save, (str(mark), 1)),
    ):
        data = pickle.dumps(([b"a", b"b"], [_Runs(function, *arguments)]))
        with pytest.raises(ArchiveError, match="nothing in it was executed"):
            read(tmp_path, data)
    assert not mark.exists()


def test_what_a_pickle_can_reach_cannot_be_changed_by_it(tmp_path):
    before = unpickle._encode.__defaults__
    for state in (b"N}X\x0c\x00\x00\x00__defaults__X\x01\x00\x00\x00xs\x86", b"}X\x01\x00\x00\x00aX\x01\x00\x00\x00bs"):
        with pytest.raises(ArchiveError):
            read(tmp_path, b"\x80\x02c_codecs\nencode\n" + state + b"b.")
    assert unpickle._encode.__defaults__ == before


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02]r\xff\xff\xff\x7f.",  # remembers a list under the number 2,147,483,647: 32 GB of table
        b"(lp99999999999\n.",  # the same in protocol 0
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00abc.",  # a terabyte of bytes
        # A terabyte of zeros, by way of bytes(<int>).
        b"\x80\x02cnumpy.core.numeric\n_frombuffer\n(\x8a\x06\x00\x00\x00\x00\x00\x01NNNtR.",
    ],
)
def test_a_pickle_that_asks_for_memory_does_not_get_it(tmp_path, data):
    tracemalloc.start()
    with pytest.raises(ArchiveError, match="nothing in it was executed"):
        read(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    "value",
    [
        "text",
        [b"a", b"b"],
        ([b"a", b"b", b"c"], [True]),
        ([b"a", "b"], [True]),
        ([b"a", b"b"], ["yes"]),
        ([b"a", b"b"], [2]),
        ([b"a", None], [True]),
        (np.array([[b"a", b"b"]], object), [True]),
    ],
)
def test_another_shape_is_refused(tmp_path, value):
    with pytest.raises(ArchiveError):
        read(tmp_path, pickle.dumps(value))


def test_a_set_cut_anywhere_is_refused(tmp_path):
    data = pickle.dumps((IMAGES, FLAGS))
    for cut in range(len(data)):
        with pytest.raises(ArchiveError):
            read(tmp_path, data[:cut])


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/formats/small_lfw.bin")
def test_a_real_set_is_read():
    images, flags = read_verification_set(REAL, "small_lfw.bin")
    assert len(images) == 20 and flags == [True] * 10
    assert all(image.startswith(b"\xff\xd8") for image in images)
