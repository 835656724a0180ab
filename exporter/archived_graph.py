"""The graph of an exported program as a module that runs it operation by operation."""

from __future__ import annotations

import inspect
import math
import operator
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.utils import _pytree as pytree

from ..runtime.errors import ContractError, LoadError
from .named_state import register_state

__all__ = ["ArchivedGraph", "archived_graph", "example_inputs"]

_CHECKS = {
    "aten::_assert_async",
    "aten::_assert_scalar",
    "aten::_assert_tensor_metadata",
    "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size",
}
"""Operations that only compare with what was seen at export; a graph made for every batch has no use for them."""


class ArchivedGraph(nn.Module):
    """Runs a graph whose parameters and buffers are this module's, under their dotted names of the archive.

    The graph is interpreted, not compiled to source, so that each operation runs under the module path and source
    line that the archive recorded for it.
    """

    def __init__(self, graph: fx.Graph, inputs: tuple[str, ...]) -> None:
        super().__init__()
        self.graph = graph
        self.signature = inspect.Signature(
            [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in inputs]
        )

    def forward(self, *inputs: torch.Tensor) -> Any:
        """Returns the graph's one output."""
        # The graph may switch gradients off for a part of itself; an error there must not leave them off.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            return _Runner(self, graph=self.graph).run(*inputs, enable_io_processing=False)


class _Runner(fx.Interpreter):
    """Runs the blocks that torch.export keeps as graphs of their own (autocast switched on) as what they are."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is torch.ops.higher_order.wrap_with_autocast:
            device, dtype, enabled, cache, block, *rest = args
            with torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=cache):
                return _Runner(block).run(*rest)
        return super().call_function(target, args, kwargs)


def archived_graph(program: ExportedProgram) -> ArchivedGraph:
    """Turns an exported program into a module of its user inputs.

    Lifted parameters, buffers and constants become the module's own under their names, inputs that were constants at
    export are put in place, and the checks of shapes seen at export are left out.

    Raises:
        ContractError: the program does not return one tensor.
        LoadError: an operation in it is none of PyTorch's.
    """
    graph = fx.Graph()
    names: list[str] = []
    placed: dict[fx.Node, Any] = {}
    state: dict[str, torch.Tensor] = {}
    parameters: set[str] = set()
    placeholders = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if spec.kind is InputKind.USER_INPUT:
            if isinstance(spec.arg, ConstantArgument):
                placed[node] = spec.arg.value
                continue
            names.append(node.name)
            placed[node] = graph.placeholder(node.name)
            placed[node].meta = dict(node.meta)
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            assert spec.target is not None
            value = program.state_dict.get(spec.target, program.constants.get(spec.target))
            if not isinstance(value, torch.Tensor):
                raise LoadError(f"the archive has no value for its {spec.kind.name.lower()} {spec.target!r}")
            state[spec.target] = value
            if spec.kind is InputKind.PARAMETER:
                parameters.add(spec.target)
            placed[node] = node
        else:
            raise LoadError(
                f"the archive has an input of kind {spec.kind.name.lower()} ({node.name}); expected tensors only: "
                "export a model without custom objects"
            )
    result = _output(program)
    holder = ArchivedGraph(graph, tuple(names))
    targets = register_state(holder, state, parameters)
    for node, spec in zip(placeholders, program.graph_signature.input_specs, strict=True):
        if placed[node] is node:
            assert spec.target is not None
            placed[node] = graph.get_attr(targets[spec.target])
            placed[node].meta = dict(node.meta)
    blocks = _Blocks(holder)
    _copy_nodes(program.graph_module, graph, placed, blocks)
    graph.output(placed[result])
    graph.eliminate_dead_code(is_impure_node=_writes)
    _check_operations(graph)
    return holder


def example_inputs(program: ExportedProgram) -> tuple[torch.Tensor, ...] | None:
    """The inputs that the program was exported with, in the order of its graph, or None where it holds none."""
    if not program.example_inputs:
        return None
    args, kwargs = program.example_inputs
    spec = program.call_spec.in_spec
    if kwargs and spec is not None:
        order = spec.child(1).context if spec.num_children > 1 else list(kwargs)
        kwargs = {name: kwargs[name] for name in order}
    flat = pytree.tree_leaves((args, kwargs))
    specs = [s for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    if len(flat) != len(specs):
        return None
    return tuple(value for value, s in zip(flat, specs, strict=True) if isinstance(s.arg, TensorArgument))


def _output(program: ExportedProgram) -> fx.Node:
    specs = program.graph_signature.output_specs
    values = next(node for node in program.graph.nodes if node.op == "output").args[0]
    user = [v for v, s in zip(values, specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
    if len(user) != 1 or not isinstance(user[0], fx.Node):
        raise ContractError(
            f"the archive returns {len(user)} values; expected one tensor of energies [B]: "
            "export a model whose forward returns the energy alone"
        )
    return user[0]


class _Blocks:
    """Keeps graphs inside the graph under names of their own."""

    def __init__(self, holder: nn.Module) -> None:
        self.holder = holder
        self.count = 0

    def add(self, block: nn.Module) -> str:
        name = f"_block_{self.count}"
        self.count += 1
        self.holder.add_module(name, block)
        return name


def _copy_nodes(source: fx.GraphModule, graph: fx.Graph, placed: dict[fx.Node, Any], blocks: _Blocks) -> Any:
    """Copies all operations of `source`; returns what its output node refers to, in the new graph.

    Blocks that run with gradients switched on or off become part of the graph, between two switches, so that their
    sizes are seen like all others; so do blocks with autocast switched off, since it is off outside them as well.
    """
    opened: dict[fx.Node, fx.GraphModule] = {}
    for node in source.graph.nodes:
        if node.op == "placeholder":
            continue
        if node.op == "output":
            return fx.map_arg(node.args[0], lambda n: placed[n])
        if node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(source)
            if isinstance(value, fx.GraphModule):
                opened[node] = value
                continue
            name = f"_constant_{len(list(blocks.holder.buffers(recurse=False)))}"
            blocks.holder.register_buffer(name, value, persistent=False)
            placed[node] = graph.get_attr(name)
        elif node.target is torch.ops.higher_order.wrap_with_set_grad_enabled:
            enabled, block, *rest = node.args
            inner = opened[block]
            before = graph.call_function(_set_gradients, (enabled,))
            placed[node] = _copy_nodes(inner, graph, _inside(inner, rest, placed), blocks)
            graph.call_function(_set_gradients, (before,))
            continue
        elif node.target is torch.ops.higher_order.wrap_with_autocast and node.args[2] is False:
            _, _, _, _, block, *rest = node.args
            inner = opened[block]
            placed[node] = _copy_nodes(inner, graph, _inside(inner, rest, placed), blocks)
            continue
        elif _is_check(node.target):
            continue
        elif node.target is operator.getitem and not isinstance(placed[node.args[0]], fx.Node):
            placed[node] = placed[node.args[0]][node.args[1]]  # an output of a block that was opened
            continue
        else:

            def place(n: fx.Node) -> Any:
                if n in opened and n not in placed:
                    placed[n] = graph.get_attr(blocks.add(opened[n]))
                return placed[n]

            args, kwargs = fx.map_arg((node.args, node.kwargs), place)
            placed[node] = graph.create_node(node.op, node.target, args, kwargs, name=node.name)
        placed[node].meta = dict(node.meta)
    raise LoadError("the archive's graph has no output")


def _inside(block: fx.GraphModule, inputs: list[Any], placed: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    """What the placeholders of a block stand for in the new graph."""
    names = [node for node in block.graph.nodes if node.op == "placeholder"]
    values = (placed[value] if isinstance(value, fx.Node) else value for value in inputs)
    return dict(zip(names, values, strict=True))


def _set_gradients(enabled: bool) -> bool:
    """Switches gradients on or off and returns what they were."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


def _is_check(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.name in _CHECKS


def _writes(node: fx.Node) -> bool:
    if node.op in ("placeholder", "output"):
        return True
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return bool(target._schema.is_mutable)
    return target is _set_gradients


def _check_operations(graph: fx.Graph) -> None:
    """Refuses a graph that calls anything but PyTorch's operations and arithmetic on sizes.

    An archive names its operations by text, and PyTorch looks that text up among all its attributes.
    """
    for node in graph.nodes:
        if node.op in ("placeholder", "output", "get_attr"):
            continue
        target = node.target
        allowed = (
            isinstance(target, (torch._ops.OpOverload, torch._ops.HigherOrderOperator))
            or target is _set_gradients
            or getattr(target, "__module__", None) in ("_operator", "math")
            or target in (torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_ite)
            or target in (math.ceil, math.floor, math.trunc)
        )
        if node.op != "call_function" or not allowed:
            raise LoadError(f"the archive calls {target!r} ({node.op}), which is no operation of PyTorch")
