"""Finds where the batch size stands in a graph, by comparing two traces at two sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import GraphModule, Node
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..runtime.errors import ContractError
from .provenance import origin_of

__all__ = ["BatchSize", "Dim", "arguments_of", "generalize"]


@dataclass(frozen=True)
class BatchSize:
    """A number of the graph that grows with the batch B: factor * B + offset."""

    factor: int
    offset: int = 0

    def __str__(self) -> str:
        text = "B" if self.factor == 1 else f"{self.factor}*B"
        return text + (f"{self.offset:+d}" if self.offset else "")


Dim = int | BatchSize
"""One dimension of a tensor in the score graph."""


def generalize(first: GraphModule, second: GraphModule, sizes: tuple[int, int]) -> None:
    """Rewrites the first of two traces so that it holds for every batch size.

    Two traces of one model at two batch sizes are node for node the same when nothing but sizes depends on the
    batch. Each number that differs becomes a `BatchSize`, in arguments and in `node.meta["shape"]`, a tuple of
    `Dim`. Both sizes are primes that no dimension of the model equals, so no coincidence can hide one.

    Args:
        first: trace at `sizes[0]`; changed in place.
        second: trace at `sizes[1]`.
        sizes: the two batch sizes.

    Raises:
        ContractError: the traces differ in anything else, so the model does not treat samples alike.
    """
    left, right = list(first.graph.nodes), list(second.graph.nodes)
    twin = dict(zip(right, left, strict=False))
    for a, b in zip(left, right, strict=False):
        if a.op != b.op or (a.op == "call_function" and a.target is not b.target):
            raise _differs(a, f"operation {a.target} at one size is {b.target} at the other")
        if a.op not in ("placeholder", "get_attr", "output"):
            flat_a, spec = tree_flatten((a.args, a.kwargs))
            flat_b, other = tree_flatten((b.args, b.kwargs))
            if spec != other:
                raise _differs(a, f"{a.target} takes other arguments")
            merged = [
                _merge(a, x, twin.get(y, y) if isinstance(y, Node) else y, sizes)
                for x, y in zip(flat_a, flat_b, strict=True)
            ]
            # BatchSize is no fx argument type: the sizes stand beside the node, by place among its flat arguments.
            a.meta["batched"] = {i: size for i, size in enumerate(merged) if isinstance(size, BatchSize)}
        a.meta["shape"] = _merge_values(a, a.meta.get("val"), b.meta.get("val"), sizes)
    if len(left) != len(right):
        raise _differs(left[-1], f"{len(left)} operations at one size, {len(right)} at the other")
    for a, b in zip(left, right, strict=True):
        if a.op == "get_attr":
            _check_captured(a, getattr(first, str(a.target)), getattr(second, str(b.target)))


def _check_captured(node: Node, a: Any, b: Any) -> None:
    """What the traces captured must be one tensor, whatever the batch."""
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        origin = next((origin for user in node.users if (origin := origin_of(user)) is not None), None)
        place = f" in {origin.describe()}" if origin else ""
        raise ContractError(f"forward uses a {type(a).__name__} object{place}; a graph holds tensors only")
    same_kind = a.dtype == b.dtype and a.shape == b.shape
    if not same_kind or not torch.allclose(a.double(), b.double(), rtol=0, atol=0, equal_nan=True):
        raise ContractError(
            "the model turns something computed from its inputs or from the batch size into a constant (through "
            "numpy, tolist, torch.tensor, nn.Parameter or random numbers for each sample); keep to operations on "
            "tensors, and take sizes from x.shape"
        )


def _merge(node: Node, a: Any, b: Any, sizes: tuple[int, int]) -> Any:
    if isinstance(a, Node):
        if a is not b:
            raise _differs(node, f"{node.target} takes other inputs")
        return a
    if type(a) is int and type(b) is int and a != b:
        factor, rest = divmod(a - b, sizes[0] - sizes[1])
        if rest:
            raise _differs(node, f"the number {a} at one size is {b} at the other")
        return BatchSize(factor, a - factor * sizes[0])
    if type(a) is not type(b) or (isinstance(a, (int, float, str, bool)) and a != b and not (a != a and b != b)):
        raise _differs(node, f"the argument {a} at one size is {b} at the other")
    return a


def _merge_values(node: Node, a: Any, b: Any, sizes: tuple[int, int]) -> Any:
    if isinstance(a, torch.Tensor):
        return tuple(_merge(node, int(x), int(y), sizes) for x, y in zip(a.shape, b.shape, strict=True))
    if isinstance(a, (tuple, list)):
        if len(a) != len(b):
            raise _differs(node, f"{len(a)} pieces at one size are {len(b)} at the other")
        return tuple(_merge_values(node, x, y, sizes) for x, y in zip(a, b, strict=True))
    return None


def _differs(node: Node, what: str) -> ContractError:
    origin = origin_of(node)
    place = f" in {origin.describe()}" if origin else ""
    return ContractError(
        f"the model computes differently at different batch sizes{place}: {what}; "
        "expected the same operations whatever the batch is"
    )


def arguments_of(node: Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A node's positional and keyword arguments, sizes that grow with the batch as `BatchSize`."""
    batched = node.meta.get("batched")
    if not batched:
        return node.args, node.kwargs
    flat, spec = tree_flatten((node.args, node.kwargs))
    return tree_unflatten([batched.get(i, leaf) for i, leaf in enumerate(flat)], spec)  # type: ignore[no-any-return]
