"""Transfers against a real server on this machine, which cuts, refuses and changes things."""

import errno
import hashlib
import json
import os
import shutil
import time
from email.utils import formatdate

import numpy as np
import pytest

from faceflow.components.common.errors import ChecksumError, DiskSpaceError, SourceError
from faceflow.components.common.locations import Patience, RemoteFile, ask, describe
from faceflow.components.common.sources import parse
from faceflow.components.download.throttle import Throttle
from faceflow.components.download.transfer import AtHand, Manner, fetch

DATA = np.random.default_rng(0).bytes(3_000_000)
PATIENCE = Patience(timeout_seconds=5, retries=3, wait_seconds=0.01)


@pytest.fixture
def server(server):
    server.files["/set.tgz"] = DATA
    return server


def get(server, tmp_path, patience=PATIENCE, **manner):
    target = tmp_path / "set.tgz"
    fetch([server.url("/set.tgz")], target, "the archive", Manner(patience, **manner))
    return target


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
        fetch([server.url("/other.tgz")], tmp_path / "other", "the archive", Manner(PATIENCE))
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
        impatient = Manner(Patience(timeout_seconds=1, retries=0, wait_seconds=0))
        fetch(["http://127.0.0.1:9/x"], tmp_path / "x", "x", impatient)
    with pytest.raises(SourceError, match="Check the address"):
        fetch(["http://"], tmp_path / "x", "x", Manner(PATIENCE))


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


IMPATIENT = Patience(timeout_seconds=5, retries=0, wait_seconds=0)
MD5, SHA256 = f"md5:{hashlib.md5(DATA).hexdigest()}", f"sha256:{hashlib.sha256(DATA).hexdigest().upper()}"


def start(server, tmp_path, size, **manner):
    """Leave the first bytes of the file at hand."""
    server.cut_after = [size]
    with pytest.raises(SourceError):
        get(server, tmp_path, IMPATIENT, **manner)
    server.cut_after = []
    server.requests.clear()


def sent(server):
    """Bytes of the ranges that were asked for, of a file that is sent whole without one."""
    total = 0
    for asked in ranges(server):
        begin, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        total += int(last or len(DATA) - 1) + 1 - int(begin)
    return total


@pytest.mark.parametrize("wish", ["1", "date", "nonsense"])
def test_a_busy_server_is_left_alone_as_long_as_it_asks(server, tmp_path, wish):
    server.retry_after = formatdate(time.time() + 2, usegmt=True) if wish == "date" else wish
    server.statuses = [503]
    begin = time.monotonic()
    assert get(server, tmp_path).read_bytes() == DATA
    assert (time.monotonic() - begin > 0.9) == (wish != "nonsense")


@pytest.mark.parametrize("lie", [-1000, 1000])
@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_length_that_head_lies_about_does_no_harm(server, tmp_path, lie, etag):
    server.etags = {"/set.tgz": etag} if etag else {}
    server.head_lies = lie
    assert get(server, tmp_path).read_bytes() == DATA
    server.cut_after = [len(DATA), 1, 2_000_000, 0]  # the lie comes out, the first byte tells the truth, then a cut
    with pytest.raises(SourceError):
        get(server, tmp_path / "again", Patience(timeout_seconds=5, retries=1, wait_seconds=0))
    server.requests.clear()
    assert get(server, tmp_path / "again").read_bytes() == DATA
    assert sent(server) < 1_300_000, "what was at hand was fetched again"


@pytest.mark.parametrize("lie", [-1000, 1000])
def test_an_answer_that_lies_about_its_length_is_mended_from_where_it_ends(server, tmp_path, lie):
    server.etags = {"/set.tgz": '"v1"'}
    server.lies = [lie, lie]
    server.cut_after = [1_000_000]
    assert get(server, tmp_path).read_bytes() == DATA


def test_a_server_that_never_has_as_much_as_it_announces_is_believed_when_it_says_so(server, tmp_path, caplog):
    server.etags = {"/set.tgz": '"v1"'}
    server.head_lies, server.lies = 1000, [1000]
    assert get(server, tmp_path).read_bytes() == DATA
    assert ranges(server) == [None, f"bytes={len(DATA)}-"]
    assert "has no more than 3,000,000" in caplog.text


def test_redirections_are_followed_each_time(server, tmp_path):
    server.redirects = {"/set.tgz": "/moved", "/moved": "/here.tgz"}
    server.files["/here.tgz"] = DATA
    server.cut_after = [1_000_000]
    assert get(server, tmp_path).read_bytes() == DATA
    assert [asked for _, path, asked in server.requests if path == "/here.tgz"][2].startswith("bytes=")


def test_a_tgz_that_is_called_an_encoded_tar_arrives_as_it_is(server, tmp_path):
    server.encoding = "x-gzip"
    assert get(server, tmp_path).read_bytes() == DATA


def test_servers_that_share_an_address_may_have_etags_of_their_own(server, tmp_path):
    server.dated = True
    server.etags = {"/set.tgz": '"of the first"'}
    start(server, tmp_path, 2_000_000)
    server.etags = {"/set.tgz": '"of the second"'}
    assert get(server, tmp_path).read_bytes() == DATA
    assert sent(server) < 1_500_000
    start(server, tmp_path / "changed", 2_000_000)
    server.etags = {"/set.tgz": '"of a third"'}
    server.files["/set.tgz"] = DATA[:1_990_000] + bytes(10_000) + DATA[2_000_000:]
    assert get(server, tmp_path / "changed").read_bytes() == server.files["/set.tgz"]
    start(server, tmp_path / "dated", 2_000_000)
    server.etags, server.modified = {"/set.tgz": '"of a fourth"'}, "Thu, 22 Oct 2015 07:28:00 GMT"
    server.files["/set.tgz"] = b"changed where no sample is taken"[:9] + server.files["/set.tgz"][9:]
    assert get(server, tmp_path / "dated").read_bytes() == server.files["/set.tgz"]


@pytest.mark.parametrize("changed", [DATA[::-1], DATA[::-1][:-1000], DATA])
def test_where_a_server_tells_no_more_than_the_size_what_is_at_hand_is_compared(server, tmp_path, changed):
    server.modified = ""
    start(server, tmp_path, 2_000_000)
    server.files["/set.tgz"] = changed
    assert get(server, tmp_path).read_bytes() == changed
    assert (sent(server) < 1_500_000) == (changed is DATA)


def test_a_file_without_etag_or_date_that_changes_on_the_way_is_never_mixed(server, tmp_path):
    server.modified = ""
    server.cut_after = [1_500_000]

    class Changing(dict):
        def get(self, path, default=None):
            if len(server.requests) == 3:
                self["/set.tgz"] = DATA[::-1][:-1000]
            return super().get(path, default)

    server.files = Changing(server.files)
    assert get(server, tmp_path).read_bytes() == DATA[::-1][:-1000]


def test_a_server_that_sends_everything_again_does_not_cost_what_is_at_hand(server, tmp_path):
    start(server, tmp_path, 2_000_000)
    server.ranges = False
    server.cut_after = [1_000_000]
    with pytest.raises(SourceError):
        get(server, tmp_path, IMPATIENT)
    assert AtHand(tmp_path / "set.tgz").size > 1_900_000
    assert get(server, tmp_path).read_bytes() == DATA
    start(server, tmp_path / "other", 1_500_000)
    server.ranges, server.files["/set.tgz"] = False, DATA[::-1]
    assert get(server, tmp_path / "other").read_bytes() == DATA[::-1], "same size and date, other bytes"


@pytest.mark.parametrize("checksum", [MD5, SHA256])
@pytest.mark.parametrize("connections", [1, 3])
def test_a_checksum_is_compared_over_cuts_and_later_attempts(server, tmp_path, checksum, connections):
    target = tmp_path / "set.tgz"
    manner = Manner(PATIENCE, connections)
    start(server, tmp_path, 1_000_000)
    server.cut_after = [300_000]
    fetch([server.url("/set.tgz")], target, "the archive", manner, checksum)
    assert target.read_bytes() == DATA
    server.files["/set.tgz"] = DATA[:-1] + b"?"
    with pytest.raises(ChecksumError) as caught:
        fetch([server.url("/set.tgz")], tmp_path / "bad" / "set.tgz", "the archive", manner, checksum)
    name, _, digits = checksum.lower().partition(":")
    for word in (server.url("/set.tgz"), digits, hashlib.new(name, DATA[:-1] + b"?").hexdigest()):
        assert word in str(caught.value)
    assert os.listdir(tmp_path / "bad") == [], "the bad file is not kept"


def test_a_checksum_that_fails_with_what_an_earlier_attempt_left_is_tried_once_more(server, tmp_path):
    start(server, tmp_path, 1_000_000)
    with open(AtHand(tmp_path / "set.tgz").part, "r+b") as file:
        file.write(b"rotten")
    target = tmp_path / "set.tgz"
    fetch([server.url("/set.tgz")], target, "the archive", Manner(PATIENCE), MD5)
    assert target.read_bytes() == DATA


def mirrors(server, **files):
    server.files = {f"/{name}/set.tgz": data for name, data in files.items()}
    server.etags = {path: f'"{path}"' for path in server.files}
    return [server.url(f"/{name}/set.tgz") for name in files]


def test_a_mirror_goes_on_where_another_server_gave_up(server, tmp_path):
    first, second = mirrors(server, one=DATA, two=DATA)
    server.cut_after = [2_000_000]
    fetch([first, second], tmp_path / "set.tgz", "the archive", Manner(IMPATIENT))
    assert (tmp_path / "set.tgz").read_bytes() == DATA
    of_second = [asked for method, path, asked in server.requests if method == "GET" and path == "/two/set.tgz"]
    assert len(of_second) == 9 and of_second[-1].endswith("-") and int(of_second[-1][6:-1]) > 1_900_000


@pytest.mark.parametrize("other", [DATA[::-1], DATA + b"x", DATA[:1_999_000] + bytes(1000) + DATA[2_000_000:]])
def test_a_mirror_that_has_another_file_is_never_mixed_in(server, tmp_path, other):
    first, second = mirrors(server, one=DATA, two=other)
    server.cut_after = [2_000_000]
    fetch([first, second], tmp_path / "set.tgz", "the archive", Manner(IMPATIENT))
    assert (tmp_path / "set.tgz").read_bytes() == other


def test_mirrors_are_tried_in_order_and_each_is_named_when_all_fail(server, tmp_path):
    bad, missing, good = mirrors(server, bad=DATA[:-1] + b"?", missing=None, good=DATA)
    fetch([missing, bad, good], tmp_path / "set.tgz", "the archive", Manner(IMPATIENT), MD5)
    assert (tmp_path / "set.tgz").read_bytes() == DATA
    with pytest.raises(ChecksumError, match="none of its 2 places") as caught:
        fetch([missing, bad], tmp_path / "x" / "set.tgz", "the archive", Manner(IMPATIENT), MD5)
    assert missing in str(caught.value) and bad in str(caught.value)


def test_several_ranges_are_fetched_at_once(server, tmp_path):
    server.slowly = 0.002
    assert get(server, tmp_path, connections=4).read_bytes() == DATA
    assert server.at_once >= 4
    assert sent(server) == len(DATA)
    assert sorted(os.listdir(tmp_path)) == ["set.tgz", "set.tgz.json"]


def test_ranges_are_taken_up_where_each_broke(server, tmp_path):
    server.etags = {"/set.tgz": '"v1"'}
    server.cut_after = [400_000, 200_000, 100_000, 300_000]
    with pytest.raises(SourceError):
        get(server, tmp_path, IMPATIENT, connections=4)
    server.cut_after = []
    server.requests.clear()
    have = AtHand(tmp_path / "set.tgz").size
    assert 100_000 < have < 1_500_000
    spans = json.loads(AtHand(tmp_path / "set.tgz").spans.read_text())
    assert sum(end - begin for begin, end in spans) == have
    assert get(server, tmp_path, connections=2).read_bytes() == DATA
    assert sent(server) == len(DATA) - have


def test_pieces_are_compared_too_where_they_are(server, tmp_path):
    server.dated, server.etags = True, {"/set.tgz": '"v1"'}
    server.cut_after = [70_000] * 4
    with pytest.raises(SourceError):
        get(server, tmp_path, IMPATIENT, connections=4)
    spans = AtHand(tmp_path / "set.tgz").read_spans()
    server.cut_after, server.etags = [], {"/set.tgz": '"v2"'}
    begin, end = spans[-1]
    assert len(spans) > 1 and begin > 500_000
    server.files["/set.tgz"] = DATA[:begin] + bytes(end - begin) + DATA[end:]
    assert get(server, tmp_path, connections=4).read_bytes() == server.files["/set.tgz"]


@pytest.mark.parametrize("connections", [1, 4])
def test_a_single_stream_is_gone_on_from_with_ranges_and_the_other_way(server, tmp_path, connections):
    start(server, tmp_path, 400_000, connections=5 - connections)
    have = AtHand(tmp_path / "set.tgz").size
    assert get(server, tmp_path, connections=connections).read_bytes() == DATA
    assert sent(server) == len(DATA) - have


def test_without_ranges_one_connection_does(server, tmp_path):
    server.ranges = False
    server.cut_after = [1_000_000]
    assert get(server, tmp_path, connections=4).read_bytes() == DATA
    start(server, tmp_path / "later", 400_000, connections=1)
    server.ranges = False
    assert get(server, tmp_path / "later", connections=4).read_bytes() == DATA


def test_a_file_that_changes_while_ranges_are_fetched_is_never_mixed(server, tmp_path):
    server.etags = {"/set.tgz": '"v1"'}
    server.slowly = 0.01

    class Changing(dict):
        def get(self, path, default=None):
            if len(server.requests) == 4:
                self["/set.tgz"] = DATA[::-1]
                server.etags = {"/set.tgz": '"v2"'}
            if len(server.requests) > 5:
                server.slowly = 0.0
            return super().get(path, default)

    server.files = Changing(server.files)
    assert get(server, tmp_path, connections=2).read_bytes() == DATA[::-1]


@pytest.mark.parametrize("connections", [1, 3])
def test_the_rate_is_limited(server, tmp_path, connections):
    begin = time.monotonic()
    assert get(server, tmp_path, connections=connections, throttle=Throttle(3_000_000)).read_bytes() == DATA
    assert 0.7 < time.monotonic() - begin < 3


@pytest.mark.parametrize("connections", [1, 3])
def test_a_volume_that_fills_up_is_named(server, tmp_path, connections, monkeypatch):
    from faceflow.components.download import ranges as module
    from faceflow.components.download import transfer

    def full(file, data, what):
        raise_full = OSError(errno.ENOSPC, "No space left on device")

        class File:
            def write(self, data):
                raise raise_full

        transfer_write(File(), data, what)

    transfer_write = transfer.write
    monkeypatch.setattr(transfer, "write", full)
    monkeypatch.setattr(module, "write", full)
    with pytest.raises(DiskSpaceError, match="no room is left"):
        get(server, tmp_path, connections=connections)


def test_pieces_that_no_note_speaks_of_count_for_nothing(server, tmp_path):
    hand = AtHand(tmp_path / "set.tgz")
    tmp_path.joinpath("set.tgz.pieces").write_bytes(bytes(len(DATA)))
    assert hand.size == 0
    assert get(server, tmp_path, connections=2).read_bytes() == DATA
