"""Little ONNX graphs for the passes, and the check that a pass changes nothing but the form."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime


def graph(text: str, constants: dict[str, np.ndarray] | None = None) -> ir.Model:
    """A model from ONNX's text form, with initializers, typed and shaped."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    for name, array in (constants or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        node.name = node.outputs[0].name
    for value in model.graph.initializers.values():
        value.dtype = value.const_value.dtype
        value.shape = value.const_value.shape
    return model


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def kinds(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def check_pass(rewrite: ir.passes.InPlacePass, model: ir.Model, feeds: dict[str, np.ndarray]) -> bool:
    """Applies a pass, compares the outputs before and after, and returns whether it says that it changed something."""
    before = run(model, feeds)
    names = [value.name for value in model.graph.outputs]
    text = ir.to_proto(model).SerializeToString(deterministic=True)
    modified = rewrite(model).modified
    assert modified == (ir.to_proto(model).SerializeToString(deterministic=True) != text)
    assert [value.name for value in model.graph.outputs] == names
    for a, b in zip(before, run(model, feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    return modified
