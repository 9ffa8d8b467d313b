"""Seeded hashes that are the same on every machine, in every process and for every order of the input.

Every random choice of the pipeline comes from here: a choice that hangs on a key and a seed alone cannot depend on
sharding, worker count or arrival order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def stable_hash(*parts: str | int | bytes) -> int:
    """Hash a tuple of values to an unsigned 64-bit integer.

    The parts are length-prefixed, so ``("ab", "c")`` and ``("a", "bc")`` differ. BLAKE2b (RFC 7693), 8-byte digest.

    Args:
        *parts: The values; by convention the seed comes first.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little")


def stable_hashes(parts: Sequence[str | int | bytes], last: Iterable[bytes]) -> NDArray[np.uint64]:
    """:func:`stable_hash` of the same parts with each of many last ones, UTF-8, as an array."""
    begin = _prefix(parts)
    blake = hashlib.blake2b
    digests = [blake(b"".join((begin, len(one).to_bytes(8, "little"), one)), digest_size=8).digest() for one in last]
    return np.frombuffer(b"".join(digests), "<u8").astype(np.uint64, copy=False)


def _prefix(parts: Sequence[str | int | bytes]) -> bytes:
    found = b""
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        found += len(data).to_bytes(8, "little") + data
    return found


def generator(*parts: str | int | bytes) -> np.random.Generator:
    """A random generator seeded by :func:`stable_hash` of the parts."""
    return np.random.default_rng(stable_hash(*parts))


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8, and no NaN or infinity.

    Raises:
        ValueError: The value holds a number that JSON cannot write.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """SHA-256, in hexadecimal, of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256, in hexadecimal, of a file's bytes, read in constant memory."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
