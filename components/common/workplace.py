"""Where the workers of one run of a stage read and write, and how what they wrote comes back.

Workers on this machine use the stage's own folders. Workers elsewhere do not see them: under the stage's ``work_uri``
they get a copy of the input and leave their parts, and the stage fetches the parts and publishes them as ever. The
folder there is named by a fingerprint of inputs, settings and code, so that a second try finds what the first one
finished; it is removed at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from faceflow.components.common import files
from faceflow.components.common.engine import Engine, EngineSettings
from faceflow.components.common.errors import EngineError, FaceflowError, StorageError
from faceflow.components.common.hashing import file_sha256, fingerprint
from faceflow.components.common.logs import progress
from faceflow.components.common.settings import StageSettings

_TRANSFERS = 8
_PASSING = (EngineError, StorageError)
_CODE = (".py", ".pbtxt")


class Workplace:
    """The folders of one run of a stage, as its workers see them, and the engine that sends them there.

    A context manager: at the end it removes what it made under ``work_uri``, unless another try can use it.

    Args:
        stage: The stage's name.
        settings: Its settings.
        inputs: Fingerprints of what it reads.

    Raises:
        SettingsError: The engine's options are not known to Beam, or a value does not fit.
        EngineError: The job server cannot be reached.
        StorageError: ``work_uri`` cannot be written.
    """

    def __init__(self, stage: str, settings: EngineSettings, inputs: Iterable[str]) -> None:
        """Prepare the engine, and see that the place for the work can be written."""
        assert isinstance(settings, StageSettings)
        self._engine = Engine.of(settings)
        files.configure(self._engine.options)
        self._root = ""
        if settings.work_uri:
            made_of = fingerprint([settings.for_manifest(), list(inputs), _code(stage)])
            self._root = files.join(settings.work_uri, f"{stage}-{made_of[:16]}")
            files.make_folder(self._root)
            # Beam asks ten minutes long for what it cannot reach, but tries to write once.
            files.write_bytes(files.join(self._root, "begun"), stage.encode())
        self._folders: dict[str, Path] = {}

    def shards(self, paths: Sequence[Path]) -> list[tuple[int, str]]:
        """Number input shards, and bring them to where the workers can read them.

        Returns:
            The engine's elements: number and location.
        """
        if not self._root:
            return [(index, str(path)) for index, path in enumerate(paths)]
        folder = files.join(self._root, "in")
        files.make_folder(folder)
        there = files.listing(folder)
        names = [f"{index:05d}-{path.name}" for index, path in enumerate(paths)]
        missing = [
            (path, files.join(folder, name))
            for name, path in zip(names, paths, strict=True)
            if there.get(name) != path.stat().st_size
        ]
        _transfer(files.copy_out, missing, "copy in")
        return [(index, files.join(folder, name)) for index, name in enumerate(names)]

    def folder(self, path: Path) -> str:
        """The location at which workers write what belongs into a folder of the stage.

        A folder below one that was asked for before is below its location, too.
        """
        if not self._root:
            path.mkdir(exist_ok=True)
            return str(path)
        location = files.join(self._root, f"folder-{len(self._folders)}")
        for above, folder in self._folders.items():
            if folder in path.parents:
                location = files.join(above, path.relative_to(folder).as_posix())
        self._folders[location] = path
        files.make_folder(location)
        return location

    def map(self, function: Callable[[Any], None], elements: Iterable[Any], label: str) -> None:
        """Call a function on every element; see :meth:`Engine.map`."""
        done = files.join(self._root, "done", label.replace(" ", "-")) if self._root else ""
        self._engine.map(function, elements, label, done=done)

    def collect(self, location: str) -> None:
        """Fetch what the workers wrote at the location of a folder into that folder.

        Raises:
            StorageError: A file did not arrive whole.
        """
        if not self._root:
            return
        folder = self._folders[location]
        folder.mkdir(exist_ok=True)
        sizes = {name: size for name, size in files.listing(location).items() if not name.endswith(".partial")}
        _transfer(files.copy_in, [(files.join(location, name), folder / name) for name in sizes], "fetch parts")
        for name, size in sizes.items():
            if (folder / name).stat().st_size != size:
                raise StorageError(
                    f"{files.join(location, name)} has {size:,} bytes, of which {(folder / name).stat().st_size:,} "
                    "arrived: run the stage again."
                )

    def clear(self, location: str) -> None:
        """Remove a folder that is not needed any more; under ``work_uri`` it stays until the end, for another try."""
        if not self._root:
            files.delete(location)

    def __enter__(self) -> Workplace:
        """Return the workplace itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the work folder after success, and after an error that would come again."""
        passing = kind is not None and (issubclass(kind, _PASSING) or not issubclass(kind, FaceflowError))
        if self._root and not passing:
            files.delete(self._root)


def _transfer(copy: Callable[[Any, Any], None], pairs: Sequence[tuple[Any, Any]], label: str) -> None:
    with ThreadPoolExecutor(_TRANSFERS) as pool:
        for _ in progress(pool.map(lambda pair: copy(*pair), pairs), len(pairs), "files", label):
            pass


def _code(stage: str) -> str:
    """A digest of the code that decides what the workers leave behind."""
    components = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for folder in (components / "common", components / stage):
        for path in sorted(each for each in folder.rglob("*") if each.suffix in _CODE):
            digest.update(f"{path.relative_to(components)} {file_sha256(path)}\n".encode())
    return digest.hexdigest()
