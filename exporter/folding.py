"""Evaluates what depends on constants alone, once, so that no engine computes it at each step."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.utils._pytree import tree_leaves, tree_map_only

from .batch import BatchSize

__all__ = ["fold", "remove_dead", "widen"]

aten = torch.ops.aten

# A folded constant may not be much larger than what it is made of: broadcasting is left to the engine. The padded kernel
# from which a strided convolution's phases are taken is at most eight times the kernel, a single tap in three dimensions.
_LARGEST_FACTOR = 8
_ALWAYS_SMALL = 1 << 16

_JUMPS = {
    aten.ceil,
    aten.floor,
    aten.floor_divide,
    aten.fmod,
    aten.frac,
    aten.heaviside,
    aten.remainder,
    aten.round,
    aten.sgn,
    aten.sign,
    aten.trunc,
}
"""Operations whose result leaps where a number is changed by a rounding."""


def fold(graph: Graph, constants: dict[str, torch.Tensor], origins: dict[str, str]) -> bool:
    """Makes constants of nodes that depend on constants alone.

    They are evaluated in float64, so that a weight is rounded once, when it is stored. But where a number is cut to a whole one or
    compared, it is as the model has it: 0.7 * 10 is 7 in float32 and below 7 in float64, another row of a table.

    Args:
        graph: functional ATen whose placeholders are constants and inputs; changed in place.
        constants: value of each constant placeholder; folded values are added.
        origins: user's name of each constant; a folded constant takes the name of its largest source.

    Returns:
        Whether anything was made of numbers by comparing them or cutting them to whole ones.
    """
    jumped = False
    decisive = _decisive(graph)
    values: dict[Node, Any] = {}
    own: dict[Node, Any] = {}  # in the types that the model computes in, where something is decided by it
    sources: dict[Node, list[str]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            values[node], own[node] = widen(constants[node.name]), constants[node.name]
            sources[node] = [node.name]
        elif node.op == "call_function" and all(argument in values for argument in node.all_input_nodes):
            if not _is_static(node.meta.get("shape")) or node.meta.get("batched"):
                continue
            if node in decisive:
                own[node] = _evaluate(node, own, widened=False)
            if _jumps(node):
                value = tree_map_only(torch.Tensor, widen, own[node])
                jumped |= any(_is_float(own[argument]) for argument in node.all_input_nodes)
            else:
                value = _evaluate(node, values, widened=True)
            if not isinstance(value, torch.Tensor) and node.target is not operator.getitem:
                values[node] = value  # several outputs: only what getitem takes out is kept
            elif isinstance(value, torch.Tensor):
                held = [values[n].numel() for n in node.all_input_nodes if isinstance(values[n], torch.Tensor)]
                if value.numel() > max([_ALWAYS_SMALL, *(_LARGEST_FACTOR * size for size in held)]):
                    continue
                values[node] = value
            sources[node] = [name for argument in node.all_input_nodes for name in sources[argument]]

    first = next(iter(graph.nodes))
    for node in list(graph.nodes):
        if node.op == "placeholder" or node not in values or not isinstance(values[node], torch.Tensor):
            continue
        if all(user in values and isinstance(values[user], torch.Tensor) for user in node.users):
            continue  # only feeds other folded nodes
        name = f"folded_{len(constants)}"
        with graph.inserting_before(first):
            new = graph.placeholder(name)
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        dtype = node.meta["val"].dtype
        constants[new.name] = values[node].detach().to(dtype).contiguous().clone()
        named = [source for source in sources[node] if source in origins]
        if named:
            origins[new.name] = origins[max(named, key=lambda source: constants[source].numel())]
    remove_dead(graph)
    return jumped


def remove_dead(graph: Graph) -> None:
    """Removes what no output needs; inputs stay."""
    # The graph is functional, so every unused node is dead, asserts and placeholders of constants included.
    for node in reversed(list(graph.nodes)):
        is_input = node.op == "placeholder" and node.name.startswith("input_")
        if node.op != "output" and not node.users and not is_input:
            graph.erase_node(node)


def _decisive(graph: Graph) -> set[Node]:
    """Nodes that something jumps by, and those that jump."""
    found: set[Node] = set()
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and (_jumps(node) or any(user in found for user in node.users)):
            found.add(node)
    return found


def _jumps(node: Node) -> bool:
    """Whether a rounding of its inputs may change the result by more than a rounding."""
    if getattr(node.target, "overloadpacket", None) in _JUMPS or node.kwargs.get("rounding_mode") is not None:
        return True
    results = [value for value in tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]
    return any(not (value.is_floating_point() or value.is_complex()) for value in results)


def _is_float(value: Any) -> bool:
    return any(isinstance(leaf, torch.Tensor) and leaf.is_floating_point() for leaf in tree_leaves(value))


def widen(value: torch.Tensor) -> torch.Tensor:
    """In float64 or complex128; whole numbers and booleans stay."""
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value


def _is_static(shape: Any) -> bool:
    if isinstance(shape, BatchSize):
        return False
    return all(_is_static(part) for part in shape) if isinstance(shape, tuple) else True


def _evaluate(node: Node, values: Mapping[Node, Any], *, widened: bool) -> Any:
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda argument: values[argument])
    kwargs = dict(kwargs)
    if widened:
        # An explicit float32 among the arguments (a cast, a dtype for a new tensor) would round earlier.
        kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    # Strides may have changed since tracing, so a view may need a copy.
    views = (aten.view.default, aten._unsafe_view.default)
    target = aten.reshape.default if node.target in views else node.target
    with torch.no_grad():
        result = target(*args, **kwargs)  # type: ignore[operator]
    # What is made of whole numbers (a quotient, a root) or of nothing is float32, and no product takes both types.
    return tree_map_only(torch.Tensor, widen, result) if widened else result
