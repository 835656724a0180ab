"""Runs a TensorRT plan of a score graph on GPU 0.

This has not run on a GPU yet. It is checked by type, and against a stand-in for TensorRT and the CUDA runtime
(tests/runtime/backends/test_tensorrt.py). `ebm-run verify` is the check on a device.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensorrt_library
from ..cuda.kernels import load_kernels
from ..cuda.loop import CudaLoop
from ..device_loop import DeviceLoop
from ..engine import Engine
from ..errors import EbmExportError, LoadError, MissingBackend, UsageError
from ..gpu import gpu_said

__all__ = ["TensorRtEngine", "available"]

_LOG = logging.getLogger("ebm_export")

_CUDA = "cuda"
_CUDA_MISSING = (
    "backend 'tensorrt' needs the package cuda-python beside TensorRT: pip install 'ebm-export[tensorrt]' "
    "or 'ebm-export[tensorrt-rtx]'"
)


def available() -> str | None:
    """None when a plan can be run here, else a sentence that says why not."""
    missing = tensorrt_library.missing_tensorrt()
    if missing is not None:
        return missing
    try:
        cuda = _import_cuda()
    except MissingBackend as error:
        return str(error)
    status, count = cuda.cudaGetDeviceCount()
    if int(status) != 0:
        return f"CUDA finds no GPU: {_text(cuda, status)}"
    return None if count else "CUDA finds no GPU"


class TensorRtEngine(Engine):
    """A plan, its execution context, and buffers for the largest batch that the plan takes. One below its smallest is filled up.

    Device memory for every input and output, and page-locked host memory for the outputs, are allocated once, in
    `open`; a smaller batch uses the front of them. A call copies the inputs to the GPU, runs the plan and copies
    the outputs back, all in one stream, and waits for the end. What `prepare` made is copied at the first call alone.
    """

    backend = "tensorrt"

    def __init__(
        self, path: Path, *, precision: str, threads: int | None = None, options: dict[str, Any] | None = None
    ):
        """Keeps the settings; `open` does the work.

        Args:
            path: a .plan file.
            precision: the name the bundle gives this plan; the plan's own types decide.
            threads: ignored, the work is on the GPU.
            options: `batch`, the (smallest, most frequent, largest) that the plan was built for. It is there for
                whoever builds the plan again; here the plan itself says it. `rebuild`, a function from the LoadError
                of a plan that does not fit this machine to the bytes of one that does; without it that is an error.

        Raises:
            UsageError: an option that this backend does not know.
        """
        unknown = [name for name in options or {} if name not in ("batch", "rebuild")]
        if unknown:
            raise UsageError(
                f"backend 'tensorrt' knows the options 'batch' and 'rebuild'; it got {', '.join(map(repr, unknown))}"
            )
        self._rebuild = (options or {}).get("rebuild")
        self.path = Path(path)
        self.precision = precision
        self.batch = (0, 0)
        """Smallest and largest batch that the plan takes; known once open."""
        self._cuda: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._stream: Any = None
        self._device: dict[str, int] = {}  # address of each input and output on the GPU
        self._pinned: list[int] = []  # addresses of page-locked host memory
        self._host: dict[str, np.ndarray] = {}  # the outputs' host memory, flat, for the largest batch
        self._sizes: dict[str, tuple[int, ...]] = {}  # shapes of inputs and outputs; -1 is the batch
        self._shapes: dict[str, tuple[int, ...]] = {}  # input shapes that the context is set to
        self._sent: dict[str, np.ndarray] = {}  # inputs on the GPU that cannot have changed since
        self._loop: CudaLoop | None = None
        self._loopless = False  # it was tried, and cannot be had
        self._told: set[str] = set()  # reasons for the loop on the host that have been logged

    @property
    def gpu(self) -> str | None:
        """GPU 0."""
        return gpu_said()

    def open(self) -> None:
        """Loads the plan and allocates.

        Raises:
            MissingBackend: TensorRT or cuda-python is not installed.
            LoadError: the plan does not fit this machine.
            EbmExportError: CUDA reports an error, such as no memory left.
        """
        library = tensorrt_library.import_tensorrt()
        self._cuda = _import_cuda()
        if not self.path.is_file():
            raise LoadError(f"there is no plan {self.path}")
        try:
            self._engine = tensorrt_library.load_plan(self.path.read_bytes())
        except LoadError as error:
            if self._rebuild is None:
                raise LoadError(
                    f"{error}: `ebm-run build BUNDLE` builds one here from the ONNX file in the bundle"
                ) from error
            self._engine = tensorrt_library.load_plan(self._rebuild(error))
        try:
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise EbmExportError(f"TensorRT could not make an execution context for {self.path.name}")
            self._stream = self._call("cudaStreamCreate")
            names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
            mode = library.TensorIOMode
            self._inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
            self._outputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
            self._sizes = {name: tuple(map(int, tuple(self._engine.get_tensor_shape(name)))) for name in names}
            # Of the inputs of several steps only some have the batch in front.
            self._led = next(name for name in self._inputs if self._sizes[name][:1] == (-1,))
            smallest, _, largest = self._engine.get_tensor_profile_shape(self._led, 0)
            self.batch = (int(smallest[0]), int(largest[0]))
            self.largest_batch = self.batch[1]
            for name in names:
                dtype = np.dtype(library.nptype(self._engine.get_tensor_dtype(name)))
                size = math.prod(self._shape(name, self.batch[1])) * dtype.itemsize
                self._device[name] = int(self._call("cudaMalloc", size))
                self._context.set_tensor_address(name, self._device[name])
                if name in self._outputs:
                    self._host[name] = self._page_locked(dtype, size)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the GPU's memory. Arrays that `run` returned are gone with it: copy what you keep."""
        if self._loop is not None:
            self._loop.close()
            self._loop = None
        self._host.clear()
        self._shapes.clear()
        self._sent.clear()
        self._context = self._engine = None
        for address in self._device.values():
            self._cuda.cudaFree(address)
        self._device.clear()
        for address in self._pinned:
            self._cuda.cudaFreeHost(address)
        self._pinned.clear()
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)
            self._stream = None

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`. The arrays are views that the next call overwrites.

        Raises:
            UsageError: the batch is larger than what the plan was built for.
        """
        size = inputs[self._led].shape[0]
        if size > self.batch[1]:
            raise UsageError(
                f"{self.path.name} takes batches of up to {self.batch[1]}, not {size}: split the batch, "
                "or export with a wider --batch MIN:OPT:MAX"
            )
        rows = max(size, self.batch[0])
        sent = []  # what is copied from must live until the stream is waited for
        to_device = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        to_host = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        for name in self._inputs:
            array = inputs[name]
            if self._sent.get(name) is array:
                continue
            filled = array if rows == size else self._filled(name, array, rows)
            if self._shapes.get(name) != filled.shape:
                if not self._context.set_input_shape(name, filled.shape):
                    raise UsageError(f"{self.path.name} does not take the shape {filled.shape} for {name!r}")
                self._shapes[name] = filled.shape
                if self._loop is not None:
                    self._loop.forget_graphs()  # they hold what the plan does at the shapes of before
            if array.flags.writeable or name in ("x", "grad_scale"):  # which a loop on the GPU moves in place
                self._sent.pop(name, None)
            else:
                self._sent[name] = array
            sent.append(filled)
            self._call(
                "cudaMemcpyAsync", self._device[name], filled.ctypes.data, filled.nbytes, to_device, self._stream
            )
        self._execute()
        results = {}
        for name in self._outputs:
            shape = self._shape(name, rows)
            results[name] = self._host[name][: math.prod(shape)].reshape(shape)
        for name, array in results.items():
            self._call("cudaMemcpyAsync", array.ctypes.data, self._device[name], array.nbytes, to_host, self._stream)
        self._call("cudaStreamSynchronize", self._stream)
        del sent
        return results if rows == size else {name: self._first(name, array, size) for name, array in results.items()}

    def device_loop(self) -> DeviceLoop | None:
        """The loop of `cuda/loop.py`, made at the first call; None where it cannot be, which is logged once."""
        if self._loop is None and not self._loopless:
            try:
                self._loop = self._make_loop()
            except (MissingBackend, EbmExportError) as error:
                self._loopless = True
                self.stays_on_host(str(error))
        return self._loop

    def stays_on_host(self, why: str) -> None:
        if why not in self._told:
            self._told.add(why)
            _LOG.warning("each step of a chain goes through the host, which costs two copies: %s", why)

    def _make_loop(self) -> CudaLoop:
        capturable = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX has it
        return CudaLoop(
            call=self._call,
            cuda=self._cuda,
            kernels=load_kernels(self._call, self._cuda),
            stream=self._stream,
            addresses=self._device,
            execute=self._execute,
            capturable=lambda: capturable is None or bool(capturable(int(self._stream))),
        )

    def _execute(self) -> None:
        """Puts the plan's work into the stream."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise EbmExportError(f"TensorRT could not run {self.path.name}")

    def _shape(self, name: str, batch: int) -> tuple[int, ...]:
        """The shape of an input or output for a batch."""
        return tuple(batch if size == -1 else size for size in self._sizes[name])

    def _filled(self, name: str, array: np.ndarray, rows: int) -> np.ndarray:
        """An input with so many rows of the batch, the last one as often as it takes; samples do not see one another."""
        if -1 not in self._sizes[name]:
            return array
        axis = self._sizes[name].index(-1)
        return array.take(np.minimum(np.arange(rows), array.shape[axis] - 1), axis=axis)

    def _first(self, name: str, array: np.ndarray, size: int) -> np.ndarray:
        """The first samples of an output."""
        if -1 not in self._sizes[name]:
            return array
        first = (*[slice(None)] * self._sizes[name].index(-1), slice(size))
        return array[first]

    def _page_locked(self, dtype: np.dtype[Any], size: int) -> np.ndarray:
        """An array in host memory that the GPU copies into directly."""
        address = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocDefault))
        self._pinned.append(address)
        memory = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype=dtype)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Calls the CUDA runtime, which returns (error, result) or (error,)."""
        status, *result = getattr(self._cuda, function)(*arguments)
        if int(status) != 0:
            raise EbmExportError(f"{function} failed: {_text(self._cuda, status)}")
        return result[0] if result else None


def _import_cuda() -> Any:
    """The CUDA runtime of cuda-python.

    Raises:
        MissingBackend: it is not installed.
    """
    # Other packages may have put something of theirs under the name cuda.
    if importlib.util.find_spec(_CUDA) is None or importlib.util.find_spec(f"{_CUDA}.bindings") is None:
        raise MissingBackend(_CUDA_MISSING)
    return importlib.import_module(f"{_CUDA}.bindings.runtime")


def _text(cuda: Any, status: Any) -> str:
    text = cuda.cudaGetErrorString(status)[1]
    return text.decode() if isinstance(text, bytes) else str(text)
