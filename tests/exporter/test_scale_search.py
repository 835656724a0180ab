"""A chain's first gradient scale, looked for in a graph as the runtime looks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.exporter.graph_builder import GraphBuilder
from ebm_export.exporter.scale_search import search_scale
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends import open_engine
from ebm_export.runtime.gradient_scale import ScaledScore
from ebm_export.runtime.known_scales import HIGHEST_SCALE, KnownScales

SIZES = ("B", 4)


def score_graph(step: float | None) -> onnx.ModelProto:
    """E = |x|^2 / 2, with a gradient on an 8-bit grid of this step, or one that is exact."""

    def value(name: str, *shape: str | int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("ReduceSumSquare", ["x", "axes"], ["squares"], keepdims=0),
        helper.make_node("Mul", ["squares", "half"], ["energy"]),
        helper.make_node("Unsqueeze", ["grad_scale", "axes"], ["each"]),
        helper.make_node("Mul", ["x", "each"], ["grad" if step is None else "scaled"]),
    ]
    constants = [numpy_helper.from_array(np.array([1]), "axes"), numpy_helper.from_array(np.float32(0.5), "half")]
    if step is not None:
        nodes += [
            helper.make_node("QuantizeLinear", ["scaled", "step", "zero"], ["bytes"]),
            helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["grad"]),
        ]
        constants += [numpy_helper.from_array(np.float32(step), "step"), numpy_helper.from_array(np.int8(0), "zero")]
    for node in nodes:
        node.name = f"{node.output[0]}.node"
    graph = helper.make_graph(
        nodes, "score", [value("x", *SIZES), value("grad_scale", "B")], [value("energy", "B"), value("grad", *SIZES)],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


SIZES_OF_X = [1e-12, 1e-4, 0.03, 1.0, 7.0, 1e3, 1e8, 1e15]
KNOWN = {
    "nothing": KnownScales(),
    "usual": KnownScales(2.0**12, HIGHEST_SCALE),
    "low": KnownScales(2.0**-20, HIGHEST_SCALE),
    "limited": KnownScales(1.0, 2.0**6),
}


@pytest.mark.parametrize("known", sorted(KNOWN))
@pytest.mark.parametrize("step", [None, 4 / 127, 1 / 127, 0.01, 1.0, 1.7])
def test_it_finds_what_the_runtime_finds(step: float | None, known: str, tmp_path: Path) -> None:
    proto, scales = score_graph(step), KNOWN[known]
    onnx.save(proto, tmp_path / "score.onnx")
    made = GraphBuilder(ir.from_proto(proto), "found")
    start = made.input("x", SIZES)
    found = search_scale(made, ir.from_proto(proto).graph, SamplerConfig(steps=1), SIZES, {}, start, scales)
    made.output("scale", found, SIZES[:1])
    graph = ir.to_proto(made.model())
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    rows = np.random.default_rng(0).standard_normal((len(SIZES_OF_X), 4)) * np.reshape(SIZES_OF_X, (-1, 1))
    x = np.concatenate([rows, np.zeros((1, 4))]).astype(np.float32)
    with open_engine("onnxruntime", tmp_path / "score.onnx", precision="int8", threads=1, scales=scales) as engine:
        score = ScaledScore(engine, {})
        score(x)
    assert score.scale is not None
    np.testing.assert_allclose(session.run(None, {"x": x})[0], score.scale, rtol=1e-5)
    for row, scale in zip(x, score.scale, strict=True):  # a chain's scale does not depend on the others
        np.testing.assert_allclose(session.run(None, {"x": row[None]})[0], scale, rtol=1e-5)
