"""The one loop that turns what any reader yields into records, ledger rows and pairs."""

from __future__ import annotations

import csv
import errno
import logging
import sys
from collections import Counter
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common import images
from faceflow.components.common.dataset import ShardWriter
from faceflow.components.common.errors import DiskSpaceError, ImageError, SourceError
from faceflow.components.common.geometry import TEMPLATES
from faceflow.components.common.layout import PAIRS_COLUMNS, PAIRS_NAME
from faceflow.components.common.ledger import Reason
from faceflow.components.common.locations import require_several
from faceflow.components.common.logs import progress
from faceflow.components.common.record import Record
from faceflow.components.common.sources import Source
from faceflow.components.common.storage import readable_bytes
from faceflow.components.download.attributes import Attributes
from faceflow.components.download.exclusions import Exclusions
from faceflow.components.download.items import Item, Reader
from faceflow.components.download.tables import NameSet

STAGE = "download"
_SWITCH_SECONDS = 0.0005
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_log = logging.getLogger("faceflow.download")


@dataclass(frozen=True)
class Limits:
    """What an image may be, and how large a shard grows.

    Attributes:
        shard_bytes: A shard is closed once it has this many bytes.
        max_pixels: Most pixels of an image, checked before decoding.
        max_image_bytes: Most bytes of an image file.
    """

    shard_bytes: int
    max_pixels: int
    max_image_bytes: int


@contextmanager
def _switching_often() -> Iterator[None]:
    """Let threads that come back from C have the interpreter at once.

    Reading ahead needs it for some microseconds after every few milliseconds of hashing or decompression, and by
    default waits 5 ms for it each time: then hardly anything would overlap.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class Ingest:
    """Writes the records of one source into a directory of dataset parts.

    Args:
        source: The source.
        limits: What an image may be.
        directory: Where the parts go.
        attributes: Gender and age, if there is a table.
        exclusions: What to leave out, if there is a list.

    Attributes:
        images_in: Files that the reader gave.
        drops: Files dropped, by reason.
        unmatched: Rows and files that found no counterpart, by what they are.
    """

    def __init__(
        self,
        source: Source,
        limits: Limits,
        directory: Path,
        attributes: Attributes | None = None,
        exclusions: Exclusions | None = None,
    ) -> None:
        """Begin with nothing."""
        self._source = source
        self._limits = limits
        self._directory = directory
        self._attributes = attributes
        self._exclusions = exclusions
        self._keys = NameSet()
        self._kept: set[str] = set()
        self._identities: set[str] = set()
        self._first_drop: dict[str, str] = {}
        self._boxes_outside = 0
        self.images_in = 0
        self.drops: Counter[str] = Counter()
        self.unmatched: dict[str, int] = {}

    def run(self, reader: Reader) -> list[Path]:
        """Read everything.

        Args:
            reader: The reader of the source's layout.

        Returns:
            The attachments that were written beside the parts.

        Raises:
            SourceError: No image is usable, there is a single identity where several are needed, or an image of a pair
                is missing.
            ArchiveError: The archive is damaged or hostile.
            DiskSpaceError: The disk is full.
        """
        try:
            return self._run(reader)
        except OSError as error:
            # What cannot be read is a SourceError by now.
            if error.errno in _FULL:
                raise DiskSpaceError(
                    f"source '{self._source.name}': writing its images failed ({error.strerror}). Free some space "
                    "(`faceflow clean` removes old runs) or choose another volume."
                ) from error
            raise

    def _run(self, reader: Reader) -> list[Path]:
        items = progress(reader.items(), total=reader.total, what="images", label=f"reading {self._source.name}")
        # Closing ends the thread that reads ahead at once, and not when the generator is collected.
        with (
            _switching_often(),
            closing(cast(Generator[Item, None, None], items)),
            ThreadPoolExecutor(1, "faceflow-write-behind") as behind,
        ):
            index, item = 0, next(items, None)
            while item is not None:
                with ShardWriter(self._directory, index, stage=STAGE, behind=behind) as out:
                    while item is not None and out.bytes_written < self._limits.shard_bytes:
                        self._take(item, out, keep_paths=reader.has_pairs)
                        item = next(items, None)
                index += 1
        self._tell(reader)
        self._check()
        attachments = [self._write_pairs(reader)] if reader.has_pairs else []
        self._write_unmatched(reader, index)
        return attachments

    def _take(self, item: Item, out: ShardWriter, *, keep_paths: bool) -> None:
        self.images_in += 1
        key = f"{self._source.name}/{item.path}"
        identity = f"{self._source.namespace}/{item.identity}" if item.identity else ""
        try:
            data, header = self._checked(item, key)
        except ImageError as error:
            self.drops[error.reason] += 1
            self._first_drop.setdefault(error.reason, f"{item.path}: {error}")
            out.dropped(key, identity, Reason(error.reason), str(error))
            return
        gender, age = self._attributes.find(item) if self._attributes else (None, None)
        box, note = item.box, item.note
        if box is not None and self._source.aligned:
            box = None  # it is for the picture that the face was cut out of
        elif box is not None and _mostly_outside(box, header):
            self._tell_outside(item, box, header)
            box, note = None, "; ".join(filter(None, (note, "its box lies outside the image")))
        out.write(
            Record(
                key=key,
                identity=identity,
                image=data,
                height=header.height,
                width=header.width,
                landmarks=item.landmarks,
                gender=gender,
                age=age,
                box=box,
            )
        )
        out.kept(key, identity, detail=note)
        self._identities.add(identity)
        if keep_paths:
            self._kept.add(item.path)

    def _checked(self, item: Item, key: str) -> tuple[bytes, images.Header]:
        """An image's bytes and header, if nothing tells already that it cannot be used."""
        if item.unusable is not None:
            reason, why = item.unusable
            raise ImageError(why, reason)
        if self._exclusions is not None and item in self._exclusions:
            raise ImageError("named by the exclusion list", Reason.EXCLUDED)
        if item.size > self._limits.max_image_bytes:
            size, most = readable_bytes(item.size), readable_bytes(self._limits.max_image_bytes)
            raise ImageError(f"the file has {size}, more than the {most} allowed", Reason.TOO_LARGE)
        data = item.read()
        header = images.inspect(data)
        images.check_pixels(header, self._limits.max_pixels)
        if not self._keys.add(key):
            raise ImageError("an earlier file has the same name", Reason.DUPLICATE)
        template = TEMPLATES.get(self._source.aligned)
        if template and (header.width, header.height) != (template.width, template.height):
            raise SourceError(
                f"source '{self._source.name}': {item.path} has {header.width}x{header.height} pixels, but 'aligned' "
                f"says {template.name}, which has {template.width}x{template.height}. "
                'Set "aligned": "" to have the faces detected and aligned.'
            )
        return data, header

    def _tell_outside(self, item: Item, box: NDArray[np.float32], header: images.Header) -> None:
        self._boxes_outside += 1
        if self._boxes_outside == 1:
            _log.warning(
                "%s: the box %s of %s lies outside its image of %dx%d pixels. Such boxes are left out: they are for "
                "whole pictures, and not for faces cut out of them.",
                self._source.name, ",".join(f"{each:g}" for each in box), item.path, header.width, header.height,
            )  # fmt: skip

    def _tell(self, reader: Reader) -> None:
        self.unmatched = {what: count for what, count in reader.unmatched.items() if count}
        if self._boxes_outside:
            self.unmatched["boxes outside their image"] = self._boxes_outside
        if self._attributes and self._attributes.unused:
            self.unmatched["attribute rows without an image"] = self._attributes.unused
        if self._exclusions and self._exclusions.unused:
            self.unmatched["exclusion lines that fit no image"] = self._exclusions.unused
        for what, count in self.unmatched.items():
            _log.warning("%s: %s %s", self._source.name, f"{count:,}", what)
        if self._exclusions:
            self._exclusions.tell()
        kept = self.images_in - self.drops.total()
        dropped = "".join(f", {count:,} {reason}" for reason, count in sorted(self.drops.items()))
        people = f"{len(self._identities):,} identities"
        _log.info(f"{self._source.name}: {kept:,} of {self.images_in:,} files kept, {people}{dropped}")

    def _check(self) -> None:
        if self.drops.total() == self.images_in:
            told = "; ".join(
                f"{count:,} {reason} (first {self._first_drop[reason]})" for reason, count in self.drops.most_common()
            )
            raise SourceError(
                f"source '{self._source.name}' has no usable image among {self.images_in:,} files"
                f"{': ' + told if told else ''}. Images must lie in <identity>/<image>."
            )
        if self._source.kind == "folder":
            require_several(len(self._identities), self._source.name)

    def _write_unmatched(self, reader: Reader, index: int) -> None:
        """Put the rows that name an image which is not there into a part of the ledger alone."""
        name, namespace = self._source.name, self._source.namespace
        with ShardWriter(self._directory, index, stage=STAGE) as out:
            for identity, file, why in reader.unmatched_rows():
                path = f"{identity}/{file}" if identity else file
                out.unmatched(f"{name}/{path}", f"{namespace}/{identity}" if identity else "", why)
            for path in self._attributes.unused_paths() if self._attributes else ():
                out.unmatched(f"{name}/{path}", "", "an attribute row without an image")

    def _write_pairs(self, reader: Reader) -> Path:
        path = self._directory / PAIRS_NAME
        with open(path, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(PAIRS_COLUMNS)
            for pair in reader.pairs():
                for image in (pair.first, pair.second):
                    if image not in self._kept:
                        raise SourceError(
                            f"{pair.where}: its image {image} cannot be used (see its message above or in the log). A "
                            "protocol without one of its images would give another score: fetch the set again."
                        )
                name = self._source.name
                rows.writerow([f"{name}/{pair.first}", f"{name}/{pair.second}", int(pair.same), pair.fold])
        return path


def _mostly_outside(box: NDArray[np.float32], header: images.Header) -> bool:
    """Whether less than half of a box, which has an area, lies in its image."""
    left, top, right, bottom = (float(each) for each in box)
    inside_x = max(0.0, min(right, header.width) - max(left, 0.0))
    inside_y = max(0.0, min(bottom, header.height) - max(top, 0.0))
    return inside_x * inside_y < 0.5 * (right - left) * (bottom - top)
