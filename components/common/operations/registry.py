"""The registry of operations: names, arguments with their limits, and variants, which are operations with values."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar, get_type_hints

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.operations.noise import Noise

Image = NDArray[np.uint8]


class Function(Protocol):
    """What every operation's function looks like."""

    def __call__(self, image: Image, noise: Noise, **arguments: Any) -> Image:
        """Return the changed image; the one that came in stays as it was."""


@dataclass(frozen=True)
class Argument:
    """One argument of an operation.

    Attributes:
        name: As written in a policy.
        kind: ``int`` or ``float``.
        default: The value where the policy gives none.
        minimum: Smallest value allowed.
        maximum: Largest value allowed.
    """

    name: str
    kind: type[int] | type[float]
    default: int | float
    minimum: float
    maximum: float

    def check(self, value: object) -> int | float:
        """Return the value in the argument's type.

        Raises:
            ValueError: It is not a number of that type, or outside the limits; the message says what is allowed.
        """
        kind = "a whole number" if self.kind is int else "a number"
        allowed = f"{self.name} must be {kind} from {self.minimum:g} to {self.maximum:g}"
        number = int | float if self.kind is float else int
        if not isinstance(value, number) or isinstance(value, bool) or not self.minimum <= value <= self.maximum:
            raise ValueError(f"{allowed}, not {value!r}")
        return self.kind(value)


@dataclass(frozen=True)
class Operation:
    """A registered operation.

    Attributes:
        name: As written in a policy.
        function: What it does.
        arguments: What it takes, in the order of its signature.
        summary: First line of the function's docstring.
    """

    name: str
    function: Function
    arguments: tuple[Argument, ...]
    summary: str

    @property
    def usage(self) -> str:
        """How it is written, with every default: ``opening(size=5)``."""
        return Variant(self.name, tuple(argument.default for argument in self.arguments)).description


OPERATIONS: dict[str, Operation] = {}
_F = TypeVar("_F", bound=Callable[..., Image])


def operation(**limits: tuple[float, float]) -> Callable[[_F], _F]:
    """Register a function as an operation under its own name.

    Args:
        **limits: Smallest and largest value allowed, for each of the function's keyword-only arguments.
    """

    def register(function: _F) -> _F:
        hints = get_type_hints(function)
        arguments = tuple(
            Argument(parameter.name, hints[parameter.name], parameter.default, *limits[parameter.name])
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY
        )
        summary = (inspect.getdoc(function) or "").partition("\n")[0]
        OPERATIONS[function.__name__] = Operation(function.__name__, function, arguments, summary)
        return function

    return register


@dataclass(frozen=True)
class Variant:
    """An operation with its arguments: what a rule makes one copy of an image with.

    Attributes:
        operation: Name of a registered operation.
        arguments: A value for every argument of the operation, in the order of its signature.
    """

    operation: str
    arguments: tuple[int | float, ...]

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Read what :attr:`name` writes; nothing is evaluated.

        Raises:
            ValueError: The text names no operation, or an argument that the operation does not have or allow.
        """
        try:
            call = ast.parse(name, mode="eval").body
            given: dict[str | None, Any] = {}
            if isinstance(call, ast.Call):
                if call.args:
                    raise ValueError("arguments are given by name")
                given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                call = call.func
            if not isinstance(call, ast.Name) or call.id not in OPERATIONS:
                raise ValueError(f"known operations: {', '.join(OPERATIONS)}")
            arguments = OPERATIONS[call.id].arguments
            values = tuple(argument.check(given.pop(argument.name, argument.default)) for argument in arguments)
            if given:
                raise ValueError(f"{call.id} has no argument {next(iter(given))}")
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{name!r} is no operation with arguments: {error}") from error
        return cls(call.id, values)

    @cached_property
    def values(self) -> dict[str, int | float]:
        """The arguments by name."""
        pairs = zip(OPERATIONS[self.operation].arguments, self.arguments, strict=True)
        return {argument.name: value for argument, value in pairs}

    @cached_property
    def name(self) -> str:
        """The canonical text: only the arguments that differ from their defaults, by name."""
        changed = [
            f"{argument.name}={_text(value)}"
            for argument, value in zip(OPERATIONS[self.operation].arguments, self.arguments, strict=True)
            if value != argument.default
        ]
        return f"{self.operation}({', '.join(changed)})" if changed else self.operation

    @property
    def description(self) -> str:
        """The text with every argument, defaults as well."""
        told = ", ".join(f"{name}={_text(value)}" for name, value in self.values.items())
        return f"{self.operation}({told})" if told else self.operation

    def make(self, image: Image, seed: int, key: str) -> Image:
        """Apply the operation to an image.

        Args:
            image: (H, W, 3) uint8 RGB; stays as it is.
            seed: The stage's seed.
            key: The source image's key. Noise depends on seed, key and operation alone, so it is the same whichever
                worker draws it and whatever was drawn before.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        return OPERATIONS[self.operation].function(image, Noise(seed, "noise", key, self.name), **self.values)


def _text(value: int | float) -> str:
    """The shortest literal that reads back as the same number."""
    return repr(value).removesuffix(".0")
