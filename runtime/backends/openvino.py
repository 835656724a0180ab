"""Runs a score graph with OpenVINO on the CPU."""

from __future__ import annotations

import importlib.util
import logging
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..device import own_threads
from ..engine import Engine
from ..errors import EbmExportError, LoadError, MissingBackend, UnsupportedOperation, UsageError
from .openvino_bf16 import HAS_BF16, in_float32
from .openvino_error import failed_node, in_one_sentence
from .openvino_products import part_products
from .openvino_reductions import fold_reductions
from .openvino_rows import join_rows
from .openvino_saturation import has_large_weights, saturates
from .openvino_sums import part_sums

__all__ = ["OpenVinoEngine", "available"]

_KEPT_SHAPES = 8
"""Compiled models kept: of a run's batches, of its last one and of a call with a deadline, each for a condition that is shared and for one per
sample, and two more."""
_ARITHMETIC = frozenset(
    ["Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "ScaledDotProductAttention"]
)
_EIGHT_BITS = frozenset({"i8", "u8"})
PART = "/part:"
"""In names of the first two of three convolutions that a file has for one of the model; the third has its name, and counts for all."""
_LOG = logging.getLogger("ebm_export")
_BOOKKEEPING = frozenset({"Const", "Convert", "Input", "Output", "Reorder", "Reshape"})


def available() -> str | None:
    """None when OpenVINO can be used here, else a sentence that says why not."""
    if importlib.util.find_spec("openvino") is None:
        return "the package openvino is not installed: pip install 'ebm-export[openvino]'"
    return None


@dataclass(frozen=True)
class _Bound:
    """A model compiled for one set of shapes, and numpy views of the memory that it reads and writes.

    Writing into these views and calling `infer` without arguments took 8 us for a small network, handing over the
    arrays at each call 52 us.
    """

    request: Any
    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    copied: list[np.ndarray | None]
    """What was last copied into each input, where it cannot have changed since."""


class OpenVinoEngine(Engine):
    """A score graph compiled by OpenVINO's CPU plugin.

    The precision is the one written into the graph: each operation runs in the type it has there. OpenVINO's own
    default is another (on a CPU with BF16 instructions everything runs in BF16, a float32 graph and the float32
    parts of a BF16 graph included), so INFERENCE_PRECISION_HINT is always set, to f32 unless the options say
    otherwise: a CPU without instructions for a low type then computes in float32 on weights stored in that type,
    and never in a lower type than the graph asks for. `executed_precision` says what really runs.

    On a CPU whose 8-bit products overflow (see `openvino_saturation`), a graph with large 8-bit weights is computed in float32
    on its 8-bit numbers: right, and not faster than float32. A warning says so.

    A model is compiled for the very shapes of a batch, at the first call that brings them, and the last eight are
    kept: with fixed shapes a call was 1.1 to 1.7 times faster than with a symbolic batch, and compiling took
    30 ms for a small network and 100 ms for a residual network of 34 convolutions.
    """

    backend = "openvino"

    def __init__(
        self, path: Path, *, precision: str, threads: int | None = None, options: dict[str, Any] | None = None
    ):
        """Keeps the settings; `open` does the work.

        Args:
            path: an .xml file with its .bin beside it, or an .onnx file.
            precision: the name the bundle gives this artifact; the arithmetic is set by the graph's own types.
            threads: threads that one call may use, None for all cores.
            options: `inference_precision` ("f32" by default, "bf16", "f16"): the INFERENCE_PRECISION_HINT. `leave_out`: names of
                outputs that nobody asks for; what only they need is not computed.

        Raises:
            UsageError: an option that this backend does not know.
        """
        options = dict(options or {})
        self._hint = options.pop("inference_precision", "f32")
        self._left_out = frozenset(options.pop("leave_out", ()))
        if options:
            raise UsageError(
                f"backend 'openvino' knows the options 'inference_precision' and 'leave_out'; it got {', '.join(map(repr, options))}"
            )
        if self._hint not in ("f32", "bf16", "f16"):
            raise UsageError(
                f"option 'inference_precision' of backend 'openvino' is f32, bf16 or f16; it got {self._hint!r}"
            )
        self.path = Path(path)
        self.precision = precision
        self.threads = threads
        self.cpu_threads = threads or own_threads("OpenVINO")
        self._core: Any = None
        self._model: Any = None
        self._exact = False  # whether 8-bit products are computed in float32
        self._bound: OrderedDict[tuple[tuple[int, ...], ...], _Bound] = OrderedDict()

    def open(self) -> None:
        """Reads the model; it is compiled when the first batch shows its shapes."""
        try:
            import openvino
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise
            raise MissingBackend(
                "backend 'openvino' needs the package openvino: pip install 'ebm-export[openvino]'"
            ) from error
        self._core = openvino.Core()
        has_bf16 = HAS_BF16 in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self._hint == "bf16" and not has_bf16:
            # On x86 the plugin then falls back to float32 by itself, but on ARM to FP16, in which what fitted BF16's
            # range can overflow.
            self._hint = "f32"
        try:
            self._model = self._core.read_model(self.path)
        except RuntimeError as error:
            raise LoadError(f"OpenVINO cannot read {self.path.name}: {in_one_sentence(error)}") from error
        for result in self._model.get_results():
            if self._left_out & result.input_value(0).get_names():
                self._model.remove_result(result)
        if not has_bf16:
            in_float32(self._model)
        part_products(self._model)
        part_sums(self._model)
        self._exact = has_large_weights(self._model) and saturates()
        if self._exact:
            _LOG.warning(
                "%s: 8-bit products overflow on this CPU, which has no VNNI instructions, so it runs in float32 on its 8-bit numbers: "
                "right, but no faster than fp32. ebm-export --weight-bits 7 makes INT8 that does not overflow",
                self.path.name,
            )
        self._inputs = [port.get_any_name() for port in self._model.inputs]
        self._outputs = [port.get_any_name() for port in self._model.outputs]

    def close(self) -> None:
        """Frees the compiled models; arrays that `run` returned stay valid."""
        self._bound.clear()
        self._model = self._core = None

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`. The returned arrays are views that the next call overwrites.

        Raises:
            UnsupportedOperation: OpenVINO does not take a node of the graph for these shapes.
            EbmExportError: it cannot compile or run the graph for another reason.
        """
        shapes = tuple(inputs[name].shape for name in self._inputs)
        bound = self._bound.get(shapes)
        if bound is None:
            bound = self._compile(shapes)
        else:
            self._bound.move_to_end(shapes)
        for index, name in enumerate(self._inputs):
            array = inputs[name]
            if array is not bound.copied[index]:
                np.copyto(bound.inputs[index], array)
                bound.copied[index] = None if array.flags.writeable else array
        try:
            bound.request.infer(share_outputs=True)  # what it returns would be copies, which nobody looks at
        except RuntimeError as error:
            raise EbmExportError(f"OpenVINO cannot run {self.path.name}: {in_one_sentence(error)}") from error
        return dict(zip(self._outputs, bound.outputs, strict=True))

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> _Bound:
        """Compiles for one set of input shapes, in the order of the model's inputs."""
        if self._model is None:
            raise RuntimeError("the engine is not open: call it inside a with statement")
        model = self._model.clone()
        model.reshape(dict(zip(self._inputs, map(list, shapes), strict=True)))
        fold_reductions(model)
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self._hint,
            # Pinned threads of two engines, or of two processes, land on the same cores: two single-threaded
            # processes on two cores took 162 ms a call pinned and 82 ms unpinned.
            "ENABLE_CPU_PINNING": False,
            # The default quantizes activations on the way into a matrix product whose weights are stored in 8 bits.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }
        if self._exact:
            settings["LP_TRANSFORMS_MODE"] = False
        if self.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = self.threads
        try:
            request = self._core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            text = f"OpenVINO cannot compile {self.path.name} for a batch of {shapes[0][0]}: {in_one_sentence(error)}"
            operator, node = failed_node(str(error))
            if not operator:  # no memory left, say
                raise EbmExportError(text) from error
            raise UnsupportedOperation(text, operator=operator, node=node) from error
        request = self._with_joined_rows(model, settings, request)
        bound = _Bound(
            request=request,
            inputs=[request.get_input_tensor(index).data for index in range(len(self._inputs))],
            outputs=[request.get_output_tensor(index).data for index in range(len(self._outputs))],
            copied=[None] * len(self._inputs),
        )
        self._bound[shapes] = bound
        if len(self._bound) > _KEPT_SHAPES:
            self._bound.popitem(last=False)
        return bound

    def _with_joined_rows(self, model: Any, settings: dict[str, Any], plain: Any) -> Any:
        """What computes the products of `join_rows` at once, where that gives the bits of `plain`, which computes the model as it is.

        A sample's must not depend on whether the others are given its condition.
        """
        joined = model.clone()
        if not join_rows(joined):
            return plain
        try:
            request = self._core.compile_model(joined, "CPU", settings).create_infer_request()
            return request if _agree(plain, request) else plain
        except RuntimeError:
            return plain

    @property
    def executed_precision(self) -> str:
        """What the convolutions and matrix products of the last batch ran in, such as "f32", "bf16" or "bf16+f32".

        Read from the compiled graph, so it also tells what a hint turned into: on a CPU without FP16 arithmetic
        "f16" becomes BF16 or float32. A graph without such an operation answers for all its operations.
        """
        executed = self._executed("executed_precision")
        arithmetic = {precision for _, kind, precision, _ in executed if kind in _ARITHMETIC}
        other = {precision for _, kind, precision, _ in executed if kind not in _BOOKKEEPING}
        return "+".join(sorted(arithmetic or other))

    @property
    def int8_layers(self) -> tuple[int, int]:
        """How many convolutions and matrix products of the last batch read 8-bit numbers, and how many there are.

        Read from the compiled graph: a Q/DQ pair that the plugin did not fuse into its layer does not count. None does where
        8-bit products would overflow and are computed in float32.
        """
        precisions = [precision for _, _, precision in self._arithmetic("int8_layers")]
        return sum(precision in _EIGHT_BITS for precision in precisions), len(precisions)

    @property
    def arithmetic_layers(self) -> list[tuple[str, str, str]]:
        """(name, kind, precision) of each convolution and matrix product of the last batch, as the plugin calls them.

        A precision of "i8" or "u8" is that of layers which `int8_layers` counts.
        """
        return self._arithmetic("arithmetic_layers")

    @property
    def arithmetic_nodes(self) -> dict[str, str]:
        """What the last batch computed in, by the name of each node of the graph that went into a convolution or matrix product.

        The plugin lists the nodes that it made a layer of, what it fused behind it too; of some matrix products in INT8 it loses the
        name. So a node that is missing, as one does that went into layers of two precisions, says nothing.
        """
        found: dict[str, set[str]] = {}
        for (_, _, precision), nodes in self._arithmetic_and_nodes("arithmetic_nodes"):
            for node in nodes:
                found.setdefault(node, set()).add(precision)
        return {node: precisions.pop() for node, precisions in found.items() if len(precisions) == 1}

    def _arithmetic(self, asked: str) -> list[tuple[str, str, str]]:
        return [layer for layer, _ in self._arithmetic_and_nodes(asked)]

    def _arithmetic_and_nodes(self, asked: str) -> list[tuple[tuple[str, str, str], list[str]]]:
        return [
            ((name, kind, "f32" if self._exact and precision in _EIGHT_BITS else precision), nodes)
            for name, kind, precision, nodes in self._executed(asked)
            if kind in _ARITHMETIC and PART not in name
        ]

    def _executed(self, asked: str) -> list[tuple[str, str, str, list[str]]]:
        """(name, kind, precision, nodes of the graph) of each layer that the last batch ran."""
        if not self._bound:
            raise RuntimeError(f"{asked} is known after the first run")
        compiled = next(reversed(self._bound.values())).request.get_compiled_model()
        found = []
        for operation in compiled.get_runtime_model().get_ops():
            info = operation.get_rt_info()
            kind, precision = info["layerType"].astype(str), info["runtimePrecision"].astype(str)
            nodes = info["originalLayersNames"].astype(str).split(",")
            found.append((operation.get_friendly_name(), kind, precision, nodes))
        return found


def _agree(one: Any, other: Any) -> bool:
    """Whether two requests of the same inputs and outputs give the same bits for normal numbers."""
    generator = np.random.default_rng(0)
    for index in range(len(one.model_inputs)):
        given, same = one.get_input_tensor(index).data, other.get_input_tensor(index).data
        given[...] = generator.standard_normal(given.shape) if given.dtype.kind == "f" else 0
        same[...] = given
    one.infer()
    other.infer()
    return all(
        one.get_output_tensor(index).data.tobytes() == other.get_output_tensor(index).data.tobytes()
        for index in range(len(one.model_outputs))
    )
