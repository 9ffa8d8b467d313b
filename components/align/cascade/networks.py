"""The three networks of the cascade, built for OpenVINO.

Layers are those of the ``mtcnn`` package: 'same' pooling rounds up, and axes are transposed before the dense layers.
Three things are folded into the weights, which changes nothing but the rounding: the scaling of pixels to -1 .. 1 into
the first convolution, the parallel outputs into one, and the two logits of the softmax into their difference. A
difference does not saturate as a probability does: very many of those are exactly 1 in float32, and the package leaves
it to its sort which of such boxes survives suppression.

OpenVINO computes in bfloat16 on processors that have it, with errors to 2e-2, unless float32 is asked for. Every
network runs on one thread, without pinning: several workers use a machine's cores, and pinned processes that know
nothing of each other can end up on one core.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from faceflow.components.align.cascade import weights

_MEAN, _SPREAD = 127.5, 128.0
_CONFIG = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": 1,
    "ENABLE_CPU_PINNING": False,
    "CPU_RUNTIME_CACHE_CAPACITY": 1000,  # generated code: about 0.1 MB each
}
_ROUND_UP, _ROUND_DOWN = "ceil", "floor"


@cache
def _openvino() -> Any:
    """OpenVINO, imported without its telemetry.

    Importing it loads a module for converting models, which nothing here needs. That module reports each import to a
    statistics service, and leaves a number in the home folder to know the machine by, unless the package that does so
    is absent.
    """
    blocked = "openvino_telemetry" not in sys.modules
    if blocked:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if blocked:
            del sys.modules["openvino_telemetry"]


@cache
def _core() -> Any:
    return _openvino().Core()


class ProposalNetwork:
    """P-Net: proposes boxes on every level of a pyramid, at once."""

    def __init__(self) -> None:
        """Load the weights and compile."""
        w = weights.load("pnet")
        pixels = _pixels(1, -1, -1)
        x = _pooled(_hidden(_planes(pixels), *_scaled(w[0], w[1]), w[2]), 2, _ROUND_UP)
        x = _hidden(_hidden(x, *w[3:6]), *w[6:9])
        offsets_and_logit = _convolved(x, *_joined([(w[9], w[10]), _logit(w[11], w[12])]))
        self._request = _compile(offsets_and_logit, pixels)

    def __call__(self, canvas: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            canvas: (H, W, 3), 0 to 255.

        Returns:
            (5, C) for the cells of the canvas, row by row: offsets of left, top, right and bottom, and the logit of a
            face.
        """
        return _run(self._request, canvas[np.newaxis]).reshape(5, -1)


class PatchNetwork:
    """R-Net or O-Net: looks at crops.

    Crops run in chunks of one fixed size, the last one filled up, so that what comes of a crop does not hang on how
    many others there are.

    Args:
        name: ``rnet`` or ``onet``.

    Attributes:
        side: Rows and columns of its crops.
    """

    def __init__(self, name: str) -> None:
        """Load the weights and compile."""
        self.side, chunk = {"rnet": (24, 32), "onet": (48, 4)}[name]
        self._chunk = np.zeros((chunk, self.side, self.side, 3), np.float32)
        pixels = _pixels(*self._chunk.shape[:3])
        layers = _refine if name == "rnet" else _output
        self._request = _compile(layers(_planes(pixels), weights.load(name)), pixels)

    def __call__(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network.

        Args:
            crops: (N, side, side, 3), 0 to 255; one or more.

        Returns:
            (N, 5) or (N, 15): offsets of left, top, right and bottom, with O-Net five x and five y of landmarks, and
            the logit of a face.
        """
        parts = []
        for begin in range(0, len(crops), len(self._chunk)):
            some = crops[begin : begin + len(self._chunk)]
            self._chunk[: len(some)] = some
            parts.append(_run(self._request, self._chunk)[: len(some)])
        return np.concatenate(parts)


def _refine(x: Any, w: list[NDArray[np.float32]]) -> Any:
    x = _pooled(_hidden(x, *_scaled(w[0], w[1]), w[2]), 3, _ROUND_UP)
    x = _pooled(_hidden(x, *w[3:6]), 3, _ROUND_DOWN)
    x = _hidden(x, *w[6:9])
    x = _hidden_dense(_flat(x, w[9]), *w[9:12])
    return _dense(x, *_joined([(w[12], w[13]), _logit(w[14], w[15])]))


def _output(x: Any, w: list[NDArray[np.float32]]) -> Any:
    x = _pooled(_hidden(x, *_scaled(w[0], w[1]), w[2]), 3, _ROUND_UP)
    x = _pooled(_hidden(x, *w[3:6]), 3, _ROUND_DOWN)
    x = _pooled(_hidden(x, *w[6:9]), 2, _ROUND_UP)
    x = _hidden(x, *w[9:12])
    x = _hidden_dense(_flat(x, w[12]), *w[12:15])
    return _dense(x, *_joined([(w[15], w[16]), (w[17], w[18]), _logit(w[19], w[20])]))


def _compile(output: Any, pixels: Any) -> Any:
    """A request that runs a model on one thread in float32."""
    model = _with_direct_kernel(_openvino().Model([output], [pixels]))
    return _core().compile_model(model, "CPU", _CONFIG).create_infer_request()


def _with_direct_kernel(model: Any) -> Any:
    """A model whose first convolution runs on the direct kernel, where the processor has it.

    OpenVINO would take the one that multiplies matrices, which is slower by half with an input of three channels, and
    would have the pixels in another order; the sums are the same to the bit. The preference is an attribute of a layer
    that can be set in a model's file only.
    """
    with tempfile.TemporaryDirectory(prefix="faceflow-") as folder:
        path = Path(folder) / "model.xml"
        _openvino().serialize(model, path, path.with_suffix(".bin"))
        tree = ElementTree.parse(path)
        first = tree.find(".//layer[@type='Convolution']")
        assert first is not None
        hints = ElementTree.Element("rt_info")
        ElementTree.SubElement(hints, "attribute", name="primitives_priority", version="0", value="cpu:jit_avx512")
        first.insert(1, hints)  # between what the layer computes and its inputs
        tree.write(path)
        return _core().read_model(path)


def _run(request: Any, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """What comes of an input, as a copy: OpenVINO writes the next result into the same memory."""
    return np.array(request.infer([pixels], share_inputs=True, share_outputs=True)[0])


def _pixels(*shape: int) -> Any:
    """An input of (N, H, W) pixels in three colours; -1 stands for any size."""
    ops = _openvino().opset13
    return ops.parameter([*shape, 3], np.float32)


def _planes(pixels: Any) -> Any:
    ops = _openvino().opset13
    return ops.transpose(pixels, ops.constant(np.array([0, 3, 1, 2])))


def _scaled(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A first convolution that takes pixels from 0 to 255; there is no padding that they would have to agree with."""
    shifted = bias - kernel.sum((0, 1, 2), dtype=np.float64) * (_MEAN / _SPREAD)
    return kernel / np.float32(_SPREAD), shifted.astype(np.float32)


def _logit(kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The layer of a softmax over (no face, face) as one output, the logarithm of the odds."""
    return kernel[..., 1:] - kernel[..., :1], bias[1:] - bias[:1]


def _joined(
    layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    kernels, biases = zip(*layers, strict=True)
    return np.concatenate(kernels, -1), np.concatenate(biases)


def _convolved(x: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
    ops = _openvino().opset13
    filters = ops.constant(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
    x = ops.convolution(x, filters, [1, 1], [0, 0], [0, 0], [1, 1])
    return ops.add(x, ops.constant(bias.reshape(1, -1, 1, 1)))


def _dense(x: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32]) -> Any:
    ops = _openvino().opset13
    return ops.add(ops.matmul(x, ops.constant(kernel), False, False), ops.constant(bias.reshape(1, -1)))


def _rectified(x: Any, slopes: NDArray[np.float32]) -> Any:
    ops = _openvino().opset13
    return ops.prelu(x, ops.constant(slopes.ravel()))


def _hidden(x: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32], slopes: NDArray[np.float32]) -> Any:
    return _rectified(_convolved(x, kernel, bias), slopes)


def _hidden_dense(x: Any, kernel: NDArray[np.float32], bias: NDArray[np.float32], slopes: NDArray[np.float32]) -> Any:
    return _rectified(_dense(x, kernel, bias), slopes)


def _pooled(x: Any, side: int, rounding: str) -> Any:
    ops = _openvino().opset13
    return ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [side, side], rounding, "explicit").output(0)


def _flat(x: Any, kernel: NDArray[np.float32]) -> Any:
    """Flatten column by column, as the dense layer after it expects (its original was trained so)."""
    ops = _openvino().opset13
    x = ops.transpose(x, ops.constant(np.array([0, 3, 2, 1])))
    return ops.reshape(x, ops.constant(np.array([-1, len(kernel)])), False)
