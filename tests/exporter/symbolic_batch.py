"""Traces a module with a symbolic batch, as a tracer of symbolic shapes would."""

from __future__ import annotations

import torch
from torch import nn
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

__all__ = ["batch_is_symbolic"]


def batch_is_symbolic(module: nn.Module, *inputs: torch.Tensor) -> bool:
    """Whether energy and gradient trace, and come out with the batch of the inputs still a symbol."""
    shapes = ShapeEnv(duck_shape=False)
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)

    def fake(name: str, value: torch.Tensor, *, batched: bool) -> torch.Tensor:
        sizes = [DimDynamic.DYNAMIC if batched and i == 0 else DimDynamic.STATIC for i in range(value.dim())]
        return mode.from_tensor(
            value, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes), source=ConstantSource(name)
        )

    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: fake(name, value.detach(), batched=False) for name, value in tensors.items()}
    rows = [
        fake(f"x{i}", value[:1].repeat(11, *[1] * (value.dim() - 1)), batched=True) for i, value in enumerate(inputs)
    ]
    for other in rows[1:]:
        torch._check(other.shape[0] == rows[0].shape[0])

    def joint(state: dict[str, torch.Tensor], rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = rows[0].detach().requires_grad_()
        energy = torch.func.functional_call(module, state, (leaf, *rows[1:]))
        (grad,) = torch.autograd.grad(energy.sum(), leaf)
        return energy, grad

    with mode:
        traced = make_fx(joint, _allow_non_fake_inputs=True)(state, rows)
    results = next(node for node in traced.graph.nodes if node.op == "output").args[0]
    return all(isinstance(node.meta["val"].shape[0], torch.SymInt) for node in results) and all(
        value is None or str(symbol) != str(rows[0].shape[0]) for symbol, value in shapes.replacements.items()
    )
