"""The manifest: what a dataset artifact holds and what it was made from.

It has no timestamp, path, host or worker count: equal inputs and settings give an equal manifest, to the byte.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faceflow.components.common.errors import DatasetError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.storage import write_atomically

MANIFEST_NAME = "manifest.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ShardInfo:
    """One shard file: its name, records, size in bytes, and SHA-256."""

    name: str
    records: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The contents of ``manifest.json``.

    Attributes:
        stage: The stage that wrote the dataset.
        settings: The settings that decided its bytes.
        template: The alignment template of its images; None where they are not aligned.
        interpolation: How they were drawn on it; that of the template unless given.
        identities: Distinct identities among its records.
        images: Images of one epoch of training: the records, and the online variants that they carry.
        images_in: Images that the stage was given.
        drops: Images dropped, by reason.
        variants: Images by variant, written or online; '' counts the untouched ones.
        shards: The shard files, in order.
        inputs: Fingerprints of what the stage read, by name.
        attachments: SHA-256 of further files in the directory, by name.
        licences: Licence notices of the sources.
        schema_version: Version of this layout.
    """

    stage: str
    settings: dict[str, Any]
    template: str | None
    identities: int
    images: int
    images_in: int
    drops: dict[str, int] = field(default_factory=dict)
    variants: dict[str, int] = field(default_factory=dict)
    shards: list[ShardInfo] = field(default_factory=list)
    inputs: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, str] = field(default_factory=dict)
    licences: list[str] = field(default_factory=list)
    interpolation: str | None = None
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        """Fill in the template's interpolation."""
        if self.interpolation is None and self.template in TEMPLATES:
            object.__setattr__(self, "interpolation", TEMPLATES[self.template].interpolation)

    @property
    def records(self) -> int:
        """Records in the shards: the images without the online variants."""
        return sum(shard.records for shard in self.shards)

    def write(self, directory: Path) -> None:
        """Write ``manifest.json`` into a dataset directory."""
        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        write_atomically(directory / MANIFEST_NAME, text + "\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read a dataset directory's manifest.

        Raises:
            DatasetError: It is missing, damaged or of another schema version.
        """
        path = directory / MANIFEST_NAME
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise DatasetError(
                f"{directory} is not a faceflow dataset: it has no {MANIFEST_NAME}. "
                "Give the output directory of a stage."
            ) from error
        except ValueError as error:
            raise DatasetError(f"{path} is damaged ({error}): run the stage that wrote it again.") from error
        version = data.get("schema_version") if isinstance(data, dict) else None
        if version != SCHEMA_VERSION:
            raise DatasetError(
                f"{path} has schema version {version!r}, this faceflow reads {SCHEMA_VERSION}: "
                "run the stage that wrote it again."
            )
        try:
            return cls(**{**data, "shards": [ShardInfo(**shard) for shard in data["shards"]]})
        except (KeyError, TypeError) as error:
            raise DatasetError(f"{path} lacks or adds a field ({error}): run the stage that wrote it again.") from error
