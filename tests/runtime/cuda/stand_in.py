"""A CUDA runtime, a driver and a TensorRT plan that run on host memory.

Work that is put into a stream is done when somebody waits for it, and not before. Streams wait for each other through
events alone, and the caller says which stream goes first where nothing orders them: what gives the same result in
either order waits for all that it has to wait for.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ebm_export.runtime.cuda.kernels import KERNELS

from .emulator import Emulator


class Work(NamedTuple):
    """One entry of a stream; `kind` is do, record or wait."""

    kind: str
    what: Any
    ticket: int = 0


class Graph(NamedTuple):
    streams: dict[int, list[Work]]


class Gpu:
    """Memory, streams, events and graphs, with the names and results of `cuda.bindings.runtime`.

    Attributes:
        log: names of what the host asked for, in order; copies as "to device" and "to host" with their bytes.
        launched: names of kernels and "engine", in the order in which they ran.
        side_first: whether later streams run before earlier ones where nothing orders them.
        fails: function that returns an error, if any.
    """

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread local")
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaHostAllocDefault, cudaHostAllocMapped = 0, 2
    cudaEventDisableTiming = 2

    def __init__(self, *, side_first: bool = False, fails: str = "") -> None:
        self.log: list[str] = []
        self.launched: list[str] = []
        self.side_first = side_first
        self.fails = fails
        self.blocks: dict[int, Any] = {}  # everything that has to be given back
        self.streams: dict[int, list[Work]] = {}
        self.tickets: dict[int, int] = {}  # event -> number of its records asked for
        self.done: dict[int, int] = {}  # event -> number of the last record that has happened
        self.capturing: int | None = None
        self.captured: dict[int, list[Work]] = {}
        self._handles = iter(range(1, 10**6))

    # Memory

    def _allocate(self, size: int) -> tuple[int, int]:
        block = (ctypes.c_uint8 * size)(*[0xAB] * size)  # nobody may rely on zeros
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaMalloc(self, size: int) -> tuple[int, int]:
        self.log.append("cudaMalloc")
        return self._allocate(size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int]:
        return self._allocate(size)

    def cudaFree(self, address: int) -> tuple[int]:
        self.drain()
        del self.blocks[address]
        return (0,)

    cudaFreeHost = cudaFree

    def cudaHostGetDevicePointer(self, address: int, flags: int) -> tuple[int, int]:
        assert flags == 0 and address in self.blocks
        return 0, address

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        self.log.append(f"{kind} {size}")
        self.put(stream, lambda: ctypes.memmove(to, source, size))
        return (0,)

    def cudaMemsetAsync(self, address: int, byte: int, size: int, stream: int) -> tuple[int]:
        self.put(stream, lambda: ctypes.memset(address, byte, size))
        return (0,)

    # Streams and events

    def cudaStreamCreate(self) -> tuple[int, int]:
        stream = next(self._handles)
        self.streams[stream] = []
        self.blocks[stream] = "a stream"
        return 0, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[int]:
        self.drain()
        del self.streams[stream], self.blocks[stream]
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert self.capturing is None
        self.log.append("synchronize")
        self.drain()
        return (0,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[int, int]:
        event = next(self._handles)
        self.tickets[event] = 0
        self.blocks[event] = "an event"
        return 0, event

    def cudaEventDestroy(self, event: int) -> tuple[int]:
        del self.blocks[event]
        return (0,)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[int]:
        self.tickets[event] += 1
        self._add(stream, Work("record", event, self.tickets[event]))
        return (0,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[int]:
        if self.capturing is not None and any(
            Work("record", event, self.tickets[event]) in works for works in self.captured.values()
        ):
            self.captured.setdefault(stream, [])  # the waiting stream joins the capture
        self._add(stream, Work("wait", event, self.tickets[event]))
        return (0,)

    def cudaEventSynchronize(self, event: int) -> tuple[int]:
        self.log.append("wait for event")
        self.drain()
        return (0,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[int]:
        assert mode == "thread local" and self.capturing is None
        self.log.append("begin capture")
        self.capturing, self.captured = stream, {stream: []}
        return (0,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int | None]:
        assert stream == self.capturing
        self.log.append("end capture")
        self.capturing = None
        if self.fails == "cudaStreamEndCapture":
            return 901, None
        main = self.captured[stream]
        for other, works in self.captured.items():
            joined = works and works[-1].kind == "record" and works[-1]._replace(kind="wait") in main
            if other != stream and not joined:
                return 904, None  # cudaErrorStreamCaptureUnjoined
        handle = next(self._handles)
        self.blocks[handle] = Graph(self.captured)
        return 0, handle

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int, int]:
        self.log.append("instantiate")
        handle = next(self._handles)
        self.blocks[handle] = self.blocks[graph]
        return 0, handle

    def cudaGraphDestroy(self, graph: int) -> tuple[int]:
        del self.blocks[graph]
        return (0,)

    def cudaGraphExecDestroy(self, handle: int) -> tuple[int]:
        self.drain()
        del self.blocks[handle]
        return (0,)

    def cudaGraphLaunch(self, handle: int, stream: int) -> tuple[int]:
        self.log.append("graph")
        graph = self.blocks[handle]

        # A graph's events are its own: what was recorded outside, or in an earlier replay, counts for nothing.
        self.put(stream, lambda: self._run({name: list(works) for name, works in graph.streams.items()}, {}))
        return (0,)

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, f"error {status} in words".encode()

    def cudaSetDevice(self, device: int) -> tuple[int]:
        self.log.append(f"device {device}")
        return (0,)

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[int, int]:
        return 0, {"major": 8, "minor": 7}[attribute]

    # What happens behind the calls

    def put(self, stream: int, what: Callable[[], Any]) -> None:
        self._add(stream, Work("do", what))

    def _add(self, stream: int, work: Work) -> None:
        if self.capturing is not None and stream in self.captured:
            self.captured[stream].append(work)
        else:
            assert stream != self.capturing
            self.streams[stream].append(work)

    def drain(self) -> None:
        self._run(self.streams, self.done)

    def _run(self, streams: dict[int, list[Work]], done: dict[int, int]) -> None:
        while any(streams.values()):
            ready = [
                works
                for _, works in sorted(streams.items(), reverse=self.side_first)
                if works and (works[0].kind != "wait" or done.get(works[0].what, 0) >= works[0].ticket)
            ]
            assert ready, "streams wait for each other"
            work = ready[0].pop(0)
            if work.kind == "do":
                work.what()
            elif work.kind == "record":
                done[work.what] = work.ticket


class Driver:
    """The calls of `cuda.bindings.driver` that launch kernels; they run in the emulator."""

    NUMBERS: dict[str, int] = dict.fromkeys(KERNELS, 1) | {"move": 2, "settle": 0}

    def __init__(self, gpu: Gpu, emulator: Emulator, fails: str = "") -> None:
        self.gpu, self.emulator, self.fails = gpu, emulator, fails

    def CUstream(self, handle: int) -> int:
        return handle

    def cuModuleLoadData(self, cubin: bytes) -> tuple[int, str | None]:
        if self.fails == "cuModuleLoadData":
            return 209, None
        self.gpu.blocks[-1] = cubin
        return 0, "the module"

    def cuModuleUnload(self, module: str) -> tuple[int]:
        del self.gpu.blocks[-1]
        return (0,)

    def cuModuleGetFunction(self, module: str, name: bytes) -> tuple[int, str]:
        return 0, name.decode()

    def cuGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, f"driver error {status} in words".encode()

    def cuLaunchKernel(
        self, function: str, *rest: int
    ) -> tuple[int]:  # grid, block, shared memory, stream, addresses of the arguments, extra
        blocks, grid_y, grid_z, threads, block_y, block_z, shared, stream, parameters, extra = rest
        assert (grid_y, grid_z, block_y, block_z, shared, extra) == (1, 1, 1, 1, 0, 0)
        assert blocks > 0
        count = self.NUMBERS[function]
        addresses = (ctypes.c_void_p * (1 + count)).from_address(parameters)
        loop = ctypes.c_uint64.from_address(addresses[0]).value
        numbers = [ctypes.c_int32.from_address(addresses[1 + index]).value for index in range(count)]

        def work() -> None:
            self.gpu.launched.append(function)
            self.emulator.launch(function, blocks, loop, *numbers, threads=threads)

        self.gpu.put(stream, work)
        return (0,)


Energy = Callable[..., tuple[np.ndarray, np.ndarray]]
"""x [B, *S], conditions -> energy [B], dE/dx [B, *S]"""


class Plan:
    """A plan of a numpy energy, and its context; see `TensorRtEngine` for what is called.

    Args:
        gpu: where it runs.
        energy: what it computes.
        shapes: of one sample, of each input: x, and the conditions.
        capturable: what the context says of it; None where it has nothing to say, as in TensorRT without RTX.
        refuses_capture: whether it fails when it is captured.
    """

    def __init__(
        self,
        gpu: Gpu,
        energy: Energy,
        shapes: dict[str, tuple[int, ...]],
        *,
        smallest: int = 1,
        largest: int = 64,
        capturable: bool | None = None,
        refuses_capture: bool = False,
    ) -> None:
        self.gpu, self.energy, self.refuses_capture = gpu, energy, refuses_capture
        self.smallest, self.largest = smallest, largest
        self.shapes = {**shapes, "grad_scale": (), "energy": (), "grad": shapes["x"]}
        self.conditions = [name for name in shapes if name != "x"]
        self.num_io_tensors = len(self.shapes)
        self.addresses: dict[str, int] = {}
        self.rows = 0
        if capturable is not None:
            self.is_stream_capturable = lambda stream: capturable

    def create_execution_context(self) -> Plan:
        return self

    def get_tensor_name(self, index: int) -> str:
        return list(self.shapes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name in ("energy", "grad") else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *self.shapes[name])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(size, *self.shapes[name]) for size in (self.smallest, self.largest, self.largest)]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.rows = shape[0]
        return shape[1:] == self.shapes[name] and self.smallest <= self.rows <= self.largest

    def _view(self, name: str, rows: int) -> np.ndarray:
        shape = (rows, *self.shapes[name])
        return np.ctypeslib.as_array((ctypes.c_float * int(np.prod(shape))).from_address(self.addresses[name])).reshape(
            shape
        )

    def execute_async_v3(self, stream: int) -> bool:
        if self.refuses_capture and self.gpu.capturing is not None:
            return False
        rows = self.rows

        def work() -> None:
            self.gpu.launched.append("engine")
            x, scale = self._view("x", rows), self._view("grad_scale", rows)
            with np.errstate(all="ignore"):
                energy, grad = self.energy(x, *(self._view(name, rows) for name in self.conditions))
                self._view("energy", rows)[:] = energy
                self._view("grad", rows)[:] = grad * scale.reshape(-1, *[1] * (x.ndim - 1))

        self.gpu.put(stream, work)
        return True


@contextmanager
def nothing_left(gpu: Gpu) -> Iterator[None]:
    """Checks that all memory, streams, events and graphs were given back."""
    yield
    assert not gpu.blocks
