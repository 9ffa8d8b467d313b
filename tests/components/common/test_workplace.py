"""A stage's workplace under a ``work_uri``, worked in by a job server and two worker pools of Beam in this process."""

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from apache_beam.runners.portability.local_job_service import LocalJobServicer
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

from faceflow.components.align.stage import Settings
from faceflow.components.common import files
from faceflow.components.common.engine import Engine
from faceflow.components.common.errors import ArchiveError, EngineError, SettingsError, StorageError
from faceflow.components.common.workplace import Workplace


def copy_shard(shard, *, output, fail_at=-1):
    index, location = shard
    if index == fail_at:
        raise ArchiveError(f"shard \"{index}\" of 'x' broke: {{fetch}} it again, \\ é")
    files.write_bytes(files.join(output, f"{index}.txt"), files.read_bytes(location) + b"!")


def copy_shard_until_killed(shard, *, output):
    if shard[0] == 2:
        raise MemoryError("killed")
    copy_shard(shard, output=output)


@pytest.fixture(scope="module")
def job_server():
    """Options for a portable job server with two worker pools."""
    server = LocalJobServicer()
    port = server.start_grpc_server()
    pools = [BeamFnExternalWorkerPoolServicer.start() for _ in range(2)]
    yield [
        f"--job_endpoint=localhost:{port}",
        "--environment_type=EXTERNAL",
        *(f"--environment_config={address}" for address, _ in pools),
    ]
    for _, pool in pools:
        pool.stop(0)
    server.stop(0)


@pytest.fixture
def place(tmp_path):
    """Four input shards, an output folder and a folder for the work."""
    for name in ("input", "output", "work"):
        (tmp_path / name).mkdir()
    shards = [tmp_path / "input" / f"faces-{index}.tfrecord" for index in range(4)]
    for index, path in enumerate(shards):
        path.write_text(f"shard {index}")
    return SimpleNamespace(shards=shards, output=tmp_path / "output", work=tmp_path / "work")


def copied(place):
    return {path.name: path.read_text() for path in place.output.iterdir()}


ALL = {f"{index}.txt": f"shard {index}!" for index in range(4)}


def test_parts_come_back_from_a_job_server_and_nothing_stays_behind(place, job_server):
    settings = Settings(runner="PortableRunner", runner_options=job_server, work_uri=str(place.work))
    with Workplace("align", settings, ["a"]) as at:
        output = at.folder(place.output)
        below = at.folder(place.output / "below")
        assert Path(output).is_relative_to(place.work) and below == f"{output}/below"
        at.map(partial(copy_shard, output=output), at.shards(place.shards), "copy shards")
        at.map(partial(copy_shard, output=below), at.shards(place.shards), "copy below")
        assert copied(place) == {}
        for each in (output, below):
            at.collect(each)
        at.clear(below)
    assert {path.name: path.read_text() for path in (place.output / "below").iterdir()} == ALL
    assert {path.name for path in place.output.iterdir()} == {*ALL, "below"}
    assert list(place.work.iterdir()) == []


def test_a_typed_error_comes_back_whole_and_the_work_folder_goes(place, job_server):
    settings = Settings(runner="PortableRunner", runner_options=job_server, work_uri=str(place.work))
    with pytest.raises(ArchiveError) as caught, Workplace("align", settings, ["a"]) as at:
        at.map(partial(copy_shard, output=at.folder(place.output), fail_at=2), at.shards(place.shards), "copy")
    assert str(caught.value) == "shard \"2\" of 'x' broke: {fetch} it again, \\ é"
    assert list(place.work.iterdir()) == [] and copied(place) == {}


def test_a_second_try_uses_what_the_first_one_finished(place):
    settings = Settings(work_uri=str(place.work))
    with pytest.raises(MemoryError), Workplace("align", settings, ["a"]) as at:
        at.map(partial(copy_shard_until_killed, output=at.folder(place.output)), at.shards(place.shards), "copy")
    (folder,) = place.work.iterdir()
    assert sorted(path.name for path in (folder / "folder-0").iterdir()) == ["0.txt", "1.txt"]
    (folder / "folder-0" / "0.txt").write_text("from the first try")
    with Workplace("align", settings, ["other input"]) as at:
        assert at.folder(place.output) != str(folder / "folder-0")
    with Workplace("align", settings, ["a"]) as at:
        output = at.folder(place.output)
        at.map(partial(copy_shard, output=output), at.shards(place.shards), "copy")
        at.collect(output)
    assert copied(place) == ALL | {"0.txt": "from the first try"}
    assert list(place.work.iterdir()) == []


def test_without_a_work_uri_the_workers_use_the_stage_s_folders(place):
    with Workplace("align", Settings(), ["a"]) as at:
        output = at.folder(place.output)
        at.map(partial(copy_shard, output=output), at.shards(place.shards), "copy")
        assert copied(place) == ALL
        at.collect(output)
        scratch = at.folder(place.output / "scratch")
        at.clear(scratch)
    assert copied(place) == ALL


def test_a_part_that_did_not_arrive_whole_is_noticed(place, monkeypatch):
    at = Workplace("align", Settings(work_uri=str(place.work)), ["a"])
    with pytest.raises(StorageError, match="has 8 bytes, of which 0 arrived"), at:
        output = at.folder(place.output)
        at.map(partial(copy_shard, output=output), at.shards(place.shards), "copy")
        monkeypatch.setattr(files, "copy_in", lambda location, path: path.touch())
        at.collect(output)
    assert len(list(place.work.iterdir())) == 1


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ([], SettingsError, "needs the address of a job server"),
        (["--job_endpoint=localhost"], SettingsError, "must be HOST:PORT"),
        (["--job_endpoint=localhost:9"], EngineError, "no Beam job server answers at localhost:9"),
        (["--job_endpoint=embed", "--enviroment_type=EXTERNAL"], SettingsError, "did you mean --environment_type"),
        (["--job_endpoint=embed", "--job_server_timeout=soon"], SettingsError, "invalid int value: 'soon'"),
        (["--job_endpoint=embed", *["--environment_config=a:1"] * 2], SettingsError, "--environment_type=EXTERNAL"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_work(place, options, kind, told):
    settings = Settings(runner="PortableRunner", runner_options=options, work_uri=str(place.work))
    with pytest.raises(kind, match=told):
        Workplace("align", settings, ["a"])
    assert list(place.work.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"runner": "DirectRunner"}, "must be one of 'FnApiRunner', 'PortableRunner'"),
        ({"runner": "PortableRunner"}, "'work_uri' is empty, but workers of PortableRunner"),
        ({"work_uri": "ftp://host/folder"}, "must be a path or one of s3://"),
        ({"work_uri": "relative/folder"}, "must begin with '/'"),
        ({"work_uri": "s3://bucket/a*"}, "none of"),
        ({"runner_options": ["job_endpoint=x"]}, "an option is --name=value"),
        ({"runner_options": ["--runner=FlinkRunner"]}, "give the setting 'runner'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_when_they_are_made(given, told):
    with pytest.raises(SettingsError, match=told):
        Settings(**given)


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        Workplace("align", Settings(work_uri=str(tmp_path / "file")), ["a"])


def test_what_a_worker_could_not_import_is_refused(tmp_path):
    with pytest.raises(TypeError, match="move it to the top of a module"):
        Engine().map(lambda element: os.getpid(), [1], "lambda")
