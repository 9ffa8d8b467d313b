"""Dataset artifacts: a directory of TFRecord shards with a manifest, a ledger and named attachments.

A stage writes parts, in any order and from any process, into a directory that :func:`publishing` provides;
:func:`finish` turns the parts into the dataset in index order. The result depends on the parts alone.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from faceflow.components.common import files, ledger, tfrecord
from faceflow.components.common.errors import ConservationError, DatasetError
from faceflow.components.common.hashing import file_sha256, fingerprint
from faceflow.components.common.ledger import LEDGER_NAME, Fate, LedgerWriter, Name, Reason
from faceflow.components.common.manifest import Manifest, ShardInfo
from faceflow.components.common.record import Record
from faceflow.components.common.storage import publishing

__all__ = ["Dataset", "ShardWriter", "finish", "publishing"]


class Dataset:
    """A complete dataset directory, for reading.

    Args:
        path: The directory.

    Attributes:
        path: The directory.
        manifest: Its manifest.

    Raises:
        DatasetError: The directory is no dataset, or a shard is missing or has another size than the manifest says.
    """

    def __init__(self, path: Path) -> None:
        """Read the manifest and check that every shard is there in full."""
        self.path = Path(path)
        self.manifest = Manifest.read(self.path)
        for shard in self.manifest.shards:
            file = self.path / shard.name
            size = file.stat().st_size if file.is_file() else None
            if size != shard.bytes:
                found = "is missing" if size is None else f"has {size:,} bytes instead of {shard.bytes:,}"
                raise DatasetError(f"{file} {found}: run the stage that wrote it ({self.manifest.stage}) again.")

    @property
    def shards(self) -> list[Path]:
        """The shard files, in order."""
        return [self.path / shard.name for shard in self.manifest.shards]

    @property
    def fingerprint(self) -> str:
        """A digest of the contents: the shards' and attachments' digests and the template."""
        shards = [(shard.records, shard.sha256) for shard in self.manifest.shards]
        return fingerprint([shards, self.manifest.attachments, self.manifest.template])

    def payloads(self, shard: int | None = None) -> Iterator[bytes]:
        """Yield the serialised records of one shard, or of all in order."""
        for path in self.shards if shard is None else [self.shards[shard]]:
            yield from tfrecord.read(path)

    def records(self, shard: int | None = None) -> Iterator[Record]:
        """Yield the records of one shard, or of all in order."""
        return map(Record.decode, self.payloads(shard))

    def attachment(self, name: str) -> Path | None:
        """The path of an attachment, or None if the dataset has none of that name."""
        return self.path / name if name in self.manifest.attachments else None

    @property
    def attachments(self) -> list[Path]:
        """The paths of all attachments."""
        return [self.path / name for name in self.manifest.attachments]

    def ledger(self) -> pa.Table:
        """The ledger, whole; see :data:`faceflow.components.common.ledger.LEDGER_SCHEMA`."""
        return pq.read_table(self.path / LEDGER_NAME)


class ShardWriter:
    """Writes one part of a dataset: records, their ledger rows, and a summary that :func:`finish` reads.

    The part appears under its name when the block ends well; a part written twice, as an engine that retries may do,
    is simply replaced.

    Args:
        directory: The directory that :func:`publishing` gave, or the location where the workers leave their parts.
        index: The part's place in the dataset.
        stage: The stage's name, for the ledger.
        behind: Where records are hashed and written, if not at once; see :class:`tfrecord.Writer`.
        read_soon: Whether somebody reads the shard soon; likewise.
        compression: Of the shard, one of :data:`tfrecord.COMPRESSIONS`.
    """

    def __init__(
        self,
        directory: files.Location,
        index: int,
        *,
        stage: str,
        behind: Executor | None = None,
        read_soon: bool = True,
        compression: str = "none",
    ) -> None:
        """Open the part's files."""
        self._stem = files.join(directory, f"part-{index:05d}")
        self._suffix = tfrecord.suffix(compression)
        self._records = tfrecord.Writer(f"{self._stem}{self._suffix}", behind, read_soon=read_soon)
        self._ledger = LedgerWriter(f"{self._stem}.ledger.parquet", stage)
        self._identities: set[bytes] = set()
        self._variants: Counter[str] = Counter()
        self._drops: Counter[str] = Counter()
        self._kept = 0
        self._promised = 0

    @property
    def bytes_written(self) -> int:
        """Bytes of records written so far."""
        return self._records.bytes_written

    def write(self, record: Record) -> None:
        """Append a record."""
        self._records.write(record.encode())
        self.account([record.identity.encode()], {name: 1 for name in (record.variant, *record.online_variants)})

    def write_payloads(self, payloads: Sequence[bytes]) -> None:
        """Append serialised records that :meth:`account` speaks for."""
        self._records.write_all(payloads)

    def write_frame(self, frame: bytes | memoryview) -> None:
        """Append a framed record that :meth:`account` speaks for."""
        self._records.write_frame(frame)

    def adopt(self, location: str, shard: ShardInfo) -> None:
        """Take a shard that is as this one shall be; :meth:`account` speaks for its records.

        Args:
            location: The shard, on this machine's disk and under a name with the same ending.
            shard: What its dataset's manifest says of it.
        """
        self._records.adopt(Path(location), shard)

    def account(self, identities: Iterable[bytes], variants: Mapping[str, int]) -> None:
        """Say of whom, UTF-8, records appended without being looked into are, and how many images of each variant."""
        self._identities.update(identities)
        self._variants.update(variants)

    def kept(self, key: Name, identity: Name, variants: Iterable[str] = ("",), detail: str = "") -> None:
        """Say that an input image goes on as the named variants; '' stands for itself. Names may be given as UTF-8."""
        made = variants if isinstance(variants, tuple) else tuple(variants)
        self._kept += 1
        self._promised += len(made)
        self._ledger.kept(key, identity, made, detail)

    def dropped(self, key: Name, identity: Name, reason: Reason, detail: str = "") -> None:
        """Say that an input image ends here. Names may be given as UTF-8."""
        self._drops[Reason(reason).value] += 1
        self._ledger.dropped(key, identity, reason, detail)

    def tell(self, keys: pa.Array, identities: pa.Array, fates: Sequence[Fate], codes: NDArray[np.int64]) -> None:
        """Say what becomes of many input images at once; see :meth:`LedgerWriter.rows`."""
        for fate, count in zip(fates, np.bincount(codes, minlength=len(fates)).tolist(), strict=True):
            if fate.outcome == "kept":
                self._kept += count
                self._promised += count * len(fate.variants)
            elif count:
                self._drops[fate.reason] += count
        self._ledger.rows(keys, identities, fates, codes)

    def unmatched(self, key: str, identity: str, detail: str) -> None:
        """Say that a row of another file, such as landmarks, names an image which is not there."""
        self._ledger.unmatched(key, identity, detail)

    def close(self) -> None:
        """Put the part in place."""
        self._records.close()
        self._ledger.close()
        summary = {
            "records": self._records.records,
            "bytes": self._records.file_bytes,
            "sha256": self._records.sha256,
            "suffix": self._suffix,
            "identities": [identity.decode() for identity in sorted(self._identities)],
            "variants": dict(self._variants),
            "drops": dict(self._drops),
            "kept": self._kept,
            "promised": self._promised,
        }
        # The summary comes last: a part that has one is complete.
        files.write_bytes(f"{self._stem}.json", json.dumps(summary).encode())

    def discard(self) -> None:
        """Forget what this attempt wrote."""
        self._records.discard()
        self._ledger.discard()

    def __enter__(self) -> ShardWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Put the part in place, or remove it if the block failed."""
        if kind is None:
            self.close()
        else:
            self.discard()


def finish(
    directory: Path,
    *,
    stage: str,
    settings: Mapping[str, Any],
    template: str | None,
    inputs: Mapping[str, Any],
    images_in: int,
    attachments: Iterable[Path] = (),
    licences: Iterable[str] = (),
) -> Manifest:
    """Turn the parts in a directory into a dataset.

    Args:
        directory: The directory that :func:`publishing` gave.
        stage: The stage's name.
        settings: The settings that decided the bytes.
        template: The alignment template of the images, or None.
        inputs: Fingerprints of what the stage read, by name.
        images_in: Images that the stage was given, counted apart from the ledger.
        attachments: Files to carry along; those outside the directory are copied into it.
        licences: Licence notices of the sources.

    Returns:
        The manifest, as written.

    Raises:
        ConservationError: The ledger and the counts do not agree.
    """
    parts: list[tuple[Path, dict[str, Any]]] = []
    identities: set[str] = set()
    for path in sorted(directory.glob("part-*.json")):
        summary = json.loads(path.read_text())
        # One part's names at a time: together they would grow with the number of images.
        identities.update(summary.pop("identities"))
        parts.append((path.with_suffix(""), summary))
    kept = sum(part["kept"] for _, part in parts)
    promised = sum(part["promised"] for _, part in parts)
    variants = _total(part["variants"] for _, part in parts)
    images = sum(variants.values())
    drops = _total(part["drops"] for _, part in parts)
    if kept + sum(drops.values()) != images_in:
        raise ConservationError(
            f"{stage} was given {images_in:,} images but accounts for {kept:,} kept and {sum(drops.values()):,} "
            "dropped. This is a defect of the stage: please report it with the log."
        )
    if promised != images:
        raise ConservationError(
            f"{stage} wrote {images:,} images where its ledger lists {promised:,}. "
            "This is a defect of the stage: please report it with the log."
        )
    filled = [(stem, part) for stem, part in parts if part["records"]]
    shards = []
    for index, (stem, part) in enumerate(filled):
        name = f"faces-{index:05d}-of-{len(filled):05d}{part['suffix']}"
        os.replace(f"{stem}{part['suffix']}", directory / name)
        shards.append(ShardInfo(name, part["records"], part["bytes"], part["sha256"]))
    ledger.merge((Path(f"{stem}.ledger.parquet") for stem, _ in parts), directory / LEDGER_NAME)
    carried = {}
    for path in attachments:
        if path.parent != directory:
            shutil.copyfile(path, directory / path.name)
        carried[path.name] = file_sha256(directory / path.name)
    for leftover in directory.glob("part-*"):
        leftover.unlink()
    manifest = Manifest(
        stage=stage,
        settings=dict(settings),
        template=template,
        identities=len(identities),
        images=images,
        images_in=images_in,
        drops=drops,
        variants=variants,
        shards=shards,
        inputs=dict(inputs),
        attachments=carried,
        licences=sorted(set(licences)),
    )
    manifest.write(directory)
    return manifest


def _total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(sorted(total.items()))
