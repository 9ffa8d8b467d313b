"""A verification set's pickle, read by an unpickler that can build nothing but plain data.

A pickle is a program, and one from the internet may run anything. This one knows lists, tuples, dicts, numbers, text,
bytes and bools, which need no code, and stand-ins of its own for what NumPy's arrays and scalars are pickled with. Any
other name ends the reading before anything is called.
"""

from __future__ import annotations

import codecs
import pickle
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from faceflow.components.common.errors import ArchiveError

_CODES = frozenset(["b1", "?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8"])


class _Type:
    """Stands for ``numpy.dtype``: its code, and nothing else of its state."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code.lstrip("<>|=") not in _CODES:
            raise pickle.UnpicklingError(f"an array of type {code!r}")
        self.code = code.lstrip("<>|=")
        self.order = "<"

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.order = ">"

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code if self.code != "?" else self.code)


class _Array:
    """Stands for ``numpy.ndarray`` while its state is still to come."""

    def __init__(self, *_: Any) -> None:
        self.values: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(kind, _Type) or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array of objects")
        self.values = np.frombuffer(raw, kind.numpy).reshape(shape, order="F" if fortran else "C")


def _array(kind: Any, shape: Any, code: Any) -> _Array:
    return _Array()


def _scalar(kind: Any, raw: Any) -> Any:
    raw = raw.encode("latin-1") if isinstance(raw, str) else raw
    if not isinstance(kind, _Type) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a scalar object")
    return np.frombuffer(raw, kind.numpy, count=1)[0]


def _from_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> _Array:
    if not isinstance(raw, bytes | bytearray):
        raise pickle.UnpicklingError("an array of something else than bytes")
    made = _Array()
    made.__setstate__((1, shape, kind, order == "F", bytes(raw)))
    return made


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes for Python 2 (protocols 0 to 2)."""
    if not isinstance(text, str) or codecs.lookup(str(encoding)).name != "iso8859-1":
        raise pickle.UnpicklingError(f"text in {encoding!r}")
    return text.encode("latin-1")


def _bytes(*arguments: Any) -> bytes:
    if arguments:
        raise pickle.UnpicklingError("bytes of something")
    return b""


_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    **{(module, "_reconstruct"): _array for module in _ARRAY_MODULES},
    **{(module, "scalar"): _scalar for module in _ARRAY_MODULES},
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}


class _Call:
    """What a pickle gets hold of: it can be called, and has no state that the pickle could change."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str, /) -> Any:
        known = _KNOWN.get((module, name))
        if known is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _Call(known)


def read_verification_set(path: Path, what: str) -> tuple[list[bytes], list[bool]]:
    """Read a ``.bin``.

    Args:
        path: The file.
        what: What to call it in an error.

    Returns:
        2 N encoded images and N flags: images 2 i and 2 i + 1 are a pair, and flag i says whether of one person.

    Raises:
        ArchiveError: The file is damaged, of another shape, or a pickle of something else.
    """
    try:
        with open(path, "rb") as file:
            _check_operations(file, path.stat().st_size)
            file.seek(0)
            loaded = _Unpickler(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any operation
        raise ArchiveError(
            f"{what} is not a verification set that can be trusted: {type(error).__name__}: {error}. It must be the "
            "pickle of a list of encoded images and a list of booleans; nothing in it was executed."
        ) from error
    if not isinstance(loaded, tuple | list) or len(loaded) != 2:
        raise ArchiveError(f"{what} holds {type(loaded).__name__}, not a list of images and a list of booleans.")
    images, flags = (list(part.values) if isinstance(part, _Array) else part for part in loaded)
    if not isinstance(images, list | tuple) or not isinstance(flags, list | tuple) or len(images) != 2 * len(flags):
        raise ArchiveError(f"{what} must hold twice as many images as booleans.")
    return [_image(image, index, what) for index, image in enumerate(images)], [_flag(flag, what) for flag in flags]


def _check_operations(file: IO[bytes], size: int) -> None:
    """Refuse what would make the unpickler reserve memory for things that are not in the file.

    It keeps what a pickle has it remember in a table as long as the highest number given, up to 4 billion, and believes
    lengths of up to 8 bytes; :mod:`pickletools` reads both without doing anything about them.
    """
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(str(argument)) > size:
            raise pickle.UnpicklingError(f"it remembers something under the number {argument:,}")


def _image(image: Any, index: int, what: str) -> bytes:
    if isinstance(image, _Array) and image.values.dtype == np.uint8:
        return image.values.tobytes()
    if isinstance(image, bytes | bytearray):
        return bytes(image)
    raise ArchiveError(f"{what}: image {index} is {type(image).__name__}, not encoded bytes.")


def _flag(flag: Any, what: str) -> bool:
    if isinstance(flag, bool | np.bool_) or (isinstance(flag, int | np.integer) and flag in (0, 1)):
        return bool(flag)
    raise ArchiveError(f"{what}: a pair's flag is {flag!r}, not a boolean.")
