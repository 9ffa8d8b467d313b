"""Transfers against a real server on this machine, which cuts, refuses and changes things."""

import shutil

import numpy as np
import pytest

from faceflow.components.common.errors import DiskSpaceError, SourceError
from faceflow.components.common.locations import Patience, RemoteFile, ask, describe
from faceflow.components.common.sources import parse
from faceflow.components.download.transfer import fetch

DATA = np.random.default_rng(0).bytes(3_000_000)
PATIENCE = Patience(timeout_seconds=5, retries=3, wait_seconds=0.01)


@pytest.fixture
def server(server):
    server.files["/set.tgz"] = DATA
    return server


def get(server, tmp_path, patience=PATIENCE):
    return fetch(server.url("/set.tgz"), tmp_path, "the archive", patience)


def ranges(server):
    return [asked for method, _, asked in server.requests if method == "GET"]


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None])
def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path, etag):
    server.etags = {"/set.tgz": etag} if etag else {}
    server.cut_after = [1_000_000, 500_000]
    assert get(server, tmp_path).read_bytes() == DATA
    asked = ranges(server)
    assert asked[0] is None and len(asked) == 3
    begins = [int(each.removeprefix("bytes=").rstrip("-")) for each in asked[1:]]
    assert 0 < begins[0] <= 1_000_000 and begins[0] <= begins[1] <= 1_500_000


def test_a_server_without_ranges_is_asked_for_everything_again(server, tmp_path):
    server.ranges = False
    server.cut_after = [1_000_000]
    assert get(server, tmp_path).read_bytes() == DATA


def test_patience_begins_anew_whenever_bytes_arrive(server, tmp_path):
    server.cut_after = [1_100_000, 1_100_000]
    assert get(server, tmp_path, Patience(timeout_seconds=5, retries=1, wait_seconds=0)).read_bytes() == DATA


def test_an_earlier_attempt_is_gone_on_from(server, tmp_path):
    server.cut_after = [1_500_000]
    with pytest.raises(SourceError, match="Gave up"):
        get(server, tmp_path, Patience(timeout_seconds=5, retries=0, wait_seconds=0))
    server.requests.clear()
    assert get(server, tmp_path).read_bytes() == DATA
    assert ranges(server)[0].startswith("bytes=1")


def test_what_was_fetched_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    server.requests.clear()
    assert get(server, tmp_path).read_bytes() == DATA
    assert ranges(server) == []


@pytest.mark.parametrize("same_size", [True, False])
@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_file_that_changed_between_attempts_is_fetched_anew(server, tmp_path, same_size, etag):
    server.etags = {"/set.tgz": etag} if etag else {}
    server.cut_after = [1_500_000]
    with pytest.raises(SourceError):
        get(server, tmp_path, Patience(timeout_seconds=5, retries=0, wait_seconds=0))
    changed = DATA[::-1] if same_size else DATA[::-1][:-1000]
    server.files["/set.tgz"] = changed
    server.etags = {"/set.tgz": '"v2"'} if etag else {}
    server.modified = "Thu, 22 Oct 2015 07:28:00 GMT"
    assert get(server, tmp_path).read_bytes() == changed


@pytest.mark.parametrize("etag", ['"v1"', 'W/"v1"', None])
def test_a_file_that_changes_during_the_transfer_is_never_mixed(server, tmp_path, etag):
    server.etags = {"/set.tgz": etag} if etag else {}
    server.cut_after = [1_500_000]
    after_cut = server.files

    class Changing(dict):
        asked = 0

        def get(self, path, default=None):
            self.asked += 1
            if self.asked == 3:  # HEAD, first GET, and now what follows the cut
                self["/set.tgz"] = DATA[::-1]
                server.etags = {"/set.tgz": etag.replace("1", "2")} if etag else {}
                server.modified = "Thu, 22 Oct 2015 07:28:00 GMT"
            return super().get(path, default)

    server.files = Changing(after_cut)
    assert get(server, tmp_path).read_bytes() == DATA[::-1]


def test_busy_servers_are_asked_again_and_missing_files_are_not(server, tmp_path):
    server.statuses = [503, 429, 500]
    assert get(server, tmp_path).read_bytes() == DATA
    server.requests.clear()
    with pytest.raises(SourceError, match=r"not found \(the server answered 404"):
        fetch(server.url("/other.tgz"), tmp_path, "the archive", PATIENCE)
    assert len(server.requests) == 1
    server.statuses = [500] * 4
    with pytest.raises(SourceError, match="500 Internal Server Error. Gave up after 4 tries"):
        get(server, tmp_path / "another")


def test_refused_access_and_dead_addresses_end_with_a_clear_message(server, tmp_path):
    server.no_head = 403
    server.statuses = [403, 403]
    with pytest.raises(SourceError, match="refuses access"):
        get(server, tmp_path)
    with pytest.raises(SourceError, match="Gave up after 1 tries"):
        fetch("http://127.0.0.1:9/x", tmp_path, "x", Patience(timeout_seconds=1, retries=0, wait_seconds=0))
    with pytest.raises(SourceError, match="Check the address"):
        fetch("http://", tmp_path, "x", PATIENCE)


def test_a_server_that_does_not_answer_head_is_asked_for_the_first_byte(server):
    server.etags = {"/set.tgz": '"v1"'}
    expected = RemoteFile(len(DATA), '"v1"', "")
    assert ask(server.url("/set.tgz"), "it", PATIENCE) == expected
    server.no_head = 405
    server.requests.clear()
    assert ask(server.url("/set.tgz"), "it", PATIENCE) == expected
    assert server.requests[-1] == ("GET", "/set.tgz", "bytes=0-0")
    server.ranges = False
    assert ask(server.url("/set.tgz"), "it", PATIENCE) == expected


def test_a_size_that_nobody_tells_is_done_without(server, tmp_path):
    server.tell_size = False
    server.cut_after = [1_000_000]
    assert get(server, tmp_path).read_bytes() == DATA


def test_too_small_a_disk_is_noticed_before_anything_is_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DiskSpaceError, match="fetching it needs about"):
        get(server, tmp_path)
    assert ranges(server) == []


def test_the_description_of_an_address_follows_its_etag_date_and_size(server):
    source = parse({"kind": "folder", "path": server.url("/set.tgz")})
    seen = [describe(source, PATIENCE)["path"]]
    server.modified = "Thu, 22 Oct 2015 07:28:00 GMT"
    seen.append(describe(source, PATIENCE)["path"])
    server.etags = {"/set.tgz": '"v1"'}
    seen.append(describe(source, PATIENCE)["path"])
    server.files["/set.tgz"] = DATA[:-1]
    seen.append(describe(source, PATIENCE)["path"])
    assert len({str(each) for each in seen}) == 4
    assert seen[-1] == {"size": len(DATA) - 1, "etag": '"v1"', "last_modified": ""}
