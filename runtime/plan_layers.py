"""In which precision a TensorRT plan computes the convolutions and matrix products of its graph, as its builder tells.

The inspector of a loaded engine tells it too, but loading takes a GPU. With the profiling verbosity "detailed" the builder logs the
same list, a line for each layer of the compiled engine with the types that it reads and the ONNX nodes that went into it, on any
machine: TensorRT-RTX 1.7 in the form that the tests have from it, TensorRT 10 with the type and the memory layout in one phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .int8_said import int8_said

__all__ = ["LAYER_LIST", "arithmetic_nodes", "layer_precisions", "layers_said"]

LAYER_LIST = "Layers:"
"""How the message of the builder's log begins that has the list."""

_ARITHMETIC = ("CONVOLUTION", "DECONVOLUTION", "EINSUM", "MATRIX_MULTIPLY")
_GENERATED = "kgen"
"""A kernel that TensorRT writes itself, for what is computed element by element. The sum of a bias goes into one, and brings the
name of its convolution; only where a product is so small that nothing else has it is it computed there."""
_LINE = re.compile(r"Name: .*?, LayerType: (?P<kind>[^,]*), Inputs: \[(?P<inputs>.*?)\], (?:Constants|Outputs): ")
_TYPE = re.compile(r"Datatype: [^,}]*?(?P<type>int8|bf16|bfloat16|fp16|half|fp32|float)\b", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: (?P<name>[^\]]*)\]")
_PRECISIONS = {"half": "fp16", "float": "fp32", "bfloat16": "bf16"}
"""What TensorRT calls otherwise than a bundle."""


def arithmetic_nodes(network: Any) -> list[str]:
    """Names of the convolutions and matrix products of a network that TensorRT's ONNX parser has read."""
    layers = (network.get_layer(index) for index in range(network.num_layers))
    return [layer.name for layer in layers if layer.type.name in _ARITHMETIC]


def layer_precisions(told: str, nodes: Iterable[str]) -> dict[str, str]:
    """Reads the builder's list of layers.

    Args:
        told: that message of its log, a line for each layer.
        nodes: the graph's nodes that are asked for.

    Returns:
        int8, fp16, bf16 or fp32 by node: the type of the first input of the layer that computes it. A node that no layer
        names, as one is that was computed at the build, is left out.
    """
    first: dict[str, str] = {}
    computes: dict[str, str] = {}
    for line in told.splitlines():
        layer = _LINE.match(line)
        read = layer and _TYPE.search(layer["inputs"])
        if layer is None or read is None:
            continue
        name = read["type"].lower()
        precision = _PRECISIONS.get(name, name)
        for node in _NODE.findall(line):
            first.setdefault(node, precision)
            if layer["kind"] != _GENERATED:
                computes.setdefault(node, precision)
    return {node: precision for node in nodes if (precision := computes.get(node, first.get(node))) is not None}


def layers_said(layers: Mapping[str, str]) -> str:
    """How many layers of a plan are in INT8, for people; "" of one that has none.

    Args:
        layers: the precision of each, as `layer_precisions` finds it.
    """
    low = sum(precision == "int8" for precision in layers.values())
    return int8_said("TensorRT", low, len(layers)) if low else ""
