"""The TensorRT engine against a stand-in: host memory for the GPU, a numpy function for the plan.

It shows that addresses, sizes, shapes and the order of the calls fit together. That a plan runs, only a GPU can show.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import tensorrt_library
from ebm_export.runtime.backends import tensorrt
from ebm_export.runtime.backends.tensorrt import TensorRtEngine, available
from ebm_export.runtime.engine import read_only
from ebm_export.runtime.errors import EbmExportError, LoadError, MissingBackend, UsageError

SHAPES = {"x": (-1, 3), "grad_scale": (-1,), "energy": (-1,), "grad": (-1, 3)}
SMALLEST, LARGEST = 2, 4


class Cuda:
    """The calls of the CUDA runtime that the engine makes, on host memory, all of them written down."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="to device", cudaMemcpyDeviceToHost="to host")
    cudaHostAllocDefault = 0

    def __init__(self, *, fails: str = "", devices: tuple[int, int | None] = (0, 1)) -> None:
        self.fails, self.devices = fails, devices
        self.blocks: dict[int, Any] = {}
        self.calls: list[str] = []

    def _allocate(self, name: str, size: int) -> tuple[int, int | None]:
        self.calls.append(name)
        if self.fails == name:
            return 2, None
        block = (ctypes.c_byte * size)()
        self.blocks[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def _release(self, address: int) -> tuple[int]:
        del self.blocks[address]
        return (0,)

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        return self._allocate("cudaMalloc", size)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int | None]:
        assert flags == self.cudaHostAllocDefault
        return self._allocate("cudaHostAlloc", size)

    cudaFree = cudaFreeHost = _release

    def cudaStreamCreate(self) -> tuple[int, int]:
        self.blocks[7] = "the stream"
        return 0, 7

    cudaStreamDestroy = _release

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[int]:
        assert stream == 7
        device = to if kind == "to device" else source
        assert size <= len(self.blocks[device])
        ctypes.memmove(to, source, size)
        self.calls.append(kind)
        return (0,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[int]:
        assert stream == 7
        self.calls.append("synchronize")
        return (0,)

    def cudaGetDeviceCount(self) -> tuple[int, int | None]:
        return self.devices

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, f"error {status} in words".encode()


class Context:
    """Runs E = |x|^2 / 2 on the memory behind the addresses."""

    def __init__(self, sizes: dict[str, tuple[int, ...]]) -> None:
        self.sizes = sizes
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.shape_calls = 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape_calls += 1
        self.shapes[name] = shape
        return all(own in (-1, size) for own, size in zip(self.sizes[name], shape, strict=True))

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        return np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name])).reshape(shape)

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == 7
        x, scale = self._view("x", self.shapes["x"]), self._view("grad_scale", self.shapes["grad_scale"])
        self._view("energy", (len(x),))[:] = (x**2).sum(1) / 2
        self._view("grad", x.shape)[:] = scale[:, None] * x
        return True


class Plan:
    """The part of ICudaEngine that the engine asks."""

    def __init__(self, sizes: dict[str, tuple[int, ...]] = SHAPES) -> None:
        self.sizes = sizes
        self.num_io_tensors = len(sizes)
        self.context = Context(sizes)

    def create_execution_context(self) -> Context:
        return self.context

    def get_tensor_name(self, index: int) -> str:
        return list(self.sizes)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in ("noise", "step", "x", "grad_scale") else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "float"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.sizes[name]

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert profile == 0
        return [tuple(size if own == -1 else own for own in self.sizes[name]) for size in (SMALLEST, 3, LARGEST)]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> Plan:
    made = Plan()
    library = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"), nptype=lambda dtype: np.float32)
    monkeypatch.setattr(tensorrt_library, "import_tensorrt", lambda: library)
    monkeypatch.setattr(tensorrt_library, "load_plan", lambda data: made)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "score.fp16.tensorrt.plan").write_bytes(b"plan")
    return tmp_path / "score.fp16.tensorrt.plan"


def use(monkeypatch: pytest.MonkeyPatch, cuda: Cuda) -> Cuda:
    monkeypatch.setattr(tensorrt, "_import_cuda", lambda: cuda)
    return cuda


def batch_of(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    return {
        "x": rng.standard_normal((size, 3)).astype(np.float32),
        "grad_scale": rng.uniform(1, 2, size).astype(np.float32),
    }


class TwoSteps(Context):
    """Adds noise twice, and gives the energies of both steps."""

    def execute_async_v3(self, stream: int) -> bool:
        x, noise = self._view("x", self.shapes["x"]).copy(), self._view("noise", self.shapes["noise"])
        steps = self._view("step", (2,))
        energies = self._view("energies", (2, len(x)))
        for index in range(2):
            x += steps[index] * noise[index]
            energies[index] = (x**2).sum(1) / 2
        self._view("next", x.shape)[:] = x
        return True


class TestSeveralSteps:
    def test_batch_is_not_always_in_front(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = {"noise": (2, -1, 3), "step": (2,), "x": (-1, 3), "energies": (2, -1), "next": (-1, 3)}
        made = Plan(sizes)
        made.context = TwoSteps(sizes)
        monkeypatch.setattr(tensorrt_library, "load_plan", lambda data: made)
        cuda = use(monkeypatch, Cuda())
        random = np.random.default_rng(0)
        with TensorRtEngine(path, precision="fp16") as engine:
            assert engine.batch == (SMALLEST, LARGEST)
            for size in (3, 4, 2, 1):
                x, noise = (random.standard_normal(shape, dtype=np.float32) for shape in ((size, 3), (2, size, 3)))
                answer = engine.run({"x": x, "noise": noise, "step": np.array([1, 2], np.float32)})
                first = x + noise[0]
                last = first + 2 * noise[1]
                expected = np.stack([(first**2).sum(1), (last**2).sum(1)]) / 2
                np.testing.assert_allclose(answer["energies"], expected, rtol=1e-5)
                np.testing.assert_allclose(answer["next"], last, rtol=1e-6)
        assert not cuda.blocks


class TestRun:
    def test_every_batch_of_the_profile(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = use(monkeypatch, Cuda())
        with TensorRtEngine(path, precision="fp16") as engine:
            assert engine.batch == (SMALLEST, LARGEST)
            for size in (3, 4, 2, 4):
                inputs = batch_of(size)
                result = engine.run(inputs)
                np.testing.assert_allclose(result["energy"], (inputs["x"] ** 2).sum(1) / 2, rtol=1e-6)
                np.testing.assert_array_equal(result["grad"], inputs["grad_scale"][:, None] * inputs["x"])
            # Four inputs and outputs on the GPU, two of them on the host as well, whatever the batches were.
            assert (cuda.calls.count("cudaMalloc"), cuda.calls.count("cudaHostAlloc")) == (4, 2)
            assert cuda.calls[-5:] == ["to device", "to device", "to host", "to host", "synchronize"]
        assert not cuda.blocks

    def test_shapes_are_set_when_they_change(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        with TensorRtEngine(path, precision="fp16") as engine:
            for _ in range(3):
                engine.run(batch_of(2))
        assert plan.context.shape_calls == 2

    def test_x_is_sent_again_even_where_it_cannot_have_changed(
        self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A loop on the GPU moves the copy there. Conditions are sent once, which the tests of that loop count."""
        cuda = use(monkeypatch, Cuda())
        frozen = {name: read_only(array) for name, array in batch_of(2).items()}
        with TensorRtEngine(path, precision="fp16") as engine:
            for _ in range(3):
                cuda.calls.clear()
                result = engine.run(frozen)
                assert cuda.calls.count("to device") == 2
                np.testing.assert_allclose(result["energy"], (frozen["x"] ** 2).sum(1) / 2, rtol=1e-6)

    def test_a_batch_above_the_profile(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        with (
            TensorRtEngine(path, precision="fp16") as engine,
            pytest.raises(UsageError, match=r"takes batches of up to 4, not 5: .* --batch MIN:OPT:MAX"),
        ):
            assert engine.largest_batch == 4
            engine.run(batch_of(5))

    def test_one_below_it_is_filled_up(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        with TensorRtEngine(path, precision="fp16") as engine:
            for size in (1, 3, 1):
                inputs = batch_of(size)
                result = engine.run(inputs)
                assert plan.context.shapes["x"] == (max(size, SMALLEST), 3)
                assert (result["energy"].shape, result["grad"].shape) == ((size,), (size, 3))
                np.testing.assert_allclose(result["energy"], (inputs["x"] ** 2).sum(1) / 2, rtol=1e-6)
                np.testing.assert_array_equal(result["grad"], inputs["grad_scale"][:, None] * inputs["x"])


class TestPlansOfAnotherMachine:
    """The library refuses every plan but the one that is built here."""

    @pytest.fixture
    def refusing(self, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Plan:
        def load_plan(data: bytes) -> Plan:
            if data != b"built here":
                raise LoadError("TensorRT 10.3 cannot load the plan: wrong version. A plan runs with ..")
            return plan

        monkeypatch.setattr(tensorrt_library, "load_plan", load_plan)
        return plan

    def test_built_again(self, refusing: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        causes: list[str] = []

        def rebuild(cause: LoadError) -> bytes:
            causes.append(str(cause))
            return b"built here"

        with TensorRtEngine(path, precision="fp16", options={"rebuild": rebuild}) as engine:
            inputs = batch_of(3)
            np.testing.assert_allclose(
                engine.run(inputs)["grad"], inputs["grad_scale"][:, None] * inputs["x"], rtol=1e-6
            )
        assert len(causes) == 1 and "wrong version" in causes[0]

    def test_without_a_bundle_to_build_it_from(
        self, refusing: Plan, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        use(monkeypatch, Cuda())
        with pytest.raises(LoadError, match="wrong version.*`ebm-run build BUNDLE` builds one here"):
            TensorRtEngine(path, precision="fp16").open()

    def test_a_plan_that_fits_is_left_alone(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        with TensorRtEngine(path, precision="fp16", options={"rebuild": lambda cause: pytest.fail("built again")}):
            pass


class TestErrors:
    @pytest.mark.parametrize("call", ["cudaMalloc", "cudaHostAlloc"])
    def test_no_memory_left(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
        cuda = use(monkeypatch, Cuda(fails=call))
        with pytest.raises(EbmExportError, match=f"{call} failed: error 2 in words"):
            TensorRtEngine(path, precision="fp16").open()
        assert not cuda.blocks

    def test_closing_twice(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = use(monkeypatch, Cuda())
        engine = TensorRtEngine(path, precision="fp16")
        with engine:
            pass
        engine.close()
        assert not cuda.blocks

    def test_no_file(self, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        with pytest.raises(LoadError, match=r"there is no plan .*gone\.plan"):
            TensorRtEngine(tmp_path / "gone.plan", precision="fp16").open()

    def test_unknown_option(self, path: Path) -> None:
        TensorRtEngine(path, precision="fp16", options={"batch": [2, 3, 4]})
        with pytest.raises(UsageError, match="knows the options 'batch' and 'rebuild'; it got 'streams'"):
            TensorRtEngine(path, precision="fp16", options={"streams": 2})

    def test_no_cuda_python(self, plan: Plan, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt, "_CUDA", "a_package_nobody_has")
        with pytest.raises(MissingBackend, match="needs the package cuda-python beside TensorRT"):
            TensorRtEngine(path, precision="fp16").open()


@pytest.mark.tensorrt
class TestAvailable:
    def test_with_a_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        use(monkeypatch, Cuda())
        assert available() is None

    @pytest.mark.parametrize(
        ("devices", "reason"), [((0, 0), "CUDA finds no GPU"), ((35, None), "CUDA finds no GPU: error 35 in words")]
    )
    def test_without_a_gpu(self, monkeypatch: pytest.MonkeyPatch, devices: tuple[int, int | None], reason: str) -> None:
        use(monkeypatch, Cuda(devices=devices))
        assert available() == reason

    def test_without_cuda_python(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt, "_CUDA", "a_package_nobody_has")
        assert "cuda-python" in str(available())

    def test_without_tensorrt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tensorrt_library, "_MODULES", ("a_package_nobody_has",))
        assert "ebm-export[tensorrt-rtx]" in str(available())
