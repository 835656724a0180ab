"""Writes a traced score graph as ONNX: standard operations only, one rule for each ATen operation."""

from . import convolution, elementwise, index_put, indexing, matmul, reduction, shape  # they fill the table
from .lower import lower

__all__ = ["convolution", "elementwise", "index_put", "indexing", "lower", "matmul", "reduction", "shape"]
