"""The list of layers in a builder's log, in the forms of TensorRT-RTX and of TensorRT 10."""

from __future__ import annotations

import pytest

from ebm_export.runtime.plan_layers import layer_precisions, layers_said


def line(name: str, kind: str, reads: list[str], nodes: list[str], *, form: str) -> str:
    """A layer as one of the two libraries lists it; nodes are parted by a character that does not print."""
    port = (
        "{ Name: %s, Dimensions: [-1,4], Strides: [4,1], StrideOrder: [1,0], Datatype: %s, Format: (Linear) Row major }"
    )
    rest = "Constants: [ { Name: w, Dimensions: [4,4], Datatype: Int8, Format: (Linear) Row major }], Outputs: [ "
    if form == "TensorRT":
        port = "{ Name: %s, Location: Device, Dimensions: [-1,4], Format/Datatype: %s }"
        rest = "Outputs: [ "
    inputs = ", ".join(port % (f"t{index}", read) for index, read in enumerate(reads))
    said = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    output = port % ("out", "Int8")
    return f"Name: {name}, LayerType: {kind}, Inputs: [ {inputs}], {rest}{output}], TacticName: t, StreamId: 0, Metadata: {said}"


def told(*lines: str) -> str:
    return "\n".join(("Layers:", *lines, "", "I/O Tensors:", " Name: x, IOMode: Input, DataType: Float", "Bindings:"))


@pytest.mark.parametrize(
    ("form", "read", "precision"),
    [
        ("RTX", "Int8", "int8"),
        ("RTX", "Half", "fp16"),
        ("RTX", "BFloat16", "bf16"),
        ("RTX", "Float", "fp32"),
        ("TensorRT", "Thirty-two wide channel vectorized row major Int8 format", "int8"),
        ("TensorRT", "Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("TensorRT", "Half", "fp16"),
        ("TensorRT", "Row major linear BF16 format", "bf16"),
        ("TensorRT", "Row major linear FP32", "fp32"),
    ],
)
def test_the_type_that_a_layer_reads(form: str, read: str, precision: str) -> None:
    text = told(line("conv + relu", "CaskConvolution", [read, "Float"], ["a/Conv", "a/Relu"], form=form))
    assert layer_precisions(text, ["a/Conv", "other"]) == {"a/Conv": precision}


@pytest.mark.parametrize("form", ["RTX", "TensorRT"])
def test_what_else_has_the_name_of_a_convolution_does_not_count(form: str) -> None:
    """Its bias is summed in a kernel of its own, in float, and so may its input be made ready."""
    text = told(
        line("shape", "shape_call", [], ["a/Conv"], form=form),
        line("ready", "kgen", ["Float"], ["Mul", "a/Conv"], form=form),
        line("conv", "correlation", ["Int8"], ["a/Conv", "a/Conv.weight.dequantize"], form=form),
        line("bias", "kgen", ["Float", "Float"], ["a/Conv", "Relu"], form=form),
        line("after", "runtime_fusion", ["Half"], ["a/Conv"], form=form),
    )
    assert layer_precisions(text, ["a/Conv"]) == {"a/Conv": "int8"}


def test_a_product_that_only_a_generated_kernel_has() -> None:
    text = told(
        line("small", "kgen", ["Half"], ["a/MatMul", "Tanh"], form="RTX"),
        line("more", "kgen", ["Float"], ["a/MatMul"], form="RTX"),
    )
    assert layer_precisions(text, ["a/MatMul"]) == {"a/MatMul": "fp16"}


@pytest.mark.parametrize(
    "text", ["", "Layers:", "Layers:\na name\nanother name\n", "Layer(Convolution): a, Tactic: 0x0"]
)
def test_a_log_without_types_says_nothing(text: str) -> None:
    assert layer_precisions(text, ["a"]) == {}


def test_in_words() -> None:
    assert layers_said({"a": "int8", "b": "fp32", "c": "int8"}) == (
        "TensorRT runs 2 of 3 convolutions and matrix products in INT8"
    )
    assert layers_said({"a": "fp16"}) == layers_said({}) == ""
