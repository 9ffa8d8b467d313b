"""Fingerprint a source: its spec, and the size and date (or ETag, or listing) of everything that it points to.

Nothing is downloaded and no image is opened. The fingerprint is a JSON text; equal texts mean that nothing changed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from faceflow.components.common.hashing import canonical_json
from faceflow.components.common.locations import Patience, describe
from faceflow.components.common.settings import StageSettings, setting
from faceflow.components.common.sources import parse

_log = logging.getLogger("faceflow.probe")


@dataclass(frozen=True)
class Settings(StageSettings):
    """How long to wait for servers."""

    timeout_seconds: float = setting(
        60.0, "Longest silence of a server, in seconds.", minimum=0.1, affects_output=False
    )
    retries: int = setting(5, "Further tries when a server fails.", minimum=0, affects_output=False)
    retry_wait_seconds: float = setting(
        1.0, "Pause before the first of them, in seconds; it doubles up to a minute.", minimum=0, affects_output=False
    )


@dataclass(frozen=True)
class Inputs:
    """What the stage reads."""

    source: dict[str, Any]


@dataclass(frozen=True)
class Outputs:
    """The fingerprint is returned, not written."""


def run(settings: Settings, inputs: Inputs, outputs: Outputs) -> str:
    """Fingerprint a source.

    Args:
        settings: How long to wait for servers.
        inputs: The source spec.
        outputs: Nothing.

    Returns:
        A JSON text: the digest of the spec with every default filled in, and what was found at each location.

    Raises:
        SourceError: The spec is wrong, or a location does not exist, cannot be read or is empty.
    """
    source = parse(inputs.source)
    patience = Patience(settings.timeout_seconds, settings.retries, settings.retry_wait_seconds)
    found = describe(source, patience)
    for label, facts in found.items():
        _log.info("%s %s: %s", source.name, label, ", ".join(f"{name} {value}" for name, value in facts.items()))
    return canonical_json({"source": source.fingerprint, "locations": found})
