"""Samplers without rejection on the GPU around a TensorRT engine.

Position, noise, gradient, scale and the schedules lie in device memory; the host only puts work into a stream. One step is

    langevin, drift-noise:   move (noise and drift) -> engine -> measure
    langevin, noise-drift:   move (noise) -> engine -> measure -> move (drift)
    preconditioned:          stride -> engine -> measure
    underdamped:             glide -> engine -> measure -> kick
    optimize:                descend -> engine -> measure

with the kernels of kernels.cu, and once, where the warm-up of "preconditioned" ends, settle. While the engine works, a second
stream draws the noise of the next step. Up to `GRAPH_STEPS` steps are captured into one CUDA graph that is launched again and
again: it counts the steps itself, in device memory, and reads settings, seed and schedules from there, so that it also serves
later calls with chains of the same number.

Nothing is copied to the host before the end but what is asked for on the way, between two graphs: positions for a file of states,
and everything that chains go on from for a checkpoint. Each graph writes one number into the host's memory, how many chains are
no longer well, and the host looks at it two graphs later, so that the GPU never waits for it. Where the engine's work cannot be
captured, as many steps are put into the stream one by one. What the kernels compute is what
runtime/noise.py, runtime/gradient_scale.py and runtime/samplers do.

This has not run on a GPU yet. The kernels have been compiled for sm_87, sm_90 and sm_110 and have run on a CPU, thread by
thread, under this loop and a stand-in for the CUDA runtime (tests/runtime/cuda).
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..config import SamplerConfig
from ..device_loop import BestOnDevice, DeviceLoop, DeviceState, Handover
from ..errors import EbmExportError
from ..fused_steps import ports, series_of
from ..method import knows_energies, warm_up_steps
from ..ziggurat import ziggurat_tables
from .kernels import Kernels
from .settings import THREADS, Loop, loop_settings

__all__ = ["GRAPH_STEPS", "CudaLoop"]

_LOG = logging.getLogger("ebm_export")

GRAPH_STEPS = 16
"""Most steps in one CUDA graph: launching it costs some 10 us, which are then less than a microsecond for each step."""

_NOISE, _DRIFT = 1, 2  # enum Parts
_MOVE_BLOCKS = 1024  # at most; a thread then takes several numbers


_SERIES = {
    "momentum": "kept",
    "half_step": "step_size",
    "kick": "sigma",
}  # names of `fused_steps.Ports.series` whose field is called otherwise


class _Moves(NamedTuple):
    """The kernels that move a sampler's chains, each with the numbers that it takes after a step's.

    Attributes:
        before: what goes before the engine.
        after: what goes after it; None where nothing does.
        noise: whether there is noise to draw.
    """

    before: tuple[Any, ...]
    after: tuple[Any, ...] | None = None
    noise: bool = True


class _Shape(NamedTuple):
    """What the launches of a step depend on; a graph serves every run with the same."""

    rows: int
    move_blocks: int
    draw_blocks: int
    measure_blocks: int
    moves: _Moves
    steps: int


class CudaLoop(DeviceLoop):
    """See the top of this file.

    Args:
        call: calls a function of the CUDA runtime by its name and raises its errors.
        cuda: `cuda.bindings.runtime`, for its constants.
        kernels: the kernels; closed with the loop.
        stream: the engine's stream.
        addresses: of the engine's x, grad_scale, energy and grad in device memory, all float32.
        execute: puts the engine's work into the stream.
        capturable: whether that work may be captured into a graph.
    """

    def __init__(
        self,
        *,
        call: Callable[..., Any],
        cuda: Any,
        kernels: Kernels,
        stream: Any,
        addresses: Mapping[str, int],
        execute: Callable[[], None],
        capturable: Callable[[], bool],
    ) -> None:
        self._call = call
        self._cuda = cuda
        self._kernels = kernels
        self._stream = stream
        self._addresses = addresses
        self._execute = execute
        self._capturable = capturable
        self._side: Any = None  # the stream that draws
        self._events: dict[str, Any] = {}
        self._memory: dict[str, tuple[int, int]] = {}  # address and size in bytes
        self._told = 0  # address of an int32 in the host's memory that the GPU writes to
        self._graphs: dict[_Shape, Any] = {}  # None in the place of one that could not be had

    def run(self, start: Handover) -> tuple[np.ndarray, np.ndarray]:
        sent = self._send(start)  # what is copied from must live until the stream is waited for, below
        shape = _shape(start, sent[0])
        graph = self._begin(shape, start, sent)
        done, settling = start.done, _settling(start.config)
        replays: list[int] = []
        position, lost = np.empty_like(start.position), np.empty(shape.rows, dtype=np.int32)
        while done < start.config.steps:
            if done == settling:
                self._launch("settle", shape.measure_blocks, self._stream)
            reached = self._run_to(_next_stop(start, done), done, start, shape, graph, replays)
            if reached is None:
                break
            done = reached
            if done == start.config.steps:
                break
            if start.every and done % start.every == 0:
                self._fetch((position, self._addresses["x"]))
                start.look(done, position)
            if start.due():
                state = self._everything(start)
                if start.stop and (state.lost >= 0).any():
                    break
                start.save(done, state)
        self._fetch((position, self._addresses["x"]), (lost, self._memory["lost"][0]))
        del sent
        start.tell(start.config.steps)
        return position, lost

    def run_while(self, start: Handover, energy: np.ndarray, goes_on: Callable[[int, int], bool]) -> BestOnDevice:
        best, best_energy = start.position.copy(), np.where(np.isfinite(energy), energy, np.float32(np.inf))
        sent = self._send(start, best_energy)
        shape = _shape(start, sent[0])._replace(
            steps=1
        )  # the host waits for each step: whoever has a deadline looks at a clock
        graph = self._begin(shape, start, sent)
        lost = np.empty(len(best), dtype=np.int32)
        done, settling = start.done, _settling(start.config)
        while True:
            self._call("cudaEventRecord", self._events["graph0"], self._stream)
            count = self._lost_by("graph0")
            if done == start.config.steps or not goes_on(done, count):
                break
            if done == settling:
                self._launch("settle", shape.measure_blocks, self._stream)
            if graph is None:
                self._steps(shape)
            else:
                self._call("cudaGraphLaunch", graph, self._stream)
            done += 1
        addresses = (self._memory[name][0] for name in ("best", "best_energy", "lost"))
        self._fetch(*zip((best, best_energy, lost), addresses, strict=True))
        del sent
        return BestOnDevice(best, best_energy, done, lost >= 0)

    def forget_graphs(self) -> None:
        """Lets the next run capture anew: the engine was set to other shapes, for which its work is another."""
        for graph in self._graphs.values():
            if graph is not None:
                self._cuda.cudaGraphExecDestroy(graph)
        self._graphs.clear()

    def close(self) -> None:
        """Frees everything on the GPU that is the loop's; safe to call twice."""
        self.forget_graphs()
        for address, _ in self._memory.values():
            self._cuda.cudaFree(address)
        self._memory.clear()
        for event in self._events.values():
            self._cuda.cudaEventDestroy(event)
        self._events.clear()
        if self._told:
            self._cuda.cudaFreeHost(self._told)
            self._told = 0
        if self._side is not None:
            self._cuda.cudaStreamDestroy(self._side)
            self._side = None
        self._kernels.close()

    def _begin(self, shape: _Shape, start: Handover, sent: tuple[Loop, list[Any]]) -> Any:
        """Draws the first step's noise and looks at the start; returns the graph, as `_graph_of` does; `sent` is of `_send`."""
        loop, kept = sent
        if start.answer is not None:  # it comes without a scale, so it is looked at as one whose scale is one
            ones = np.ones(loop.rows, dtype=np.float32)
            plain = Loop.from_buffer_copy(loop)
            plain.scale = self._reserve("ones", ones.nbytes)
            self._copy(plain.scale, ones.ctypes.data, ones.nbytes)
            self._send_loop(plain)
            kept += [ones, plain]
        if shape.moves.noise:
            self._launch("draw", shape.draw_blocks, self._stream, 0)
        self._launch("measure", shape.measure_blocks, self._stream, 0)
        if start.answer is not None:
            self._send_loop(loop)
        # These do nothing: CUDA loads a kernel at its first launch, which it may not do while it captures.
        for name, *numbers in filter(None, (shape.moves.before, shape.moves.after)):
            self._launch(name, 1, self._stream, start.config.steps - start.done, *numbers)
        self._launch("advance", 1, self._stream, 0)
        return self._graph_of(shape)

    def _run_to(
        self, stop: int, done: int, start: Handover, shape: _Shape, graph: Any, replays: list[int]
    ) -> int | None:
        """Puts the steps from one to another into the stream, as far as nobody wants to see the chains before.

        Args:
            stop: the number of steps that are done at the most.
            done: of those that are done before.
            start: what is run.
            shape: of its steps.
            graph: of `shape.steps` of them; None puts as many into the stream one by one.
            replays: steps done after each graph of the run so far, or what stands in for one; those launched here are added.

        Returns:
            How many steps are done then; None where a chain is lost that the run has to stop for.
        """
        while stop - done >= shape.steps:
            event = f"graph{len(replays) % 2}"
            if len(replays) >= 2:
                count = self._lost_by(event)
                start.tell(replays[-2])
                if count and start.stop:
                    return None
            if graph is None:
                self._steps(shape)
            else:
                self._call("cudaGraphLaunch", graph, self._stream)
            self._call("cudaEventRecord", self._events[event], self._stream)
            done += shape.steps
            replays.append(done)
            if start.due():
                return done
        for ahead in range(stop - done):
            self._step(shape, ahead)
        if done < stop < start.config.steps:
            self._launch("advance", 1, self._stream, stop - done)
        return stop

    def _send(self, start: Handover, best_energy: np.ndarray | None = None) -> tuple[Loop, list[Any]]:
        """Copies a run's start and settings to the GPU, and returns what is being copied.

        Args:
            start: the start.
            best_energy: [B] float32 to beat, where the best positions are to be kept.
        """
        if self._side is None:
            self._side = self._call("cudaStreamCreate")
            for name in ("fork", "join", "graph0", "graph1"):
                self._events[name] = self._call("cudaEventCreateWithFlags", self._cuda.cudaEventDisableTiming)
            self._told = int(self._call("cudaHostAlloc", 4, self._cuda.cudaHostAllocMapped))
        config, position = start.config, start.position
        loop = loop_settings(config, len(position), position[0].size)
        loop.seed, loop.stream = start.key
        loop.first_chain = start.chains.start
        loop.step = start.done
        loop.highest_scale = start.highest_scale or 0.0
        loop.position, loop.scale = self._addresses["x"], self._addresses["grad_scale"]
        loop.grad, loop.energy = self._addresses["grad"], self._addresses["energy"]
        for name in ("answer_scale", "factor", "lost"):
            setattr(loop, name, self._reserve(name, 4 * loop.rows))
        loop.told = int(self._call("cudaHostGetDevicePointer", self._told, 0))
        if start.energy_range is not None:
            loop.lowest, loop.highest = start.energy_range
        loop.lost_count = self._reserve("lost_count", 4)
        memsets = [(loop.lost, 0xFF, 4 * loop.rows), (loop.lost_count, 0, 4)]  # -1, and 0
        copies = {**start.carried}
        series = series_of(config, ports(config.sampler, config.order).series)
        if not any(any(numbers.strides) for numbers in series.values()):
            loop.scheduled = 1  # a deadline may cut short a run of a billion steps that are all alike
        for name, numbers in series.items():
            copies[_SERIES.get(name, name)] = np.ascontiguousarray(numbers[: loop.scheduled])
        if _moves(config).noise:
            copies["tables"] = ziggurat_tables()
            loop.noise = self._reserve("noise", position.nbytes)
            memsets.append((loop.noise, 0, position.nbytes))  # a step without noise multiplies what is there by zero
        for address, byte, size in memsets:
            self._call("cudaMemsetAsync", address, byte, size, self._stream)
        if start.free is not None:
            copies["free"] = start.free
        if best_energy is not None:
            copies |= {"best": position, "best_energy": best_energy}
        for name, array in copies.items():
            setattr(loop, name, self._reserve(name, array.nbytes))
            self._copy(getattr(loop, name), array.ctypes.data, array.nbytes)
        self._copy(self._addresses["x"], position.ctypes.data, position.nbytes)
        for name, array in zip(("energy", "grad"), start.answer or (), strict=False):
            self._copy(self._addresses[name], array.ctypes.data, array.nbytes)
        self._send_loop(loop)
        return loop, [position, *copies.values()]

    def _send_loop(self, loop: Loop) -> None:
        size = ctypes.sizeof(loop)
        self._copy(self._reserve("loop", size), ctypes.addressof(loop), size)

    def _everything(self, start: Handover) -> DeviceState:
        """Copies all that the chains go on from, once all work is done."""
        position, rows = start.position, len(start.position)
        state = DeviceState(
            position=np.empty_like(position),
            energy=np.empty(rows, dtype=np.float32),
            grad=np.empty_like(position),
            answer_scale=np.empty(rows, dtype=np.float32),
            scale=np.empty(rows, dtype=np.float32),
            carried={name: np.empty_like(array) for name, array in start.carried.items()},
            lost=np.empty(rows, dtype=np.int32),
        )
        mine = {name: address for name, (address, _) in self._memory.items()}
        self._fetch(
            (state.position, self._addresses["x"]),
            (state.energy, self._addresses["energy"]),
            (state.grad, self._addresses["grad"]),
            (state.answer_scale, mine["answer_scale"]),
            (state.scale, self._addresses["grad_scale"]),
            *((array, mine[name]) for name, array in state.carried.items()),
            (state.lost, mine["lost"]),
        )
        return state

    def _graph_of(self, shape: _Shape) -> Any:
        """A graph of `shape.steps` steps; None where the engine's work cannot be captured."""
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(shape)
        return self._graphs[shape]

    def _capture(self, shape: _Shape) -> Any:
        refused = "TensorRT says that it cannot be captured"
        if self._capturable():
            try:
                self._call(
                    "cudaStreamBeginCapture",
                    self._stream,
                    self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
                )
                try:
                    self._steps(shape)
                except EbmExportError:
                    # It fails as well where that broke the capture, else there is a graph; the first error says why.
                    status, *graph = self._cuda.cudaStreamEndCapture(self._stream)
                    if int(status) == 0:
                        self._cuda.cudaGraphDestroy(*graph)
                    raise
                graph = self._call("cudaStreamEndCapture", self._stream)
                try:
                    return self._call("cudaGraphInstantiate", graph, 0)
                finally:
                    self._cuda.cudaGraphDestroy(graph)
            except EbmExportError as error:
                self._cuda.cudaGetLastError()  # forgets it
                refused = str(error)
        _LOG.warning("steps go to the GPU one by one and not as a CUDA graph: %s", refused)
        return None

    def _steps(self, shape: _Shape) -> None:
        """Puts the steps of one graph into the stream."""
        for ahead in range(shape.steps):
            self._step(shape, ahead)
        self._launch("advance", 1, self._stream, shape.steps)

    def _step(self, shape: _Shape, ahead: int) -> None:
        """Puts one step into the stream; `ahead` is its number after that of the loop."""
        before, after, noise = shape.moves
        self._launch(before[0], shape.move_blocks, self._stream, ahead, *before[1:])
        if noise:
            self._call("cudaEventRecord", self._events["fork"], self._stream)
            self._call("cudaStreamWaitEvent", self._side, self._events["fork"], 0)
            self._launch("draw", shape.draw_blocks, self._side, ahead + 1)
            self._call("cudaEventRecord", self._events["join"], self._side)
        self._execute()
        self._launch("measure", shape.measure_blocks, self._stream, ahead + 1)
        if after is not None:
            self._launch(after[0], shape.move_blocks, self._stream, ahead, *after[1:])
        if noise:
            self._call("cudaStreamWaitEvent", self._stream, self._events["join"], 0)

    def _lost_by(self, event: str) -> int:
        """Waits for an event, and says how many chains were lost by then, or a little later."""
        self._call("cudaEventSynchronize", self._events[event])
        return ctypes.c_int32.from_address(self._told).value

    def _fetch(self, *arrays: tuple[np.ndarray, int]) -> None:
        """Copies into arrays from addresses on the GPU, once all work is done."""
        for array, address in arrays:
            self._copy(array.ctypes.data, address, array.nbytes, to_host=True)
        self._call("cudaStreamSynchronize", self._stream)

    def _launch(self, name: str, blocks: int, stream: Any, *numbers: int) -> None:
        loop = ctypes.c_uint64(self._memory["loop"][0])
        self._kernels.launch(name, blocks, int(stream), loop, *map(ctypes.c_int32, numbers))

    def _copy(self, to: int, source: int, size: int, to_host: bool = False) -> None:
        kinds = self._cuda.cudaMemcpyKind
        kind = kinds.cudaMemcpyDeviceToHost if to_host else kinds.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", to, source, size, kind, self._stream)

    def _reserve(self, name: str, size: int) -> int:
        """Returns the address of at least this many bytes in device memory."""
        address, held = self._memory.get(name, (0, 0))
        if held < size:
            if held:
                del self._memory[name]
                self._call("cudaFree", address)
            address = int(self._call("cudaMalloc", size))
            self._memory[name] = (address, size)
        return address


def _moves(config: SamplerConfig) -> _Moves:
    if config.sampler == "optimize":
        return _Moves(("descend",), noise=False)
    if config.sampler == "underdamped":
        return _Moves(("glide",), ("kick",))
    if config.sampler == "preconditioned":
        return _Moves(("stride",))
    if not knows_energies(config):
        return _Moves(("move", _NOISE), ("move", _DRIFT))
    return _Moves(("move", _NOISE | _DRIFT))


def _settling(config: SamplerConfig) -> int:
    """The number of the step before which what was learned is settled; -1 for none."""
    return (warm_up_steps(config) or -1) if config.sampler == "preconditioned" else -1


def _next_stop(start: Handover, done: int) -> int:
    """The number of steps done when the host next has something to do between two of them; the last of all if it has not."""
    stops = [start.config.steps, _settling(start.config)]
    if start.every:
        stops.append((done // start.every + 1) * start.every)
    return min(stop for stop in stops if stop > done)


def _graph_steps(start: Handover) -> int:
    """Steps in one graph, at most `GRAPH_STEPS` and no more than there are between stops, so that few are left to go one by one."""
    stop, steps = _next_stop(start, start.done), start.config.steps
    stretches = [stop - start.done] if stop == steps else [start.every or steps - stop, stop - start.done]
    longest = min(GRAPH_STEPS, max(stretches))
    if stop == steps:
        return longest
    return min(range(longest, longest // 2, -1), key=lambda count: sum(stretch % count for stretch in stretches))


def _shape(start: Handover, loop: Loop) -> _Shape:
    numbers = loop.rows * loop.size
    first_block, last_block = start.chains.start // loop.block_chains, (start.chains.stop - 1) // loop.block_chains
    return _Shape(
        rows=loop.rows,
        move_blocks=min(-(-numbers // THREADS), _MOVE_BLOCKS),
        draw_blocks=last_block - first_block + 1,
        measure_blocks=-(-loop.rows // (THREADS // loop.lanes)),
        moves=_moves(start.config),
        steps=_graph_steps(start),
    )
