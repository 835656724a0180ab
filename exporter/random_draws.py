"""Random numbers that forward draws: those of a fixed seed are constants, others cannot be exported."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph

from ..runtime.errors import ContractError
from .provenance import origin_of
from .rules.constant import constant

__all__ = ["draw", "draws", "refuse_draws"]

aten = torch.ops.aten


def draws(func: Any) -> bool:
    """Whether an ATen operation reads a random number generator."""
    return torch.Tag.nondeterministic_seeded in getattr(func, "tags", ())


def draw(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Draws now what no input decides, so that the traced graph has the numbers and not the operation.

    Run again later, for folding, the operation would find the generator in another state. A draw whose numbers differ from call
    to call differs between the two traces too, which are compared.
    """
    name = func._schema.name
    if name.endswith("_"):  # in place
        drawn = constant(lambda: func(args[0].clone(), *args[1:], **kwargs))
        return aten.copy_.default(args[0], drawn)
    if func._schema.is_mutable or len(func._schema.returns) != 1:
        return func(*args, **kwargs)
    # A copy is what the model goes on with: it may write into it.
    return aten.lift_fresh_copy.default(constant(lambda: func(*args, **kwargs)))


def refuse_draws(graph: Graph) -> None:
    """Ends with a ContractError where a graph still draws numbers, as it does for each sample (`rand_like(x)`)."""
    for node in graph.nodes:
        if node.users and draws(node.target):
            origin = origin_of(node)
            place = f" in {origin.describe()}" if origin else ""
            raise ContractError(
                f"forward draws random numbers{place} ({node.target}): draw them once and keep them with register_buffer"
            )
