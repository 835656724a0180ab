"""How wide a score graph is."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from ebm_export.calibration.widest_activation import widest_activation


def graph(x: str, hidden: str) -> ir.Graph:
    """One activation between x and the answers; the shape of another is not known."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    score (float[B,{x}] x, float[N,64,96,96] image, float[B] grad_scale) => (float[B] energy, float[B,{x}] grad)
    <float{hidden} h, float[N,64,96,96] encoded> {{
        encoded = Relu (image)  h = Relu (x)  u = Add (h, encoded)  energy = Identity (grad_scale)  grad = Identity (u)
    }}"""
    return ir.from_proto(onnx.parser.parse_model(text)).graph


def test_it_is_that_of_what_changes_from_step_to_step() -> None:
    """The encoder of a condition runs once."""
    assert widest_activation(graph("2", "[B,128]")) == 128
    assert widest_activation(graph("3,32,32", "[B,128,32,32]")) == 2**17


def test_x_counts_too() -> None:
    assert widest_activation(graph("3,32,32", "[B,8]")) == 3 * 32 * 32


def test_a_batch_that_is_one_with_another_dimension() -> None:
    """As the rows of a matrix product over all pairs are; B times 256 is written so."""
    model = graph("16,2", "[N,64]")
    hidden = model.node(1).outputs[0]
    hidden.shape = ir.Shape(["256*B", 64])
    assert widest_activation(model) == 2**14
