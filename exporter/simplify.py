"""Simplifications of a traced graph that need PyTorch's own semantics: dead code, duplicates, constants."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils._pytree import tree_flatten

from .batch import BatchSize, arguments_of
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
# A folded constant may not be much larger than what it is made of: broadcasting is left to the engine. The padded kernel
# from which a strided convolution's phases are taken is at most eight times the kernel, a single tap in three dimensions.
_LARGEST_FACTOR = 8
_ALWAYS_SMALL = 1 << 16


def simplify(traced: GraphModule, constants: dict[str, torch.Tensor], origins: dict[str, str]) -> None:
    """Simplifies a functional graph in place until nothing that two nodes share is computed twice.

    1. Writes into parameters and buffers (statistics that a forward updates) are dropped.
    2. Identities are removed; equal nodes become one, so energy and gradient share one forward pass.
    3. Products with a repeated matrix become products with that matrix.
    4. Nodes that depend on constants alone are evaluated, in float64, and become constants.
    5. What no output needs is removed, constants included.

    Args:
        traced: functional ATen whose placeholders are constants and inputs.
        constants: value of each constant placeholder; folded values are added, unused ones removed.
        origins: user's name of each constant; a folded constant takes the name of its largest source.
    """
    graph = traced.graph
    for node in list(graph.nodes):
        if node.target is aten.copy_.default and node.args[0].op == "placeholder":
            node.replace_all_uses_with(node.args[1])
            graph.erase_node(node)
    _remove_dead(graph)
    _remove_identities(graph)
    _merge_duplicates(graph)
    share_factors(graph)
    _fold(graph, constants, origins)
    _merge_duplicates(graph)
    _remove_dead(graph)
    used = {node.name for node in graph.nodes if node.op == "placeholder"}
    for name in [name for name in constants if name not in used]:
        del constants[name]
        origins.pop(name, None)
    graph.lint()


def _remove_dead(graph: Graph) -> None:
    # The graph is functional, so every unused node is dead, asserts and placeholders of constants included.
    for node in reversed(list(graph.nodes)):
        is_input = node.op == "placeholder" and node.name.startswith("input_")
        if node.op != "output" and not node.users and not is_input:
            graph.erase_node(node)


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


def _fold(graph: Graph, constants: dict[str, torch.Tensor], origins: dict[str, str]) -> None:
    values: dict[Node, Any] = {}
    sources: dict[Node, list[str]] = {}
    for node in graph.nodes:
        if node.op == "placeholder" and node.name in constants:
            values[node] = _widen(constants[node.name])
            sources[node] = [node.name]
        elif node.op == "call_function" and all(argument in values for argument in node.all_input_nodes):
            if not _is_static(node.meta.get("shape")) or node.meta.get("batched"):
                continue
            args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda n: values[n])
            value = _evaluate(node, args, kwargs)
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
    _remove_dead(graph)


def _widen(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


def _is_static(shape: Any) -> bool:
    if isinstance(shape, BatchSize):
        return False
    return all(_is_static(part) for part in shape) if isinstance(shape, tuple) else True


def _evaluate(node: Node, args: Any, kwargs: dict[str, Any]) -> Any:
    # float64 while folding, so that a weight is rounded once, when it is stored. An explicit float32 among the
    # arguments (a cast, a dtype for a new tensor) would round earlier.
    kwargs = {key: torch.float64 if value is torch.float32 else value for key, value in kwargs.items()}
    if "device" in kwargs:
        kwargs["device"] = torch.device("cpu")
    # Strides may have changed since tracing, so a view may need a copy.
    views = (aten.view.default, aten._unsafe_view.default)
    target = aten.reshape.default if node.target in views else node.target
    with torch.no_grad():
        return target(*args, **kwargs)  # type: ignore[operator]
