"""Pictures, archives and an HTTP server for the tests of download."""

import http.server
import io
import tarfile
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(seed=0, size=(24, 20), kind="JPEG", mode="RGB", **options):
    """An encoded picture of noise; size is (width, height)."""
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def picture():
    return encoded


def _write_folder(path, files):
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


def _write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def _write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


@pytest.fixture
def write(tmp_path):
    """Writes {name: bytes} as a folder or archive, by the ending of its name, and returns the path."""

    def make(name, files):
        path = Path(tmp_path / name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".zip"):
            return _write_zip(path, files)
        for ending, mode in (("tar", "w"), (".gz", "w:gz"), (".tgz", "w:gz"), (".bz2", "w:bz2"), (".xz", "w:xz")):
            if name.endswith(ending):
                return _write_tar(path, files, mode)
        return _write_folder(path, files)

    return make


class Server:
    """A file server on this machine that misbehaves as told.

    Attributes:
        files: Bytes by path.
        requests: (method, path, Range header) of everything asked.
        cut_after: Bytes after which the connection of the next GETs is cut, one entry a GET.
        lies: Bytes to add to the Content-Length of the next GETs, one entry a GET.
        head_lies: Bytes that HEAD adds to the length.
        statuses: Status codes to answer the next requests with instead.
        retry_after: What such an answer asks for, or None.
        redirects: Path to send those on to who ask for a path.
        ranges: Whether ranges are served.
        etags: ETag by path; without one, a Last-Modified is sent.
        dated: Whether a Last-Modified is sent beside an ETag.
        encoding: Content-Encoding to claim, or None.
        at_once: Most GETs that were answered at the same time.
        mood: Called before each answer with the method, to set any of the above.
        served: Bytes sent so far.
        no_head: Status code for HEAD, or None to answer it.
        tell_size: Whether HEAD tells the length.
        slowly: Seconds between pieces of 4 kB.
    """

    def __init__(self):
        self.files, self.requests, self.cut_after, self.statuses, self.etags = {}, [], [], [], {}
        self.lies, self.head_lies, self.retry_after, self.redirects, self.encoding = [], 0, None, {}, None
        self.ranges, self.no_head, self.tell_size, self.slowly, self.dated = True, None, True, 0.0, False
        self.at_once = self._now = self.served = 0
        self.mood = None
        self.modified = "Wed, 21 Oct 2015 07:28:00 GMT"
        self.stop = threading.Event()
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                owner.requests.append((self.command, self.path, self.headers.get("Range")))
                if owner.mood:
                    owner.mood(self.command)
                owner._now += body
                owner.at_once = max(owner.at_once, owner._now)
                try:
                    self.misbehave(body)
                finally:
                    owner._now -= body

            def misbehave(self, body):
                if self.path in owner.redirects:
                    self.send_response(302)
                    self.send_header("Location", owner.url(owner.redirects[self.path]))
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if owner.statuses:
                    return self.plain(owner.statuses.pop(0))
                if not body and owner.no_head:
                    return self.plain(owner.no_head)
                data = owner.files.get(self.path)
                if data is None:
                    return self.plain(404)
                begin, etag = 0, owner.etags.get(self.path)
                wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
                same = condition in (None, etag or owner.modified)
                if wanted and owner.ranges and same:
                    first, _, last = wanted.removeprefix("bytes=").partition("-")
                    begin, end = int(first), int(last or len(data) - 1) + 1
                    if begin >= len(data):
                        return self.plain(416)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
                    part = data[begin:end]
                else:
                    self.send_response(200)
                    part = data
                length = len(part) + (0 if body else owner.head_lies)
                lie = owner.lies.pop(0) if body and owner.lies else 0
                if body or owner.tell_size:
                    self.send_header("Content-Length", str(length + lie))
                if etag:
                    self.send_header("ETag", etag)
                if not etag or owner.dated:
                    self.send_header("Last-Modified", owner.modified)
                if owner.encoding:
                    self.send_header("Content-Encoding", owner.encoding)
                self.end_headers()
                if body:
                    cut = owner.cut_after.pop(0) if owner.cut_after else len(part)
                    self.close_connection = self.close_connection or bool(lie)
                    if owner.slowly:
                        for at in range(0, cut, 4096):
                            self.wfile.write(part[at : min(cut, at + 4096)])
                            owner.served += min(cut, at + 4096) - at
                            if owner.stop.wait(owner.slowly):
                                break
                    else:
                        self.wfile.write(part[:cut])
                        owner.served += min(cut, len(part))
                    if cut < len(part):
                        self.close_connection = True

            def plain(self, code):
                self.send_response(code)
                if code == 416:
                    self.send_header("Content-Range", f"bytes */{len(owner.files[self.path])}")
                if owner.retry_after is not None:
                    self.send_header("Retry-After", owner.retry_after)
                self.send_header("Content-Length", "0")
                self.end_headers()

        class Quiet(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_):
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def close(self):
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server():
    made = Server()
    yield made
    made.close()
