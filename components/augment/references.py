"""What cleaning compares the faces with: a list of names, evaluation faces, and the model that embeds both.

Each is named by a path or a URI, which says nothing of what is there; so the manifest tells their digests instead.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from faceflow.components.augment.cleaning import read_names
from faceflow.components.augment.embedding import contract_of
from faceflow.components.common import files
from faceflow.components.common.errors import DatasetError, SettingsError
from faceflow.components.common.hashing import fingerprint
from faceflow.components.common.manifest import MANIFEST_NAME, Manifest


@dataclass(frozen=True)
class References:
    """What was found.

    Attributes:
        names: Identities that evaluation also holds.
        evaluation: Locations of the shards of evaluation faces.
        fingerprints: Digests of all of it, by the name of the setting.
    """

    names: frozenset[str]
    evaluation: tuple[str, ...]
    fingerprints: dict[str, str]

    @classmethod
    def open(cls, names: str, faces: Sequence[str], model: str, template: str) -> References:
        """Read the list of names, and see that evaluation faces and model go with the faces to clean.

        Args:
            names: Location of a text file, or empty.
            faces: Locations of datasets that align wrote.
            model: Location of a model that train wrote, or empty.
            template: The alignment template of the faces to clean.

        Raises:
            SettingsError: There is no list of names at its location, or it is empty.
            DatasetError: Evaluation faces or model are missing, damaged, or of another template.
        """
        fingerprints = {}
        listed: frozenset[str] = frozenset()
        if names:
            listed = _read_list(names)
            fingerprints["overlap_names"] = fingerprint(sorted(listed))
        if model:
            contract, digests = contract_of(model)
            fingerprints["cleaning_model"] = fingerprint(digests)
            _check_template(contract.template, template, f"setting 'cleaning_model', {model},")
        evaluation: list[str] = []
        for index, location in enumerate(faces):
            manifest = _manifest_of(location)
            _check_template(manifest.template, template, f"setting 'overlap_faces', {location},")
            evaluation += [files.join(location, shard.name) for shard in manifest.shards]
            fingerprints[f"overlap_faces[{index}]"] = fingerprint([shard.sha256 for shard in manifest.shards])
        return cls(listed, tuple(evaluation), fingerprints)


def _read_list(location: str) -> frozenset[str]:
    try:
        names = read_names(files.read_bytes(location).decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"setting 'overlap_names' is '{location}', which cannot be read ({error}): "
            "give a path or URI of a text file with an identity a line."
        ) from error
    if not names:
        raise SettingsError(f"setting 'overlap_names' is '{location}', which names nobody: write an identity a line.")
    return names


def _manifest_of(location: str) -> Manifest:
    if not files.is_remote(location):
        return Manifest.read(Path(location))
    with tempfile.TemporaryDirectory(prefix="faceflow-manifest-") as folder:
        try:
            files.copy_in(files.join(location, MANIFEST_NAME), Path(folder) / MANIFEST_NAME)
        except FileNotFoundError as error:
            raise DatasetError(
                f"{location} is not a faceflow dataset: it has no {MANIFEST_NAME}. Give the output of align."
            ) from error
        return Manifest.read(Path(folder))


def _check_template(found: str | None, wanted: str, what: str) -> None:
    if found != wanted:
        raise DatasetError(
            f"{what} is of template {found!r}, but the faces to clean are aligned to '{wanted}': "
            "align both to one template, and train on it."
        )
