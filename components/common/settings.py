"""Stage settings: frozen dataclasses whose fields carry their description and limits and check themselves."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self, get_args, get_origin, get_type_hints

from faceflow.components.common.errors import SettingsError
from faceflow.components.common.hashing import fingerprint


@dataclass(frozen=True)
class Constraint:
    """What a setting allows and means.

    Attributes:
        help: One sentence for ``--help`` and the generated tables.
        minimum: Smallest value allowed, or None.
        maximum: Largest value allowed, or None.
        choices: The only values allowed, or None.
        affects_output: False for what cannot change a byte of the output (worker counts), which therefore stays out of
            manifests and fingerprints.
    """

    help: str
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    affects_output: bool = True


def setting(
    default: Any,
    help: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Any] | None = None,
    affects_output: bool = True,
) -> Any:
    """A dataclass field with a description and limits; lists and dicts get a fresh copy for every instance."""
    constraint = Constraint(help, minimum, maximum, None if choices is None else tuple(choices), affects_output)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: type(default)(default), metadata={"constraint": constraint})
    return field(default=default, metadata={"constraint": constraint})


def constraint_of(metadata: Mapping[str, Any]) -> Constraint:
    """The constraint that :func:`setting` left in a field's metadata."""
    found = metadata.get("constraint")
    return found if isinstance(found, Constraint) else Constraint("")


@dataclass(frozen=True)
class StageSettings:
    """Base of every stage's settings.

    Subclasses declare fields of type int, float, str, bool, list or dict with :func:`setting`. Construction checks
    types and limits; a subclass with checks across fields overrides ``__post_init__`` and calls ``super()`` first.
    """

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            SettingsError: A field has the wrong type or a value outside its limits.
        """
        hints = get_type_hints(type(self))
        for item in fields(self):
            value = self._coerced(item.name, getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
            self._check_limits(item.name, value, constraint_of(item.metadata))

    @classmethod
    def build(cls, options: Mapping[str, Any] | None = None, **explicit: Any) -> Self:
        """Make settings from a stage's named parameters and its options object.

        Args:
            options: The rarely used settings, by name.
            **explicit: The settings that the stage offers as parameters of its own.

        Raises:
            SettingsError: A name is unknown or given twice, or a value is not allowed.
        """
        options = dict(options or {})
        known = {item.name for item in fields(cls)}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, sorted(known), n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known settings: {', '.join(sorted(known))}."
                raise SettingsError(f"unknown setting '{name}' in options: {hint}")
            if name in explicit:
                raise SettingsError(f"setting '{name}' is a parameter of its own: remove it from options.")
        return cls(**explicit, **options)

    def check_installed(self) -> None:
        """Refuse settings that need what is not installed here; for a subclass that has such settings.

        Raises:
            SettingsError: Says what to install.
        """

    def for_manifest(self) -> dict[str, Any]:
        """The settings that decide the output's bytes, by name."""
        return {
            item.name: getattr(self, item.name) for item in fields(self) if constraint_of(item.metadata).affects_output
        }

    @property
    def fingerprint(self) -> str:
        """A digest of :meth:`for_manifest`."""
        return fingerprint(self.for_manifest())

    @staticmethod
    def _coerced(name: str, value: Any, hint: Any) -> Any:
        kind = get_origin(hint) or hint
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if kind is int and isinstance(value, float) and value.is_integer():
            value = int(value)  # KFP's NUMBER parameters arrive as floats
        if not isinstance(value, kind) or (kind in (int, float) and isinstance(value, bool)):
            raise SettingsError(f"setting '{name}' is {value!r}, but must be of type {kind.__name__}.")
        if kind is float and not math.isfinite(value):
            raise SettingsError(f"setting '{name}' is {value!r}, but must be a finite number.")
        if kind is list and get_args(hint):
            wanted = get_args(hint)[0]
            bad = [entry for entry in value if isinstance(wanted, type) and not isinstance(entry, wanted)]
            if bad:
                raise SettingsError(f"setting '{name}' holds {bad[0]!r}, but every entry must be a {wanted.__name__}.")
        return value

    @staticmethod
    def _check_limits(name: str, value: Any, limits: Constraint) -> None:
        if limits.choices is not None and value not in limits.choices:
            allowed = ", ".join(repr(choice) for choice in limits.choices)
            raise SettingsError(f"setting '{name}' is {value!r}, but must be one of {allowed}.")
        if limits.minimum is not None and value < limits.minimum:
            raise SettingsError(f"setting '{name}' is {value!r}, but must be at least {limits.minimum:g}.")
        if limits.maximum is not None and value > limits.maximum:
            raise SettingsError(f"setting '{name}' is {value!r}, but must be at most {limits.maximum:g}.")
