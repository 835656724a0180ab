"""The traced score graph, between tracing and lowering."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

__all__ = ["GIVEN", "ScoreGraph"]

GIVEN = "given"
"""Metadata of an input's placeholder: the type that the user's forward is given, where the graph's is another one."""


@dataclass
class ScoreGraph:
    """The traced score graph: (x, cond.., grad_scale) -> (energy, grad), before lowering.

    Shapes stand in `node.meta["shape"]`; every dimension is a number except those that grow with the batch,
    which are `BatchSize`. `node.meta["val"]` has the dtype, and the shape at the first traced batch size.
    """

    graph: torch.fx.Graph
    """Functional ATen; placeholders are constants (parameters, buffers, folded values), then `inputs`."""
    constants: dict[str, torch.Tensor]
    """Value of each constant placeholder, by placeholder name."""
    origins: dict[str, str]
    """Name in the user's state_dict of each constant that is a parameter or buffer, by placeholder name."""
    inputs: tuple[str, ...]
    """Graph input names: `x`, the conditioning inputs, `grad_scale`."""
    batch: int
    """The batch size at which the graph's own numbers hold, without its `BatchSize`s."""
    outputs: tuple[str, ...] = field(default=("energy", "grad"))
    jumps: bool = False
    """Whether parameters are compared or cut to whole numbers, or random numbers drawn, so that the model may be another function in
    float64."""
