"""Checksums of files: written ``md5:`` or ``sha256:`` and hexadecimal digits, as source specs have them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from faceflow.components.common.errors import ChecksumError
from faceflow.components.common.logs import progress

_STEP = 1 << 20


class RunningDigest:
    """The digest of a file that grows, and may begin anew.

    Args:
        expected: The checksum, ``md5:...`` or ``sha256:...``.

    Attributes:
        count: Bytes digested so far.
    """

    def __init__(self, expected: str) -> None:
        """Begin with nothing."""
        self._name, _, self._expected = expected.lower().partition(":")
        self._digest = hashlib.new(self._name, usedforsecurity=False)
        self.count = 0

    def update(self, data: bytes) -> None:
        """Add what follows."""
        self._digest.update(data)
        self.count += len(data)

    def catch_up(self, path: Path, size: int) -> None:
        """Have the first bytes of a file digested and no others, by reading those that are not yet."""
        if self.count > size:
            self._digest, self.count = hashlib.new(self._name, usedforsecurity=False), 0
        if self.count < size:
            self._read(path, size)

    def _read(self, path: Path, size: int) -> None:
        with open(path, "rb") as file:
            file.seek(self.count)
            steps = range(self.count, size, _STEP)
            for _ in progress(steps, total=len(steps), what="MiB", label=f"checking {path.stem}"):
                self.update(file.read(min(_STEP, size - self.count)))

    def check(self, what: str) -> None:
        """Compare.

        Args:
            what: What to call the file in an error.

        Raises:
            ChecksumError: It is another.
        """
        found = self._digest.hexdigest()
        if found != self._expected:
            raise ChecksumError(
                f"{what} has the {self._name} {found}, but 'checksums' says {self._expected}: the file is damaged or "
                "another one. Compare both with what the publisher says."
            )


def check(paths: Sequence[Path], expected: str, what: str) -> None:
    """Compare the checksum of a file, or of parts read one after the other.

    Args:
        paths: The parts.
        expected: The checksum.
        what: What to call them in an error.

    Raises:
        ChecksumError: It is another.
    """
    whole = RunningDigest(expected)
    for path in paths:
        part = path.stat().st_size
        with open(path, "rb") as file:
            steps = range(0, part, _STEP)
            for _ in progress(steps, total=len(steps), what="MiB", label=f"checking {path.name}"):
                whole.update(file.read(_STEP))
    whole.check(what)
