"""Writes a traced score graph as ONNX: standard operations only, one rule for each ATen operation."""

from .lower import lower

__all__ = ["lower"]
