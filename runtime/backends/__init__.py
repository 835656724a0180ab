"""The libraries that run score graphs: one module each, picked by name in `open_engine`."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

from ..arguments import check_choice
from ..engine import Engine
from ..errors import UsageError
from ..known_scales import NOTHING_KNOWN, KnownScales

__all__ = ["BACKENDS", "LOADABLE", "available", "backend_of", "needs_scale", "open_engine"]

BACKENDS = ("tensorrt", "openvino", "onnxruntime")
"""Every backend that reads files, fastest first where several can run here (DESIGN, section 8)."""

LOADABLE = {"tensorrt": ("tensorrt",), "openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx")}
"""The targets whose files each backend can load, the one written for it first."""


def backend_of(target: str) -> str:
    """Returns the backend that runs the files of a target.

    Raises:
        UsageError: there is no such target.
    """
    for backend, targets in LOADABLE.items():
        if target in targets:
            return backend
    raise UsageError(f"no backend runs files of the target {target!r}; the targets are onnx and {', '.join(BACKENDS)}")


def needs_scale(precision: str) -> bool:
    """Whether gradients need the running scale in a precision; see `Engine.needs_scale`.

    Numbers of FP32 and BF16 are as small as float32's at need, so that no gradient has to be scaled into their range.
    """
    return precision not in ("fp32", "bf16")


def available(backend: str) -> str | None:
    """None when a backend can be used here, else a sentence that says why not.

    Raises:
        UsageError: there is no such backend.
    """
    reason: str | None = _module(backend).available()
    return reason


def open_engine(
    backend: str,
    path: Path,
    *,
    precision: str,
    threads: int | None = None,
    options: dict[str, Any] | None = None,
    scales: KnownScales = NOTHING_KNOWN,
) -> Engine:
    """Picks the backend's engine for a file. It loads nothing yet: `with` (or `Engine.open`) does.

    Args:
        backend: one of `BACKENDS`.
        path: the artifact's file.
        precision: the name the bundle gives the artifact.
        threads: threads that one call may use; None leaves it to the library.
        options: what the artifact's manifest entry, or the caller, asks of the backend. An option that the backend
            does not know is refused.
        scales: see `Engine.known_scales`.

    Raises:
        UsageError: there is no such backend, or it does not know an option.
        MissingBackend: on entering the engine, where the library is not installed.
    """
    module = _module(backend)
    if backend == "onnxruntime":
        engine = module.OnnxRuntimeEngine
    elif backend == "openvino":
        engine = module.OpenVinoEngine
    else:
        engine = module.TensorRtEngine
    opened: Engine = engine(Path(path), precision=precision, threads=threads, options=options or {})
    opened.needs_scale, opened.known_scales = needs_scale(precision), scales
    return opened


def _module(backend: str) -> ModuleType:
    """Imports the backend's module of this package, which does not import the library itself."""
    check_choice("backend", backend, BACKENDS)
    return importlib.import_module(f".{backend}", __package__)
