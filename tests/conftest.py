"""What every test needs."""

import signal


def pytest_addoption(parser):
    """A Beam job server for ``make test-portable``; see test_portable.py."""
    group = parser.getgroup("portable")
    group.addoption("--job-endpoint", default="", help="HOST:PORT of a job server of your own instead of Prism")
    group.addoption("--work-uri", default="", help="where its workers and this process read and write")
    group.addoption("--runner-option", action="append", default=[], help="a Beam pipeline option; may be repeated")


# A shell that starts a job in the background has it ignore Ctrl-C, which every process below would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
