"""Simplifications of a traced graph that need PyTorch's own semantics: dead code, duplicates, constants."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from .batch import arguments_of
from .empty import replace_empty
from .folding import fold, remove_dead
from .shared_factor import share_factors

__all__ = ["simplify"]

aten = torch.ops.aten

# These return their input unchanged once nothing is written in place and no autograd runs.
_IDENTITIES = {
    aten.alias.default,
    aten.detach.default,
    aten.lift_fresh_copy.default,
    aten.lift_fresh.default,
    aten.clone.default,
}


def simplify(traced: GraphModule, constants: dict[str, torch.Tensor], origins: dict[str, str]) -> bool:
    """Simplifies a functional graph in place until nothing that two nodes share is computed twice.

    1. Writes into parameters and buffers (statistics that a forward updates) are dropped.
    2. What is made of tensors without elements becomes the number that it is filled with.
    3. Identities are removed; equal nodes become one, so energy and gradient share one forward pass.
    4. Products with a repeated matrix become products with that matrix.
    5. Nodes that depend on constants alone are evaluated, in float64, and become constants.
    6. What no output needs is removed, constants included.

    Args:
        traced: functional ATen whose placeholders are constants and inputs.
        constants: value of each constant placeholder; folded values are added, unused ones removed.
        origins: user's name of each constant; a folded constant takes the name of its largest source.

    Returns:
        Whether a constant that was folded jumps, see `fold`.
    """
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target is aten.copy_.default and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
    remove_dead(graph)
    replace_empty(graph)
    _remove_identities(graph)
    _merge_duplicates(graph)
    share_factors(graph)
    jumps = fold(graph, constants, origins)
    _merge_duplicates(graph)
    remove_dead(graph)
    used = {node.name for node in graph.nodes if node.op == "placeholder"}
    for name in [name for name in constants if name not in used]:
        del constants[name]
        origins.pop(name, None)
    graph.lint()
    return jumps


def _remove_identities(graph: Graph) -> None:
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        source = node.args[0] if node.args else None
        same = node.target in _IDENTITIES
        if not same and isinstance(source, Node) and isinstance(source.meta.get("val"), torch.Tensor):
            before, after = source.meta["val"], node.meta.get("val")
            same_shape = source.meta.get("shape") == node.meta.get("shape")
            if isinstance(after, torch.Tensor) and before.dtype == after.dtype and same_shape:
                same = node.target in (
                    aten.expand.default,
                    aten.view.default,
                    aten.reshape.default,
                    aten._to_copy.default,
                    aten._unsafe_view.default,
                )
        if same and isinstance(source, Node):
            node.replace_all_uses_with(source)
            graph.erase_node(node)


def _merge_duplicates(graph: Graph) -> None:
    seen: dict[Any, Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        flat, spec = tree_flatten(arguments_of(node))
        key = (
            node.target,
            spec,
            tuple((type(leaf), leaf if not isinstance(leaf, float) else repr(leaf)) for leaf in flat),
        )
        try:
            first = seen.setdefault(key, node)
        except TypeError:  # an argument that cannot be hashed: leave the node alone
            continue
        if first is not node:
            node.replace_all_uses_with(first)
            graph.erase_node(node)
