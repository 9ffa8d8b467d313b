"""The image operations that a policy can name.

An operation is one decorated function: ``(image, noise, *, argument=default) -> image`` over (H, W, 3) uint8 RGB. The
decorator reads its name, its arguments, their types and defaults from the signature and takes their limits, so the
policy's parser, the reports and the generated documentation need no second description of it. The functions here use
OpenCV and serve augment; training applies operations of the same names with TensorFlow
(``faceflow.components.train.operations``), and one that has no such form there runs through its function here.
"""

from faceflow.components.common.operations import colour, covering, degrading, geometric
from faceflow.components.common.operations.noise import Noise
from faceflow.components.common.operations.registry import (
    OPERATIONS,
    Argument,
    Function,
    Image,
    Operation,
    Variant,
    operation,
)

__all__ = [
    "OPERATIONS",
    "Argument",
    "Function",
    "Image",
    "Noise",
    "Operation",
    "Variant",
    "colour",
    "covering",
    "degrading",
    "geometric",
    "operation",
]
