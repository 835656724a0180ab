"""Real plans, built by the library that is installed, from typed graphs with a symbolic batch."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime import tensorrt_library
from ebm_export.runtime.errors import EbmExportError, LoadError, MissingBackend, UnsupportedOperation, UsageError
from ebm_export.runtime.tensorrt_library import build_plan, fingerprint, load_plan, missing_tensorrt

TYPES = {
    "fp32": (TensorProto.FLOAT, np.float32),
    "fp16": (TensorProto.FLOAT16, np.float16),
    "bf16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
}
BATCH = (1, 4, 8)


class Body:
    """Collects nodes over x [B, 4, 6, 8] in one precision; each call adds a node and gives its result's name."""

    def __init__(self, precision: str) -> None:
        self.code, self.dtype = TYPES[precision]
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=f"the_{operator}", **attributes))
        return name

    def constant(self, *shape: int) -> str:
        array = np.random.default_rng(0).standard_normal(shape).astype(self.dtype)
        return self._add(array)

    def ints(self, *numbers: int) -> str:
        return self._add(np.array(numbers, np.int64))

    def floats(self, *numbers: float) -> str:
        return self._add(np.array(numbers, np.float32))

    def _add(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def wide(self, value: str) -> str:
        return self("Cast", value, to=TensorProto.FLOAT)

    def low(self, value: str) -> str:
        return self("Cast", value, to=self.code)


def conv(g: Body, x: str) -> str:
    h = g("Conv", x, g.constant(8, 4, 3, 3), g.constant(8), pads=[1, 1, 1, 1])
    return g("Mul", h, g("Sigmoid", h))


def strided_conv_gradient(g: Body, x: str) -> str:
    phases = g("Conv", x, g.constant(8, 4, 3, 3), pads=[1, 1, 1, 1])
    return g("DepthToSpace", phases, blocksize=2, mode="CRD")


def matmul(g: Body, x: str) -> str:
    flat = g("Reshape", x, g.ints(0, -1))
    return g("MatMul", flat, g.constant(192, 5))


def where(g: Body, x: str) -> str:
    return g("Where", g("Greater", x, g.constant(1)), x, g("Mul", x, g.constant(1)))


def reduce_sum(g: Body, x: str) -> str:
    return g.low(g("ReduceSum", g.wide(x), g.ints(1, 2, 3), keepdims=0))


def resize(g: Body, x: str) -> str:
    return g("Resize", x, "", g.floats(1, 1, 2, 2), mode="linear", coordinate_transformation_mode="half_pixel")


def gelu(g: Body, x: str) -> str:
    return g("Mul", x, g("Erf", g("Mul", x, g.constant(1))))


def layer_norm(g: Body, x: str) -> str:
    x = g.wide(x)
    centred = g("Sub", x, g("ReduceMean", x, g.ints(3), keepdims=1))
    variance = g("ReduceMean", g("Mul", centred, centred), g.ints(3), keepdims=1)
    return g.low(g("Div", centred, g("Sqrt", g("Add", variance, g.floats(1e-5)))))


def attention(g: Body, x: str) -> str:
    keys = g("Transpose", x, perm=[0, 1, 3, 2])
    return g("MatMul", g("Softmax", g("MatMul", x, keys), axis=-1), x)


def expand_to_batch(g: Body, x: str) -> str:
    sizes = g("Concat", g("Shape", x, start=0, end=1), g.ints(4, 6, 8), axis=0)
    return g("Add", x, g("Expand", g.constant(1, 4, 1, 1), sizes))


def pad(g: Body, x: str) -> str:
    padded = g("Pad", x, g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    return g("Concat", g("Slice", padded, g.ints(1), g.ints(5), g.ints(3)), padded, axis=3)


PIECES = [
    conv,
    strided_conv_gradient,
    matmul,
    where,
    reduce_sum,
    resize,
    gelu,
    layer_norm,
    attention,
    pad,
    expand_to_batch,
]


def model(piece: Any, precision: str, *, symbolic: bool = True) -> bytes:
    """x [B, 4, 6, 8] float32 -> piece in the given precision -> y float32."""
    g = Body(precision)
    result = g.wide(piece(g, g.low("x")))
    g.nodes.append(helper.make_node("Identity", [result], ["y"]))
    graph = helper.make_graph(
        g.nodes,
        "piece",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B" if symbolic else 2, 4, 6, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        g.constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return bytes(made.SerializeToString())


@pytest.mark.tensorrt
class TestBuildPlan:
    @pytest.mark.parametrize("precision", TYPES)
    @pytest.mark.parametrize("piece", PIECES, ids=lambda piece: piece.__name__)
    def test_builds(self, piece: Any, precision: str) -> None:
        plan = build_plan(model(piece, precision), batch=BATCH)
        assert len(plan.data) > 1000
        arithmetic = {"conv": "the_Conv", "strided_conv_gradient": "the_Conv", "matmul": "the_MatMul"}.get(
            piece.__name__
        )
        if arithmetic is not None:
            assert plan.layers == {arithmetic: precision}

    def test_from_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "score.onnx").write_bytes(model(conv, "fp16"))
        assert build_plan(tmp_path / "score.onnx", batch=BATCH, workspace=1 << 28).data

    def test_tells_its_progress(self) -> None:
        seen: list[tuple[str, int, int]] = []
        build_plan(model(conv, "fp32"), batch=BATCH, progress=lambda *step: seen.append(step))
        phase, _, steps = seen[-1]
        assert seen[0] == (phase, 0, steps)
        assert seen[-1] == (phase, steps, steps)

    def test_leaves_the_timing_cache_alone_where_the_library_has_none(self, tmp_path: Path) -> None:
        build_plan(model(conv, "fp32"), batch=BATCH, timing_cache=tmp_path / "timing.cache")
        assert (tmp_path / "timing.cache").exists() == (fingerprint().library == "tensorrt")

    @pytest.mark.parametrize("batch", [(0, 1, 2), (4, 2, 8), (1, 9, 8)])
    def test_a_batch_that_cannot_be(self, batch: tuple[int, int, int]) -> None:
        with pytest.raises(UsageError, match=f"1 <= MIN <= OPT <= MAX.* not {':'.join(map(str, batch))}"):
            build_plan(model(conv, "fp32"), batch=batch)

    def test_a_batch_that_is_not_symbolic(self) -> None:
        with pytest.raises(UsageError, match=r"symbolic batch; these have the shapes {'x': \(2, 4, 6, 8\)"):
            build_plan(model(conv, "fp32", symbolic=False), batch=BATCH)

    def test_an_operation_that_the_parser_refuses(self) -> None:
        def piece(g: Body, x: str) -> str:
            rows = g("Transpose", x, perm=[1, 0, 2, 3])
            return g("ScatterND", rows, g("Unsqueeze", g.ints(0, 2), g.ints(1)), rows, reduction="add")

        with pytest.raises(UnsupportedOperation, match="does not take the ScatterND node 'the_ScatterND': "):
            build_plan(model(piece, "fp32"), batch=BATCH)

    def test_an_operation_that_the_parser_does_not_know(self) -> None:
        with pytest.raises(UnsupportedOperation, match="the Det node 'the_Det': it has no such operation"):
            build_plan(model(lambda g, x: g("Det", g("MatMul", x, g.constant(8, 6))), "fp32"), batch=BATCH)

    def test_an_operation_that_the_parser_does_not_name(self) -> None:
        def piece(g: Body, x: str) -> str:
            places = g("ArgMax", x, axis=3, keepdims=1)
            return g("ScatterElements", x, places, g("ReduceMax", x, g.ints(3)), axis=3, reduction="add")

        with pytest.raises(UnsupportedOperation, match="does not take the ScatterElements node"):
            build_plan(model(piece, "fp32"), batch=BATCH)

    def test_a_build_that_fails(self) -> None:
        # TensorRT-RTX 1.7 parses a ConvTranspose in BF16, and then cannot build it.
        def piece(g: Body, x: str) -> str:
            return g("ConvTranspose", x, g.constant(4, 5, 3, 3), strides=[2, 2])

        with pytest.raises(EbmExportError, match="could not build a plan: .*deconv"):
            build_plan(model(piece, "bf16"), batch=BATCH)

    def test_a_file_that_is_missing_or_broken(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="there is no ONNX file"):
            build_plan(tmp_path / "score.onnx", batch=BATCH)
        with pytest.raises(LoadError, match="cannot read the ONNX file"):
            build_plan(b"no model", batch=BATCH)


class TestTimingCache:
    """The calls, in order, on a stand-in for the library that has such a cache."""

    def config(self, *, fits: bool) -> Any:
        calls: list[bytes] = []

        def set_timing_cache(cache: bytes, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            return fits or cache == b""

        def create_timing_cache(data: bytes) -> bytes:
            calls.append(data)
            return data

        return SimpleNamespace(calls=calls, create_timing_cache=create_timing_cache, set_timing_cache=set_timing_cache)

    @pytest.mark.parametrize(("fits", "expected"), [(True, [b"timings"]), (False, [b"timings", b""])])
    def test_is_read_and_begun_anew_where_it_does_not_fit(
        self, tmp_path: Path, fits: bool, expected: list[bytes]
    ) -> None:
        (tmp_path / "timing.cache").write_bytes(b"timings")
        config, library = self.config(fits=fits), SimpleNamespace(__name__="tensorrt")
        cache = tensorrt_library._open_timing_cache(library, config, tmp_path / "timing.cache")  # type: ignore[arg-type]
        assert (cache, config.calls) == (expected[-1], expected)

    def test_nothing_there_yet(self, tmp_path: Path) -> None:
        config, library = self.config(fits=True), SimpleNamespace(__name__="tensorrt")
        assert tensorrt_library._open_timing_cache(library, config, tmp_path / "none") == b""  # type: ignore[arg-type]


@pytest.mark.tensorrt
def test_load_plan_says_why_not() -> None:
    with pytest.raises(
        LoadError, match=r"cannot load the plan: .*A plan runs with the library version and the GPU it was built for"
    ):
        load_plan(b"no plan")


@pytest.mark.tensorrt
def test_fingerprint_names_library_and_version() -> None:
    here = fingerprint()
    assert here.library in ("tensorrt", "tensorrt_rtx")
    assert here.version.count(".") >= 2
    assert set(here.to_dict()) == {"library", "version", "device", "compute_capability"}


def test_neither_library_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "_MODULES", ("a_package_nobody_has",))
    both = r"ebm-export\[tensorrt\].*ebm-export\[tensorrt-rtx\]"
    assert missing_tensorrt() is not None
    with pytest.raises(MissingBackend, match=both):
        build_plan(model(conv, "fp32"), batch=BATCH)
    with pytest.raises(MissingBackend, match=both):
        fingerprint()


@pytest.mark.tensorrt
def test_a_library_is_installed() -> None:
    assert missing_tensorrt() is None
