"""Runs a score graph with onnxruntime, on the CPU or through CUDA."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..device import own_threads, usable_cores
from ..engine import Engine
from ..errors import EbmExportError, LoadError, MissingBackend, UsageError
from ..gpu import gpu_said
from ..onnxruntime_library import import_onnxruntime
from .onnx_outputs import without_outputs

__all__ = ["OnnxRuntimeEngine", "available"]

_CPU = "CPUExecutionProvider"
_CUDA = "CUDAExecutionProvider"
_NVIDIA = (_CUDA, "TensorrtExecutionProvider")
_MOVES_TRANSPOSES = ("TransposeOptimizer", "TransposeOptimizer_CPUExecutionProvider")
"""What moves a Transpose past reductions, whose axes come to lie right behind the batch: then a sample by itself is added up in another
order (`exporter/passes/sums.py`). Those that cancel are gone from a graph that was exported."""
_OWN_OPTIONS = {_CUDA: {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}}
"""Options of providers where the caller gives none. CUDA's own defaults round the operands of float32 products to 10 bits of mantissa, and
pick the kernels of convolutions by their time, so that the same run need not have the same bits again."""
_DTYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
_FATAL_ONLY = 4
"""onnxruntime's log severity: its warnings about node placement mean nothing to a caller, and its errors are raised as well, of which
one is expected where fused steps share 8-bit weights."""
_LOG = logging.getLogger("ebm_export")


def available() -> str | None:
    """None when onnxruntime can be used here, else a sentence that says why not."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is not installed: pip install onnxruntime"
    return None


_COPIED_BYTES = 2**16
"""Largest input that is copied into memory bound once; binding another array takes 0.5 us, as long as copying so much."""


class OnnxRuntimeEngine(Engine):
    """A session over one ONNX file.

    On the CPU, inputs and outputs of one batch size are bound to memory once, at its second call, and later calls allocate
    nothing: a 2-d energy's took 10.1 us and takes 7.5.

    Which provider runs it: the ones in the option `providers`, or else CUDA where it works, or else the CPU. That CUDA
    works is found by running the graph once on zeros, since onnxruntime's own list of providers says what it was
    compiled with and not what the machine has. A provider asked for by name that does not work is an error, where
    onnxruntime itself would carry on with the CPU.
    """

    backend = "onnxruntime"

    def __init__(
        self, path: Path, *, precision: str, threads: int | None = None, options: dict[str, Any] | None = None
    ):
        """Keeps the settings; `open` does the work.

        Args:
            path: an .onnx file.
            precision: the name the bundle gives this artifact; the arithmetic is set by the graph's own types.
            threads: threads that one call may use on the CPU; None for one per physical core, or where this process may not use
                all CPUs one for each that it may.
            options: `providers`, a list as `onnxruntime.InferenceSession` takes it (names, or pairs of a name and a
                dict of the provider's options). Of options that it does not give, CUDA's `use_tf32` is "0" and
                `cudnn_conv_algo_search` "HEURISTIC". `leave_out`: names of outputs that nobody asks for; what only they need
                is not computed.

        Raises:
            UsageError: an option that this backend does not know.
        """
        options = dict(options or {})
        self._wanted: list[Any] | None = options.pop("providers", None)
        self._left_out = tuple(options.pop("leave_out", ()))
        if options:
            raise UsageError(
                f"backend 'onnxruntime' knows the options 'providers' and 'leave_out'; it got {', '.join(map(repr, options))}"
            )
        self.path = Path(path)
        self.precision = precision
        self.threads = threads
        self.cpu_threads = threads or own_threads("onnxruntime")
        self.provider = ""
        """Name of the provider that runs the graph; known once open."""
        self._session: Any = None
        self._bound: _Bound | None = None
        self._seen: tuple[tuple[int, ...], ...] = ()  # the shapes of the last call that was not bound

    @property
    def gpu(self) -> str | None:
        """The one that CUDA runs the graph on; known once open."""
        if self.provider not in _NVIDIA:
            return None
        return gpu_said(int(self._session.get_provider_options()[self.provider].get("device_id", 0)))

    def open(self) -> None:
        """Loads the graph and optimises it.

        Raises:
            MissingBackend: onnxruntime is not installed, or a provider asked for does not work here.
            LoadError: the file is no graph that onnxruntime can run.
        """
        onnxruntime = import_onnxruntime()
        if self._wanted is not None:
            self._session = self._checked_session(onnxruntime, self._wanted)
        elif _CUDA in onnxruntime.get_available_providers():
            try:
                self._session = self._checked_session(onnxruntime, [_CUDA, _CPU])
            except (MissingBackend, LoadError) as error:
                _LOG.info("onnxruntime runs on the CPU: %s", error)
                self._session = self._make_session(onnxruntime, [_CPU])
        else:
            self._session = self._make_session(onnxruntime, [_CPU])
        self.provider = self._session.get_providers()[0]
        if self.provider != _CPU:
            self.cpu_threads = None
        self._inputs = [port.name for port in self._session.get_inputs()]
        self._outputs = [port.name for port in self._session.get_outputs()]

    def close(self) -> None:
        """Frees the session; arrays that `run` returned stay valid."""
        self._bound = None
        self._session = None

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`. The next call may overwrite the arrays.

        Raises:
            EbmExportError: a node cannot be computed, an index that is out of range for one.
        """
        if self._session is None:
            raise RuntimeError("the engine is not open: call it inside a with statement")
        shapes = tuple([inputs[name].shape for name in self._inputs])
        try:
            if self._bound is not None and self._bound.shapes == shapes:
                return self._bound.run(inputs)
            values = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        except _failures() as error:
            raise EbmExportError(f"onnxruntime cannot run {self.path.name}: {_first_line(error)}") from error
        answer = dict(zip(self._outputs, values, strict=True))
        if self._seen == shapes and self.provider == _CPU:  # once may be the last time: a score asks twice at one size
            self._bound = _Bound(self._session, shapes, {name: inputs[name] for name in self._inputs}, answer)
        self._seen = shapes
        return answer

    def _make_session(self, onnxruntime: Any, providers: list[Any]) -> Any:
        providers = [_with_own_options(provider) for provider in providers]
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        settings.inter_op_num_threads = 1
        settings.intra_op_num_threads = self.threads or _threads()
        settings.log_severity_level = _FATAL_ONLY
        # On x86 without VNNI its kernels for unsigned by signed bytes overflow, and are left for slower ones only if asked.
        settings.add_session_config_entry("session.x64quantprecision", "1")
        if not self.path.is_file():
            raise LoadError(f"there is no ONNX file {self.path}")
        source: Path | bytes = self.path
        if self._left_out:
            try:
                source = without_outputs(self.path.read_bytes(), self._left_out)
            except ValueError as error:
                raise LoadError(f"onnxruntime cannot load {self.path.name}: {error}") from error
        more = {"disabled_optimizers": _MOVES_TRANSPOSES} if providers == [_CPU] else {}
        try:
            return onnxruntime.InferenceSession(source, settings, providers=providers, **more)
        except _failures() as error:
            # Where layers share 8-bit weights, as fused steps do, onnxruntime 1.32 fails with that setting. Then it computes on the
            # 8-bit numbers in float32, which is right everywhere.
            settings.add_session_config_entry("session.disable_quant_qdq", "1")
            with contextlib.suppress(*_failures()):
                return onnxruntime.InferenceSession(source, settings, providers=providers, **more)
            raise LoadError(f"onnxruntime cannot load {self.path.name}: {_first_line(error)}") from error

    def _checked_session(self, onnxruntime: Any, providers: list[Any]) -> Any:
        """Makes a session and runs it once; the first provider must be the one that is used."""
        name = providers[0] if isinstance(providers[0], str) else providers[0][0]
        compiled_in = onnxruntime.get_available_providers()
        if name not in compiled_in:
            raise MissingBackend(
                f"backend 'onnxruntime' has no {name} in this installation, which offers {', '.join(compiled_in)}: "
                "install the build of onnxruntime that has it (onnxruntime-gpu for CUDA)"
            )
        session = self._make_session(onnxruntime, providers)
        if session.get_providers()[0] != name:
            raise MissingBackend(f"backend 'onnxruntime' could not start {name} on this machine")
        try:
            session.run(None, {port.name: _zeros(port) for port in session.get_inputs()})
        except _failures() as error:
            raise MissingBackend(f"{name} cannot run {self.path.name} here: {_first_line(error)}") from error
        return session


class _Bound:
    """A session's inputs and outputs of one batch size, in memory that onnxruntime knows the place of.

    Args:
        session: the session.
        shapes: of the inputs.
        inputs: arrays as they come, by name.
        answer: what the session gave for them. These arrays are what every call writes into from now on, so that shapes and types
            need not be worked out from the graph, which may leave them open.

    Attributes:
        shapes: of the inputs.
    """

    def __init__(
        self,
        session: Any,
        shapes: tuple[tuple[int, ...], ...],
        inputs: dict[str, np.ndarray],
        answer: dict[str, np.ndarray],
    ) -> None:
        self.shapes = shapes
        self._session = session
        self._binding = session.io_binding()
        self._answer = {name: np.ascontiguousarray(array) for name, array in answer.items()}
        self._copied = {name: array.copy() for name, array in inputs.items() if array.nbytes <= _COPIED_BYTES}
        self._given = [name for name in inputs if name not in self._copied]
        for name, array in self._copied.items():
            self._binding.bind_cpu_input(name, array)
        for name, array in self._answer.items():
            self._binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for name, array in self._copied.items():
            np.copyto(array, inputs[name])
        for name in self._given:
            self._binding.bind_cpu_input(name, inputs[name])
        self._session.run_with_iobinding(self._binding)
        return dict(self._answer)


def _threads() -> int:
    """For onnxruntime where nobody says how many; 0 lets it start one per physical core, which it binds to this core, allowed or not."""
    usable = usable_cores()
    return 0 if usable == os.cpu_count() else usable


def _with_own_options(provider: Any) -> Any:
    """The same provider, a name or a pair of a name and options, with ours where it has none."""
    name, options = (provider, {}) if isinstance(provider, str) else provider
    return (name, {**_OWN_OPTIONS[name], **options}) if name in _OWN_OPTIONS else provider


def _zeros(port: Any) -> np.ndarray:
    """An input of zeros for a batch of one; symbolic sizes become 1."""
    return np.zeros([size if isinstance(size, int) else 1 for size in port.shape], dtype=_DTYPES[port.type])


def _failures() -> tuple[type[Exception], ...]:
    """The exceptions of onnxruntime, which have no common base of their own."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = (value for value in vars(state).values() if isinstance(value, type) and issubclass(value, Exception))
    return (*own, RuntimeError)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
