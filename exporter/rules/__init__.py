"""What becomes of ATen operations that ONNX has no word for: one table from operation to rule.

A rule is a function with the operation's own arguments that computes it from simpler operations; it runs below autograd,
so it never has to be differentiable. A rule that returns NotImplemented leaves the operation as it is. PyTorch's own
decompositions serve wherever they give what an engine runs well; the tables here come before them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, decomposition_table

from ..lowering.table import RULES as LOWERED
from . import (
    activation,
    adaptive_pool,
    average_pool,
    convolution,
    distance,
    elementwise,
    forward_mode,
    gamma,
    linear_algebra,
    masks,
    max_pool,
    normalization,
    padding,
    resampling,
    running,
    scattering,
    searching,
    statistics,
    windows,
)

__all__ = ["decompositions"]

_FAMILIES = (
    activation,
    adaptive_pool,
    average_pool,
    convolution,
    distance,
    elementwise,
    forward_mode,
    gamma,
    linear_algebra,
    masks,
    max_pool,
    normalization,
    padding,
    resampling,
    running,
    scattering,
    searching,
    statistics,
    windows,
)


aten = torch.ops.aten

# PyTorch writes these outside its core set, in terms of operations that are lowered.
_MORE = (aten.linalg_vector_norm.default,)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """The rules by ATen operation: ours, then PyTorch's for everything that has no lowering."""
    theirs = dict(core_aten_decompositions())
    # The rest of PyTorch's table is its Python reference of every operation, views and in-place forms included,
    # written in primitives of its own: only the decompositions proper are of use.
    theirs |= {op: rule for op, rule in decomposition_table.items() if rule.__module__.startswith("torch._decomp")}
    theirs |= {op: decomposition_table[op] for op in _MORE}
    table: dict[Any, Callable[..., Any]] = {op: rule for op, rule in theirs.items() if op not in LOWERED}
    for family in _FAMILIES:
        table.update(family.RULES)
    return table
