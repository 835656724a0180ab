"""Whether a graph that was made elsewhere is a score graph of a given model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.backends import available
from ..runtime.errors import LoadError, MissingBackend, UsageError
from ..runtime.manifest import ModelSpec
from ..runtime.onnxruntime_library import import_onnxruntime

__all__ = ["Port", "backend_for", "check_graph", "features_of"]

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "f32": "float32",
    "i64": "int64",
    "boolean": "bool",
}
_HINT = "quantize the bundle's own score.fp32 graph, and keep its inputs and outputs as they are"

_TAKEN_NAME = (
    "the quantizer gave the scale of the output grad the name of the input grad_scale: leave the operation that makes "
    "grad in float (nodes_to_exclude)"
)


@dataclass(frozen=True)
class Port:
    """An input or output; a size that is not fixed is None."""

    shape: tuple[int | None, ...]
    dtype: str


def backend_for(path: Path, backend: str | None) -> str:
    """Returns the backend that runs a file.

    Args:
        path: an .onnx or .xml file.
        backend: what was asked for, or None.

    Raises:
        UsageError: no backend runs such a file, or not the one asked for.
        MissingBackend: it is not installed.
    """
    takes = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}.get(path.suffix)
    if takes is None:
        raise UsageError(f"{path}: expected an .onnx file, or an .xml file of OpenVINO")
    chosen = backend or takes[0]
    if chosen not in takes:
        raise UsageError(f"{path}: a {path.suffix} file runs on {' or '.join(takes)}, not on {chosen}")
    if (missing := available(chosen)) is not None:
        raise MissingBackend(f"{path} needs the backend {chosen!r}: {missing}")
    return chosen


def features_of(path: Path, backend: str, reads: Sequence[str]) -> dict[str, Port | None]:
    """What a prologue puts in the place of conditioning inputs.

    Args:
        path: the prologue.
        backend: the library to read it with.
        reads: the conditioning inputs that it reads.

    Returns:
        By name what a score graph takes with it: the features, and None for each conditioning input that it need not take.
    """
    _, outputs = _ports(path, backend)
    return {**dict.fromkeys(reads), **outputs}


def check_graph(
    path: Path, backend: str, model: ModelSpec, features: Mapping[str, Port | None] | None = None
) -> set[str]:
    """Checks that a graph takes and gives what a model's score graph does.

    Inputs: x [B, *S], one per conditioning input (or the features that a prologue makes of them), and grad_scale [B], which may
    be left out (see `PlainScore`); outputs: energy [B], grad [B, *S]. The batch is not fixed. Further outputs are ignored.

    Args:
        path: the graph.
        backend: the library to read it with.
        model: what its inputs and outputs have to be.
        features: of the model's prologue, where it has one; see `features_of`.

    Returns:
        The names of its inputs.

    Raises:
        LoadError: the library cannot read it.
        UsageError: an input or output is missing, unknown, or of another shape or type.
    """
    inputs, outputs = _ports(path, backend)
    wanted = {"x": Port((None, *model.x.shape), "float32")}
    if "grad_scale" in inputs:
        wanted["grad_scale"] = Port((None,), "float32")
    conditions: dict[str, Port | None] = {spec.name: Port((None, *spec.shape), spec.dtype) for spec in model.cond}
    features = features or {}
    takes_features = any(name in inputs for name, port in features.items() if port is not None)
    if takes_features:
        conditions |= features
    # A condition that only the prologue reads may still be an input.
    wanted |= {name: port for name, port in conditions.items() if port is not None}
    _compare(path, "input", inputs, wanted)
    if unknown := [name for name in inputs if name not in wanted and name not in conditions]:
        raise UsageError(
            f"{path}: the graph has an input {unknown[0]!r} that the bundle's score graph has not (it has "
            f"{', '.join(dict.fromkeys([*wanted, 'grad_scale']))}); {_HINT}"
        )
    _compare(path, "output", outputs, {"energy": Port((None,), "float32"), "grad": wanted["x"]})
    return set(inputs)


def _compare(path: Path, kind: str, ports: Mapping[str, Port], wanted: Mapping[str, Port]) -> None:
    for name, port in wanted.items():
        if name not in ports:
            raise UsageError(f"{path}: the graph has no {kind} {name!r}, it has {', '.join(ports) or 'none'}; {_HINT}")
        found = ports[name]
        if found.dtype != port.dtype:
            raise UsageError(f"{path}: {kind} {name!r} should be {port.dtype}, it is {found.dtype}; {_HINT}")
        sizes = zip(found.shape[1:], port.shape[1:], strict=False)
        if len(found.shape) != len(port.shape) or any(size not in (None, expected) for size, expected in sizes):
            raise UsageError(
                f"{path}: {kind} {name!r} should be {_text(port.shape)}, it is {_text(found.shape)}; the graph is of "
                "another model, or of another shape of x"
            )
        if kind == "input" and found.shape[0] is not None:
            raise UsageError(
                f"{path}: {kind} {name!r} has a fixed batch of {found.shape[0]}; keep the batch dimension symbolic"
            )


def _ports(path: Path, backend: str) -> tuple[dict[str, Port], dict[str, Port]]:
    return _onnx_ports(path) if backend == "onnxruntime" else _openvino_ports(path)


def _onnx_ports(path: Path) -> tuple[dict[str, Port], dict[str, Port]]:
    onnxruntime = import_onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # only its ports are read
    settings.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        text = str(error).strip().splitlines()[0]
        # onnxruntime's quantizer calls the scale of a tensor T "T_scale"; that of "grad" is then the input's name.
        hint = f"; {_TAKEN_NAME}" if "initializer grad_scale" in text else ""
        raise LoadError(f"onnxruntime cannot load {path}: {text}{hint}") from error
    return _named(session.get_inputs()), _named(session.get_outputs())


def _named(ports: list[Any]) -> dict[str, Port]:
    found = {}
    for port in ports:
        sizes = tuple(size if isinstance(size, int) else None for size in port.shape)
        kind = port.type
        found[port.name] = Port(sizes, _DTYPES.get(kind, kind))
    return found


def _openvino_ports(path: Path) -> tuple[dict[str, Port], dict[str, Port]]:
    import openvino

    try:
        model = openvino.Core().read_model(path)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise LoadError(f"OpenVINO cannot read {path}: {lines[-1]}") from error
    sides = []
    for ports in (model.inputs, model.outputs):
        found = {}
        for port in ports:
            sizes = tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())
            kind = port.get_element_type().get_type_name()
            found[port.get_any_name()] = Port(sizes, _DTYPES.get(kind, kind))
        sides.append(found)
    return sides[0], sides[1]


def _text(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('B' if size is None else str(size) for size in shape)}]"
