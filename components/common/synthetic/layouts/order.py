"""What every layout is asked for, and the table of attributes that stands beside it."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.logs import progress
from faceflow.components.common.synthetic.cast import Sitter, image_range, make_cast
from faceflow.components.common.synthetic.identity import Gender
from faceflow.components.common.synthetic.render import LARGEST_PX, SMALLEST_PX
from faceflow.components.common.synthetic.studio import Job, Picture, take_pictures

ATTRIBUTES = "attributes.csv"
"""Name of the table of attributes in every layout."""


@dataclass(frozen=True, slots=True)
class Order:
    """A set to be written.

    Attributes:
        identities: How many people.
        images_per_identity: How many pictures of each: a number, or the fewest and the most.
        seed: What the people and everything else are drawn from.
        size_px: Side of the rendered pictures, pixels.
        workers: Processes that render.
    """

    identities: int
    images_per_identity: int | Sequence[int]
    seed: int
    size_px: int
    workers: int = 1

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            SettingsError: One is out of range.
        """
        image_range(self.images_per_identity)
        for name, low, high in (
            ("identities", 1, None),
            ("seed", 0, None),
            ("size_px", SMALLEST_PX, LARGEST_PX),
            ("workers", 1, None),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or value < low or (high is not None and value > high):
                limits = f"at least {low}" if high is None else f"between {low} and {high}"
                raise SettingsError(f"{name} is {value!r}, but must be a whole number of {limits}.")

    def cast(self) -> list[Sitter]:
        """The people."""
        return make_cast(self.seed, self.identities, self.images_per_identity)

    def pictures(self, jobs: Iterable[Job], total: int, *, crop: bool = False) -> Iterator[Picture]:
        """Take pictures in the order of the jobs, and show how far along they are."""
        taken = take_pictures(jobs, self.size_px, crop=crop, workers=self.workers)
        return progress(taken, total=total, what="images", label="rendering")


class AttributeTable:
    """Writes ``attributes.csv``: the path of each picture in the set, its gender and its age in years."""

    def __init__(self, folder: Path) -> None:
        """Create the file."""
        self._file = open(folder / ATTRIBUTES, "w", newline="", encoding="utf-8")  # noqa: SIM115
        self._rows = csv.writer(self._file, lineterminator="\n")
        self._rows.writerow(["path", "gender", "age"])

    def add(self, path: str, gender: Gender, age: float) -> None:
        """Append a picture's row."""
        self._rows.writerow([path, gender, f"{age:g}"])

    def __enter__(self) -> AttributeTable:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
