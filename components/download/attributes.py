"""Attribute tables: a CSV that tells the gender and age of images."""

from __future__ import annotations

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path

from faceflow.components.common.errors import SourceError
from faceflow.components.download.items import Item, clean
from faceflow.components.download.tables import NameIndex

_GENDERS = {"female": 1, "f": 1, "male": 2, "m": 2, "": 0}
_NAMES = (None, "female", "male")
_OLDEST = 130.0


class Attributes:
    """Gender and age by path.

    The column ``path`` (or ``key``) has the image's path in the archive, its ``<identity>/<file>``, or, in the files
    that number their images, its number; ``gender`` is female, male, f, m or empty; ``age`` is in years or empty.

    Args:
        path: The CSV file.
        what: What to call it in an error.

    Raises:
        SourceError: A column is missing or a value is not allowed; names the line.
    """

    def __init__(self, path: Path, what: str) -> None:
        """Read the whole table."""
        self._path = path
        self._what = what
        self._genders, self._ages = array("b"), array("f")
        self._full = NameIndex(self._gather())
        # Tables made beside an archive may name a folder more than the archive or the folder that was given.
        self._short = NameIndex(name.partition("/")[2] if name.count("/") >= 2 else None for name, _, _ in self._rows())

    def _gather(self) -> Iterator[str]:
        for name, gender, age in self._rows():
            self._genders.append(gender)
            self._ages.append(age)
            yield name

    def _rows(self) -> Iterator[tuple[str, int, float]]:
        """Read the table: path, gender and age of each row."""
        try:
            with open(self._path, encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                columns = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
                column = columns.get("path") or columns.get("key")
                if column is None or not ({"gender", "age"} & set(columns)):
                    raise SourceError(
                        f"{self._what} has the columns {', '.join(rows.fieldnames or ['none'])}: it needs 'path', and "
                        "'gender' or 'age'."
                    )
                for row in rows:
                    where = f"{self._what}, line {rows.line_num}"
                    gender = _gender(row.get(columns.get("gender", "")) or "", where)
                    age = _age(row.get(columns.get("age", "")) or "", where)
                    yield clean((row[column] or "").strip().strip("/")), gender, age
        except (UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{self._what} is no CSV in UTF-8 ({error}).") from error
        except OSError as error:
            raise SourceError(f"{self._what} cannot be read ({error.strerror}): check the path.") from error

    def find(self, item: Item) -> tuple[str | None, float | None]:
        """Gender and age of an image; None where not known."""
        for index, name in ((self._full, item.name), (self._full, item.path), (self._short, item.path)):
            place = index.find(name)
            if place >= 0:
                self._full.found[place] = True
                age = self._ages[place]
                return _NAMES[self._genders[place]], age if age >= 0 else None
        return None, None

    @property
    def unused(self) -> int:
        """Rows that no image asked for."""
        return int((~self._full.found).sum())

    def unused_paths(self) -> Iterator[str]:
        """Their paths, in file order, read from the file once more."""
        if self.unused:
            for (name, _, _), found in zip(self._rows(), self._full.found, strict=True):
                if not found:
                    yield name


def _gender(text: str, where: str) -> int:
    value = _GENDERS.get(text.strip().lower())
    if value is None:
        raise SourceError(f"{where}: gender is {text!r}, but must be female, male, f, m or empty.")
    return value


def _age(text: str, where: str) -> float:
    if not text.strip():
        return -1.0
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= _OLDEST:
        raise SourceError(f"{where}: age is {text!r}, but must be a number of years from 0 to {_OLDEST:g}, or empty.")
    return value
