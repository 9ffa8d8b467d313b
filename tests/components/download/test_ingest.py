"""The loop that writes what a reader gives: in the middle of its work something fails."""

import io
import os
import resource
import signal
import tarfile
import threading

import numpy as np
import pytest

from faceflow.components.common.dataset import publishing
from faceflow.components.common.errors import DiskSpaceError, FaceflowError
from faceflow.components.common.sources import parse
from faceflow.components.download import stage
from faceflow.components.download.folder import IdentityFolders
from faceflow.components.download.ingest import Ingest, Limits
from faceflow.components.download.items import Reader
from faceflow.components.download.members import Members


@pytest.fixture
def archive(tmp_path, picture):
    """A hundred images in a tar.gz, 20 MB."""
    rng = np.random.default_rng(0)
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz", compresslevel=1) as made:
        for index in range(100):
            data = picture(index, size=(64, 64))[:-2] + rng.bytes(200_000) + b"\xff\xd9"
            info = tarfile.TarInfo(f"set/{'Al' if index % 2 else 'Bo'}/{index}.jpg")
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return tmp_path / "set.tar.gz"


class Failing(Reader):
    """Reads an archive, and does something at one of its files."""

    def __init__(self, archive, at, action):
        self._inner = IdentityFolders(Members(archive, "the archive"))
        self._at, self._action = at, action

    def items(self):
        for index, item in enumerate(self._inner.items()):
            if index == self._at:
                self._action()
            yield item


def fail():
    raise FaceflowError("as planned")


@pytest.mark.parametrize("at", [0, 1, 40, 99])
@pytest.mark.parametrize("action, error", [
    (lambda: os.kill(os.getpid(), signal.SIGINT), KeyboardInterrupt), (fail, FaceflowError),
])  # fmt: skip
def test_whatever_ends_it_ends_its_threads_and_leaves_nothing(archive, tmp_path, at, action, error):
    before = set(threading.enumerate())
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(error), publishing(tmp_path / "work" / "out") as directory:
            source = parse({"kind": "folder", "path": str(archive)})
            Ingest(source, Limits(2_000_000, 10**6, 10**6), directory).run(Failing(archive, at, action))
    finally:
        signal.signal(signal.SIGINT, handler)
    assert list((tmp_path / "work").iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_a_disk_that_fills_up_in_the_middle_is_told_as_such(archive, tmp_path):
    before, limits = set(threading.enumerate()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, limits[1]))
    try:
        with pytest.raises(DiskSpaceError, match="writing its images failed"):
            stage.run(
                stage.Settings(),
                stage.Inputs({"kind": "folder", "path": str(archive)}),
                stage.Outputs(tmp_path / "work" / "out"),
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "work").iterdir()) == []
    assert set(threading.enumerate()) <= before


def test_bytes_do_not_depend_on_how_far_the_threads_are(archive, tmp_path):
    manifests = []
    for index in range(3):
        stage.run(
            stage.Settings(shard_mb=2),
            stage.Inputs({"kind": "folder", "path": str(archive)}),
            stage.Outputs(tmp_path / str(index)),
        )
        manifests.append((tmp_path / str(index) / "manifest.json").read_bytes())
    assert len(set(manifests)) == 1
