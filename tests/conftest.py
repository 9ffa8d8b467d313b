"""What every test needs."""

import logging
import signal

import pytest
from hypothesis import settings


def pytest_addoption(parser):
    """A Beam job server for ``make test-portable``; see test_portable.py."""
    group = parser.getgroup("portable")
    group.addoption("--job-endpoint", default="", help="HOST:PORT of a job server of your own instead of Prism")
    group.addoption("--work-uri", default="", help="where its workers and this process read and write")
    group.addoption("--runner-option", action="append", default=[], help="a Beam pipeline option; may be repeated")


# A shell that starts a job in the background has it ignore Ctrl-C, which every process below would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A busy machine is no reason for a failure.
settings.register_profile("faceflow", deadline=None)
settings.load_profile("faceflow")


@pytest.fixture(scope="module")
def s3_endpoint():
    """The address of an S3 server (moto) on this machine; any key and secret open it."""
    import moto.server  # takes a second, which most tests need not wait

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()
