"""cuda-python takes the arguments that it is called with.

Without a GPU its functions convert their arguments, which is where a wrong one is refused, and then find no driver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cuda.bindings import driver, runtime

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends import tensorrt
from ebm_export.runtime.cuda.kernels import Kernels
from ebm_export.runtime.cuda.loop import GRAPH_STEPS

from . import conftest
from .bench import Open
from .emulator import Emulator
from .stand_in import Driver, Gpu

pytestmark = pytest.mark.skipif(
    int(runtime.cudaGetDeviceCount()[0]) == 0, reason="with a GPU the calls would reach it; test_gpu.py makes them"
)

NO_DRIVER = 35  # cudaErrorInsufficientDriver
NEEDS_NO_DRIVER = ("cudaGetErrorString",)

HANDLES: dict[str, Callable[[int], Any]] = {
    "cudaStreamCreate": runtime.cudaStream_t,
    "cudaEventCreateWithFlags": runtime.cudaEvent_t,
    "cudaStreamEndCapture": runtime.cudaGraph_t,
    "cudaGraphInstantiate": runtime.cudaGraphExec_t,
    "cuModuleLoadData": lambda name: driver.CUmodule(1),
    "cuModuleGetFunction": lambda name: driver.CUfunction(1 + list(Driver.NUMBERS).index(name)),
}
ENUMS = {
    "cudaMemcpyHostToDevice": "to device",
    "cudaMemcpyDeviceToHost": "to host",
    "cudaStreamCaptureModeThreadLocal": "thread local",
}


def untyped(argument: Any) -> Any:
    """What a stand-in takes for an argument of cuda-python."""
    if isinstance(argument, driver.CUfunction):
        return list(Driver.NUMBERS)[int(argument) - 1]
    if getattr(argument, "name", None) in ENUMS:
        return ENUMS[argument.name]
    return argument if isinstance(argument, int | bytes) else int(argument)


class Typed:
    """A stand-in that is called as cuda-python is, and asks cuda-python about every call."""

    def __init__(self, real: Any, stand_in: Any) -> None:
        self.real, self.stand_in = real, stand_in
        self.seen: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        real = getattr(self.real, name)
        if isinstance(real, type) or not callable(real):  # enumerations, constants, types of handles
            return real

        def call(*arguments: Any) -> Any:
            self.seen.add(name)
            try:
                status, *_ = real(*arguments)
                assert int(status) == NO_DRIVER or name in NEEDS_NO_DRIVER
            except RuntimeError as error:  # the driver's own functions look for its library
                assert "NVIDIA display driver" in str(error)
            status, *result = getattr(self.stand_in, name)(*map(untyped, arguments))
            if name in HANDLES and result[0] is not None:
                return status, HANDLES[name](result[0])
            return status, *result

        return call


@pytest.mark.parametrize(
    "settings",
    [{}, {"order": "noise-drift"}, {"sampler": "optimize"}, {"sampler": "underdamped"}, {"sampler": "preconditioned"}],
    ids=str,
)
def test_every_call(
    opened: Open, emulator: Emulator, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str]
) -> None:
    typed: list[Typed] = []

    def gpu(**options: Any) -> Gpu:
        made = Gpu(**options)
        typed.append(Typed(runtime, made))
        return made

    def load_kernels(call: Any, cuda: Any) -> Kernels:
        typed.append(Typed(driver, Driver(typed[0].stand_in, emulator)))
        return Kernels(typed[1], b"cubin")

    monkeypatch.setattr(conftest, "Gpu", gpu)
    config = SamplerConfig.from_dict({"steps": 4 * GRAPH_STEPS, "step_size": 0.02, **settings})
    with opened(config=config) as bench:
        monkeypatch.setattr(tensorrt, "_import_cuda", lambda: typed[0])
        monkeypatch.setattr(tensorrt, "load_kernels", load_kernels)
        bench.ebm.engine.close()
        bench.ebm.engine.open()
        bench.ebm.sample(3, seed=1)
        if "order" not in settings:
            bench.ebm.sample(3, seed=1, deadline_ms=1e6)
        assert "graph" in bench.gpu.log
    called = typed[0].seen | typed[1].seen
    assert {"cudaGraphInstantiate", "cudaEventSynchronize", "cudaMemsetAsync"} <= called
    assert ("cudaStreamWaitEvent" in called) == (bench.ebm.sampler.sampler != "optimize")  # for the stream that draws
    assert {"cudaHostGetDevicePointer", "cudaGraphExecDestroy"} <= called
    assert {"cuModuleLoadData", "cuModuleGetFunction", "cuLaunchKernel", "cuModuleUnload"} <= called


def test_what_fails_is_refused() -> None:
    with pytest.raises(TypeError):
        Typed(runtime, Gpu()).cudaMemsetAsync("an address", 0, 4, runtime.cudaStream_t(0))
