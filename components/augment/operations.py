"""The image operations that a policy can name, and the registry that holds them.

An operation is one decorated function: ``(image, noise, *, argument=default) -> image`` over (H, W, 3) uint8 RGB. The
decorator reads its name, its arguments, their types and defaults from the signature and takes their limits, so the
policy's parser and the report need no second description of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_type_hints

import cv2
import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.hashing import generator

Image = NDArray[np.uint8]


class Function(Protocol):
    """What every operation's function looks like."""

    def __call__(self, image: Image, noise: np.random.Generator, **arguments: Any) -> Image:
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

    @property
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
        pairs = zip(OPERATIONS[self.operation].arguments, self.arguments, strict=True)
        return f"{self.operation}({', '.join(f'{argument.name}={_text(value)}' for argument, value in pairs)})"

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
        found = OPERATIONS[self.operation]
        arguments = {argument.name: value for argument, value in zip(found.arguments, self.arguments, strict=True)}
        return found.function(image, generator(seed, "noise", key, self.name), **arguments)


def _text(value: int | float) -> str:
    """The shortest literal that reads back as the same number."""
    return repr(value).removesuffix(".0")


@operation(size=(2, 31))
def opening(image: Image, noise: np.random.Generator, *, size: int = 5) -> Image:
    """Morphological opening: removes light spots smaller than a square of ``size`` pixels.

    Erosion then dilation of each channel, the border taken as absent (Serra, Image Analysis and Mathematical
    Morphology, 1982).
    """
    square = np.ones((size, size), np.uint8)
    near, far = size // 2, size - 1 - size // 2
    # cv2.morphologyEx dilates about the anchor that it eroded about, which moves the image where the size is even.
    eroded = cv2.erode(image, square, anchor=(near, near))
    return np.asarray(cv2.dilate(eroded, square, anchor=(far, far)), np.uint8)


@operation(sigma=(0.1, 128))
def gaussian_noise(image: Image, noise: np.random.Generator, *, sigma: float = 10.0) -> Image:
    """Additive Gaussian noise of standard deviation ``sigma`` grey levels, drawn for each pixel and channel."""
    values = noise.standard_normal(image.shape, dtype=np.float32)
    values *= np.float32(sigma)
    values += image
    np.rint(values, out=values)
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


@operation(fraction=(0.0001, 1))
def salt_pepper(image: Image, noise: np.random.Generator, *, fraction: float = 0.02) -> Image:
    """Salt-and-pepper noise: each pixel turns white or black, each with half the probability ``fraction``."""
    draw = noise.random(image.shape[:2], dtype=np.float32)
    changed = image.copy()
    changed[draw < fraction / 2] = 0
    changed[draw >= 1 - fraction / 2] = 255
    return changed
