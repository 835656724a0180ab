"""Frees the batch size of a program that was exported with a fixed one."""

from __future__ import annotations

import copy
import itertools
import math
import operator
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from ..runtime.errors import ContractError
from .archived_graph import ArchivedGraph, archived_graph, example_inputs
from .batch_trials import check_independence, check_repeatability

__all__ = ["rebatch"]

_SIZES = {"size", "sizes", "shape", "repeats", "length", "end", "split_size", "split_sizes"}
"""Names of the arguments, in the schemas of PyTorch's operations, in which a batch size can stand."""

_NO_SIZE = 2**31
"""From here on a number means "to the end"."""

_MOST_PLANS = 48
"""How many ways to place the batch are compared with the archive before it is given up."""

_MOST_STEPS = 40_000
"""How many operations may be tried on shapes in the search for them (some 50 us each)."""

_ROUNDING = 1e-5
"""Difference of an energy from the archive's own that counts as rounding, relative to the largest energy; float32 sums
in another order differ by some 1e-6."""

_SPREAD = 1e-3
"""The same relative to the spread of the energies over samples; a sample in a wrong place differs by about 1."""


def rebatch(program: ExportedProgram) -> ArchivedGraph:
    """Turns an exported program into a module that takes any batch size.

    A program exported with a dynamic batch is taken as it is. In one exported at a fixed batch of N, the sizes that
    are the batch look like all other numbers. They are found in two steps:

    1. On shapes alone: the graph is run with another batch size, one operation after the other. Wherever a size
       argument is a multiple of N it may or may not grow with the batch; choices under which an operation fails, or
       under which a tensor gets a shape that is not the archive's with N exchanged, are taken back.
    2. On numbers: what remains is run at other batch sizes and compared, sample by sample, with the archive itself
       run on batches of N.

    Args:
        program: a program whose inputs all have the batch as their leading dimension.

    Returns:
        The module; parameters and buffers have their names of the archive.

    Raises:
        ContractError: the batch cannot be freed; the text has the line that exports it anew.
    """
    module = archived_graph(program)
    inputs = [node for node in module.graph.nodes if node.op == "placeholder"]
    leading = [_leading(node) for node in inputs]
    if all(size is None for size in leading):
        return module
    fixed = {size for size in leading if size is not None}
    if len(fixed) != 1 or None in leading:
        listing = ", ".join(f"{node.name}: {tuple(node.meta['val'].shape)}" for node in inputs)
        raise ContractError(
            f"the archive's inputs do not share one leading batch dimension ({listing}); {_how_to_export(inputs)}"
        )
    batch = fixed.pop()
    assert batch is not None
    examples = example_inputs(program) or tuple(_made_up(node.meta["val"]) for node in inputs)
    for plan in itertools.islice(_plans(module, batch), _MOST_PLANS):
        candidate = _apply(module, plan)
        if _agrees(module, candidate, examples, batch):
            return candidate
    _explain(module, examples, batch)
    raise ContractError(
        f"the archive was exported with a fixed batch of {batch}, and no way of running it at other batch sizes gives "
        f"the same energies; {_how_to_export(inputs)}"
    )


def _how_to_export(inputs: list[fx.Node]) -> str:
    names = [str(node.target) for node in inputs]
    shapes = ", ".join(f'"{name}": {{0: batch}}' for name in names)
    return (
        'export it again with a dynamic batch: batch = torch.export.Dim("batch"); torch.export.export(model, '
        f"({', '.join(names)},), dynamic_shapes={{{shapes}}}), with an example batch of 2 or more, or use save_energy"
    )


def _leading(node: fx.Node) -> int | None:
    """The fixed leading size of an input, or None where it is dynamic."""
    value = node.meta["val"]
    if not isinstance(value, torch.Tensor) or value.dim() == 0:
        raise ContractError(
            f"the archive's input {node.name!r} has no leading batch dimension; expected [B, ...]: give one value "
            "per sample, or make it a buffer of the model"
        )
    return value.shape[0] if isinstance(value.shape[0], int) else None


def _made_up(value: torch.Tensor) -> torch.Tensor:
    sizes = [int(size) for size in value.shape]
    if value.is_floating_point():
        return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(value.dtype)
    return torch.zeros(sizes, dtype=value.dtype)


# --- the search on shapes


@dataclass(frozen=True)
class _Choice:
    """Which flat arguments of one node grow with the batch, and by what factor."""

    places: tuple[tuple[int, int], ...] = ()


def _plans(module: ArchivedGraph, batch: int) -> Iterator[dict[fx.Node, _Choice]]:
    """Yields placements of the batch under which every shape comes out right, the likeliest first."""
    nodes = list(module.graph.nodes)
    taken = [int(d) for n in nodes for v in _tensors(n.meta.get("val")) for d in v.shape if isinstance(d, int)]
    # A prime above all sizes and not dividing any: a reshape with the batch in a wrong place then rarely fits.
    other = next(p for p in range(max([*taken, 7]) + 1, 10**9) if all(p % k for k in range(2, math.isqrt(p) + 1)))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    values: dict[fx.Node, Any] = {}
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    fakes = {name: mode.from_tensor(value.detach()) for name, value in state.items()}

    def run(node: fx.Node, choice: _Choice) -> bool:
        """Runs one node on shapes; False where it fails or its shape is not the archive's with N exchanged."""
        if node.op == "placeholder":
            shown = node.meta["val"]
            with mode:
                values[node] = torch.empty((other, *shown.shape[1:]), dtype=shown.dtype)
            return True
        if node.op == "get_attr":
            target = str(node.target)
            values[node] = fakes[target] if target in fakes else operator.attrgetter(target)(module)
            return True
        if node.op == "output":
            result = values[node.args[0]]  # type: ignore[index]
            return isinstance(result, torch.Tensor) and result.dim() > 0 and result.shape[0] == other
        args, kwargs = _replaced(node, choice, other)
        args, kwargs = fx.map_arg((args, kwargs), lambda n: values[n])
        try:
            with mode, torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception:  # whatever an operation raises for a shape that does not fit
            return False
        return _fits(node.meta.get("val"), values[node], batch, other)

    # A shape that does not fit is what the search lives on; the fake tensors would log each with its traceback.
    fake_tensor.log.disabled = True
    try:
        yield from _search(nodes, batch, values, run)
    finally:
        fake_tensor.log.disabled = False


def _search(
    nodes: list[fx.Node], batch: int, values: dict[fx.Node, Any], run: Callable[[fx.Node, _Choice], bool]
) -> Iterator[dict[fx.Node, _Choice]]:
    """Depth first: the next node with its first choice that fits, and back to the latest other choice where none does."""
    steps = 0
    stack: list[Iterator[_Choice]] = [iter(_choices(nodes[0], batch, values))]
    chosen: list[_Choice] = []
    while stack:
        index = len(stack) - 1
        choice = next(stack[-1], None)
        steps += 1
        if choice is None or steps > _MOST_STEPS:
            if steps > _MOST_STEPS:
                return
            stack.pop()
            if chosen:
                chosen.pop()
            continue
        if not run(nodes[index], choice):
            continue
        if index + 1 == len(nodes):
            yield {node: c for node, c in zip(nodes, chosen, strict=False) if c.places}
            continue
        chosen.append(choice)
        stack.append(iter(_choices(nodes[index + 1], batch, values)))


def _choices(node: fx.Node, batch: int, values: dict[fx.Node, Any]) -> list[_Choice]:
    """What can be meant by the numbers of a node: at most one of its sizes is the batch.

    The leading size comes first, then none (a leading -1 means the batch already), then the others. A number that
    counts along a dimension (slice, split) is no batch where that dimension is none.
    """
    places = _size_places(node, batch)
    along = _argument(node, "dim")
    source = _argument(node, "self")
    if places and along is not None and isinstance(source, fx.Node):
        shown, now = source.meta.get("val"), values[source]
        if isinstance(shown, torch.Tensor) and shown.shape[along] == now.shape[along]:
            places = []
    if not places:
        return [_Choice()]
    first, *others = places
    if first[1] == 0:  # it is the leading entry of its list, or a number that stands alone
        return [_Choice((first[::2],)), _Choice(), *(_Choice((other[::2],)) for other in others)]
    return [_Choice(), *(_Choice((place[::2],)) for place in places)]


def _size_places(node: fx.Node, batch: int) -> list[tuple[int, int, int]]:
    """(flat place, place in its list, factor) of every size argument that is a multiple of the batch."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return []
    names = [argument.name for argument in target._schema.arguments]
    named = [*zip(names, node.args, strict=False), *node.kwargs.items()]
    found = []
    flat = 0
    # Flat places count as pytree flattens (args, kwargs).
    for name, value in named:
        leaves = pytree.tree_leaves(value)
        for within, leaf in enumerate(leaves):
            if name in _SIZES and type(leaf) is int and 0 < leaf < _NO_SIZE and leaf % batch == 0:
                found.append((flat + within, within, leaf // batch))
        flat += len(leaves)
    return found


def _argument(node: fx.Node, name: str) -> Any:
    """The value of an operation's argument by its name in the schema, its default where it is not given, or None."""
    target = node.target
    if node.op != "call_function" or not isinstance(target, torch._ops.OpOverload):
        return None
    for place, argument in enumerate(target._schema.arguments):
        if argument.name == name:
            if place < len(node.args):
                return node.args[place]
            return node.kwargs.get(name, argument.default_value)
    return None


def _replaced(node: fx.Node, choice: _Choice, size: Any) -> tuple[Any, Any]:
    if not choice.places:
        return node.args, node.kwargs
    flat, spec = pytree.tree_flatten((node.args, node.kwargs))
    for place, factor in choice.places:
        flat[place] = size if factor == 1 else size * factor
    return pytree.tree_unflatten(flat, spec)  # type: ignore[no-any-return]


def _fits(shown: Any, value: Any, batch: int, other: int) -> bool:
    """Whether every size is the archive's own, or that with N exchanged."""
    before, now = _tensors(shown), _tensors(value)
    if len(before) != len(now):
        return shown is None
    for a, b in zip(before, now, strict=True):
        if a.dim() != b.dim():
            return False
        for m, n in zip(a.shape, b.shape, strict=True):
            if n != m and (m % batch or n != m // batch * other):
                return False
    return True


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


# --- applying a plan, and the check on numbers


def _apply(module: ArchivedGraph, plan: dict[fx.Node, _Choice]) -> ArchivedGraph:
    """A copy of the module, sharing its tensors, whose batch sizes are read from the first input."""
    shared = {id(value): value for value in (*module.parameters(), *module.buffers())}
    index = {node: i for i, node in enumerate(module.graph.nodes)}
    result = copy.deepcopy(module, shared)  # type: ignore[arg-type]
    nodes = list(result.graph.nodes)
    if not plan:
        return result
    inputs = [node for node in nodes if node.op == "placeholder"]
    with result.graph.inserting_after(inputs[-1]):
        size = result.graph.call_function(torch.ops.aten.sym_size.int, (inputs[0], 0))
    products: dict[int, fx.Node] = {1: size}
    for choice in plan.values():
        for _, factor in choice.places:
            if factor not in products:
                with result.graph.inserting_after(size):
                    products[factor] = result.graph.call_function(operator.mul, (size, factor))
    for node, choice in plan.items():
        twin = nodes[index[node]]
        flat, spec = pytree.tree_flatten((twin.args, twin.kwargs))
        for place, factor in choice.places:
            flat[place] = products[factor]
        twin.args, twin.kwargs = pytree.tree_unflatten(flat, spec)
    result.graph.lint()
    return result


def _agrees(original: ArchivedGraph, candidate: ArchivedGraph, examples: tuple[torch.Tensor, ...], batch: int) -> bool:
    """Whether the candidate gives the archive's energies at a smaller, an equal and a larger batch."""
    generator = torch.Generator().manual_seed(1)
    wanted, got = [], []
    for size in sorted({1, batch, 2 * batch + 1}):
        rows = [_rows(example, size, generator) for example in examples]
        # The archive sees the same samples in groups of N, the last one filled up with copies.
        groups = -(-size // batch)
        padded = [torch.cat([r, r[-1:].expand(groups * batch - size, *r.shape[1:])]) for r in rows]
        with torch.no_grad():
            parts = [copy.deepcopy(original)(*(p[g * batch : (g + 1) * batch] for p in padded)) for g in range(groups)]
            wanted.append(torch.cat(parts)[:size])
            try:
                got.append(copy.deepcopy(candidate)(*rows))
            except (RuntimeError, ValueError, IndexError, TypeError):
                return False
        if got[-1].shape != wanted[-1].shape:
            return False
    energies = torch.cat(wanted)
    allowed = _ROUNDING * energies.abs().max() + _SPREAD * energies.std(dim=0, correction=0).max()
    return bool(((torch.cat(got) - energies).abs() <= allowed).all())


def _rows(example: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """[size, ...] samples: the example's, moved by noise of their own so that no two are equal."""
    rows = example.detach()[torch.arange(size) % example.shape[0]]
    if rows.is_floating_point():
        spread = rows.float().std(correction=0).clamp_min(0.1).item() if rows.numel() else 0.0
        rows = rows + 0.3 * spread * torch.randn(rows.shape, generator=generator).to(rows.dtype)
    return rows


def _explain(module: ArchivedGraph, examples: tuple[torch.Tensor, ...], batch: int) -> None:
    """Raises what the contract says where the archive itself breaks it, which is then the real reason."""
    rows = tuple(_rows(example, batch, torch.Generator().manual_seed(2)) for example in examples)
    check_repeatability(module, rows)
    if batch > 1:
        check_independence(module, rows, at_other_sizes=False)
