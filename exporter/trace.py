"""Traces an energy and its input gradient into one functional ATen graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..runtime.errors import ContractError, UnsupportedOperation
from .batch import generalize
from .checked_functions import WithoutChecks, unchecked_distributions
from .data_dependence import DataDependence
from .energy import Energy
from .finite_gradients import FiniteGradients
from .full_precision import FullPrecision
from .module_copy import copy_module
from .provenance import Provenance
from .random_draws import refuse_draws
from .rules import decompositions
from .score_graph import GIVEN, ScoreGraph
from .simplify import simplify
from .sparse import dense
from .zero_tangents import PlainZeros

__all__ = ["graph_dtype", "input_names", "trace"]

_RESERVED = ("x", "grad_scale", "energy", "grad", "sample")
"""Names of inputs and outputs of ours, those of the file with a whole chain included."""


def trace(energy: Energy, *, with_energy: bool = True) -> ScoreGraph:
    """Traces E and grad_scale * dE/dx for every batch size.

    The model is traced at two concrete batch sizes and the traces are compared: sizes that differ are the batch,
    any other difference is an error. Symbolic shapes would say the same, but many operations lack them.

    The user's own autograd runs below the tracer, so custom autograd functions, `no_grad` blocks, detached
    values and gradients taken inside `forward` mean in the graph what they mean in PyTorch.

    Args:
        energy: the model with example inputs; it is copied, never changed.
        with_energy: whether the graph returns the energy too; without it nothing that only the energy needs
            is left in the graph.

    Returns:
        The score graph, functional, with everything that depends on parameters alone folded.

    Raises:
        ContractError: the model fixes the batch size, or fails under tracing.
    """
    kept = {**dict(energy.module.named_parameters()), **dict(energy.module.named_buffers())}
    state = {name: dense(value).detach().cpu() for name, value in kept.items()}
    names = input_names(energy)
    inputs = [name for name in names.values() if name != "x"]
    inputs = ["x", *inputs, "grad_scale"]
    sizes = _batch_sizes(energy, state)
    first, second = (_trace_at(energy, size, with_energy=with_energy) for size in sizes)
    generalize(first, second, sizes)
    constants, origins = _name_placeholders(first, state, inputs)
    _note_given_types(first.graph, energy)
    jumps = simplify(first, constants, origins) or first.meta["drawn"]
    outputs = ("energy", "grad") if with_energy else ("grad",)
    return ScoreGraph(first.graph, constants, origins, tuple(inputs), sizes[0], outputs, jumps)


def _trace_at(energy: Energy, batch: int, *, with_energy: bool) -> torch.fx.GraphModule:
    """Functional ATen of (state, inputs) -> (energy, grad) at one batch size."""
    module = copy_module(energy.module)
    module.requires_grad_(False)
    names = input_names(energy)
    parameters = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    inputs = _inputs(energy, batch)
    provenance = Provenance(module)
    followed: list[DataDependence] = []

    def joint(parameters: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        arguments = {
            name: _as_given(inputs[names[name]], example)
            for name, example in zip(energy.inputs, energy.example, strict=True)
        }
        x = arguments[energy.wrt] = arguments[energy.wrt].detach().requires_grad_()
        follow = DataDependence([*inputs.values(), *arguments.values()], provenance)
        followed.append(follow)
        with FullPrecision(), WithoutChecks(), FiniteGradients(), PlainZeros(), follow, provenance, torch.enable_grad():
            value = energy.reduce(torch.func.functional_call(module, parameters, tuple(arguments.values())))
            (grad,) = torch.autograd.grad(value, x, inputs["grad_scale"].to(value.dtype))
        result = (grad.to(torch.float32),)
        return (value.to(torch.float32), *result) if with_energy else result

    with _tracing():
        try:
            traced = make_fx(joint, _error_on_data_dependent_ops=False)(parameters, inputs)
            functional = _functional(traced, parameters, inputs)
        except (ContractError, UnsupportedOperation):
            raise
        except Exception as error:  # whatever the user's own code raises
            raise ContractError(
                f"the model cannot be traced{provenance.describe_last()}: {type(error).__name__}: {_first_line(error)}"
            ) from error
    functional.graph.eliminate_dead_code()
    refuse_draws(functional.graph)
    functional.meta["drawn"] = any(follow.drawn for follow in followed)
    return functional


def input_names(energy: Energy) -> dict[str, str]:
    """Graph input name of each of the energy's inputs; the refined one is `x`, a clash gets underscores until the name is free."""
    names: dict[str, str] = {}
    taken = {*_RESERVED, *energy.cond}
    for name in energy.inputs:
        free = name
        while name in _RESERVED and free in taken:
            free += "_"
        names[name] = "x" if name == energy.wrt else free
        taken.add(names[name])
    return names


def graph_dtype(example: torch.Tensor) -> torch.dtype:
    """Type that an input has in the score graph: float32, int64 or bool."""
    if example.dtype == torch.bool:
        return torch.bool
    return torch.float32 if example.is_floating_point() else torch.int64


def _as_given(value: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
    """A graph input in the type that forward is given: a uint8 image wraps in there, an int64 one would not."""
    return value if example.is_floating_point() else value.to(example.dtype)


def _batch_sizes(energy: Energy, state: dict[str, torch.Tensor]) -> tuple[int, int]:
    """Two primes that no dimension of the model or its inputs equals, so that no coincidence of sizes counts."""
    taken = {int(size) for tensor in (*state.values(), *energy.example) for size in tensor.shape}
    primes = (n for n in range(5, 100_000) if n not in taken and all(n % k for k in range(2, math.isqrt(n) + 1)))
    return next(primes), next(primes)


def _inputs(energy: Energy, batch: int) -> dict[str, torch.Tensor]:
    """Inputs in the order of the graph: x, the conditioning inputs, grad_scale.

    Real tensors, not fake ones: a mask or an index that the model makes of constants then has a value, so that it can
    be folded. Numbers made of x cannot reach the graph: what depends on an input is an operation there.
    """
    names = input_names(energy)
    examples = dict(zip(energy.inputs, energy.example, strict=True))
    inputs: dict[str, torch.Tensor] = {}
    for name in [energy.wrt, *(name for name in energy.inputs if name != energy.wrt)]:
        example = examples[name]
        # Other rows and other numbers at each batch size, so that a value of theirs cannot pass for a constant.
        rows = example.detach().cpu()[(torch.arange(batch) + batch) % len(example)].to(graph_dtype(example))
        inputs[names[name]] = rows * (1 + 1e-3 / batch) + 1e-3 / batch if rows.is_floating_point() else rows
    inputs["grad_scale"] = torch.ones(batch)
    return inputs


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Settings under which PyTorch takes the paths that have gradients ONNX can express."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    mkldnn = torch._C._get_mkldnn_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # Its fused recurrent layers have no differentiable form. The public context manager also sets TF32, and warns.
    torch._C._set_mkldnn_enabled(False)
    try:
        with (
            fx_traceback.preserve_node_meta(),
            unchecked_distributions(),
            sdpa_kernel(SDPBackend.MATH),
            # A part that is TorchScript runs with other operations from its second call on, and with gradients of its own.
            torch.jit.optimized_execution(False),  # type: ignore[attr-defined]
            # The gradient of a write into a view replays the view; by strides no other layout could follow it.
            torch.autograd.grad_mode._force_original_view_tracking(True),
            # The tracer describes each value by a fake tensor. Left alone it makes a mode for each of them, which takes a stack trace.
            tracing(TracingContext(FakeTensorMode())),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        torch._C._set_mkldnn_enabled(mkldnn)


class _Replay(torch.fx.Interpreter):
    """Runs a traced graph; a rule may give other strides than the operation that it replaces."""

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is torch.ops.aten.view.default:
            target = torch.ops.aten.reshape.default
        return super().call_function(target, args, kwargs)


def _functional(
    traced: torch.fx.GraphModule, parameters: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]
) -> torch.fx.GraphModule:
    """Removes views and in-place writes, and applies the rules of `exporter.rules`."""

    def run(parameters: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor]) -> Any:
        flat = [*parameters.values(), *inputs.values()]
        return _Replay(traced).run(*flat, enable_io_processing=False)

    functional: Callable[..., Any] = torch.func.functionalize(run, remove="mutations")
    tracer = make_fx(functional, decomposition_table=decompositions(), _error_on_data_dependent_ops=False)
    return tracer(parameters, inputs)


def _name_placeholders(
    traced: torch.fx.GraphModule, state: dict[str, torch.Tensor], inputs: list[str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Names inputs as the contract does and turns captured tensors into placeholders like the parameters."""
    graph = traced.graph
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    constants: dict[str, torch.Tensor] = {}
    origins: dict[str, str] = {}
    for index, (node, (name, value)) in enumerate(zip(placeholders, state.items(), strict=False)):
        node.name = node.target = f"state_{index}"
        constants[node.name] = value.detach()
        origins[node.name] = name
    for node, name in zip(placeholders[len(state) :], inputs, strict=True):
        node.name = node.target = f"input_{name}"
    for node in [node for node in graph.nodes if node.op == "get_attr"]:
        value = getattr(traced, str(node.target))
        with graph.inserting_before(placeholders[0] if placeholders else None):
            new = graph.placeholder(f"captured_{len(constants)}")
        new.meta["val"] = node.meta.get("val", value)
        new.meta["shape"] = tuple(value.shape)
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        constants[new.name] = value.detach()
    return constants, origins


def _note_given_types(graph: torch.fx.Graph, energy: Energy) -> None:
    names = input_names(energy)
    given = {f"input_{names[name]}": example for name, example in zip(energy.inputs, energy.example, strict=True)}
    for node in graph.nodes:
        example = given.get(node.name) if node.op == "placeholder" else None
        if example is not None and not example.is_floating_point() and example.dtype != graph_dtype(example):
            node.meta[GIVEN] = example.dtype


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else "no message"
