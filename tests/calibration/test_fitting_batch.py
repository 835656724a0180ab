"""How many chains go into one call."""

from __future__ import annotations

import onnx
import onnx_ir as ir
import pytest

from ebm_export.calibration.fitting_batch import fitting_batch


def graph(x: str, hidden: str) -> ir.Graph:
    """One activation between x and the answers; the shape of another is not known."""
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    score (float[B,{x}] x, float[B] grad_scale) => (float[B] energy, float[B,{x}] grad) <float{hidden} h> {{
        h = Relu (x)  u = Abs (h)  energy = Identity (grad_scale)  grad = Identity (u)
    }}"""
    return ir.from_proto(onnx.parser.parse_model(text)).graph


@pytest.mark.parametrize(
    ("x", "hidden", "wanted"),
    [
        ("2", "[B,128]", 1024),  # a perceptron
        ("16,2", "[B,16,16,64]", 8),  # pairs of particles
        ("1,8,8", "[B,32,8,8]", 64),
        ("3,32,32", "[B,128,32,32]", 8),  # a sample fills a cache by itself
        ("3,512,512", "[B,8,512,512]", 1),  # as its x does
        ("2", "[B,2]", 2**16),
    ],
)
def test_the_widest_activation_decides(x: str, hidden: str, wanted: int) -> None:
    assert fitting_batch(graph(x, hidden)) == wanted


def test_a_batch_that_is_one_with_another_dimension() -> None:
    """As the rows of a matrix product over all pairs are; B times 256 is written so."""
    model = graph("16,2", "[N,64]")
    hidden = model.node(0).outputs[0]
    hidden.shape = ir.Shape(["256*B", 64])
    assert fitting_batch(model) == 8
