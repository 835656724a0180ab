"""Freeing the batch of programs that were exported at a fixed one."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.exporter.static_batch import rebatch
from ebm_export.runtime.errors import ContractError

from .models_to_load import ConvEnergy, MlpEnergy, energy_and_gradient, make_conv
from .symbolic_batch import batch_is_symbolic


class Attention(nn.Module):
    """Heads are folded into the batch, and a class token is expanded to it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        # Without it the first token is zero, and the norm magnifies whatever rounding leaves there.
        nn.init.normal_(self.norm.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = torch.cat([self.norm.bias.expand(len(x), 1, 4), x], dim=1)
        mixed = self.norm(tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0])
        return mixed[:, :4].square().sum(dim=(1, 2))


class Recurrent(nn.Module):
    """Makes its own first state, [layers, B, 4], where the batch is not the leading dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out, _ = self.cell(x.transpose(0, 1), torch.zeros(1, x.shape[0], 4))
        return out.transpose(0, 1).reshape(x.shape[0], -1).square().sum(1)


class Blocks(nn.Module):
    """Parts without gradient, patches folded into the batch, and a number per sample by its place."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        patches = x.reshape(batch * 6, 2)
        with torch.no_grad():
            weight = torch.softmax(x.reshape(batch, -1), dim=1)
        hidden = torch.tanh(self.embed(patches)).view(batch, -1)
        rows = torch.arange(batch)
        return (hidden[rows, rows * 0] + (weight * x.flatten(1).square()).sum(1)) * torch.ones(batch)


class Makers(nn.Module):
    """Makes tensors of the batch's size in many ways, in a block with autocast switched off."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(1, 3, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = x.shape[0]
        with torch.autocast("cpu", enabled=False):
            time = torch.full((batch,), 0.5)
            places = self.place.repeat(batch, 1, 1)
            both = torch.cat([x, places, x.new_ones(batch, 1, 4), torch.zeros(batch, 1, 4)], dim=1)
        first, second = torch.cat([both, 2 * both]).split(batch)
        pairs = both.unsqueeze(1).expand(batch, 8, 8, 4) - both.unsqueeze(2)
        return time * (first * second).flatten(1).sum(1) + pairs.square().reshape(batch, 8, -1).sum((1, 2))[:batch]


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (ConvEnergy, (1, 8, 8)),
    "mlp": (MlpEnergy, (4,)),
    "attention": (Attention, (3, 4)),
    "recurrent": (Recurrent, (3, 4)),
    "blocks": (Blocks, (3, 4)),
    "makers": (Makers, (3, 4)),
}


def exported(model: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.export.ExportedProgram:
    """Exports without dynamic shapes, and without PyTorch's warning about what recurrent layers keep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.export.export(model, inputs)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_energies_and_gradients_at_other_batches(name: str, batch: int) -> None:
    build, shape = MODELS[name]
    torch.manual_seed(batch)
    model = build().eval()
    module = rebatch(exported(model, (torch.randn(batch, *shape),)))
    for other in (1, 3, 5, batch):
        x = torch.randn(other, *shape)
        torch.testing.assert_close(energy_and_gradient(module, x), energy_and_gradient(model, x))


# Not the recurrent one: PyTorch has no symbolic shapes for its fused layers.
@pytest.mark.parametrize("name", ["conv", "mlp", "attention", "blocks", "makers"])
def test_the_batch_can_be_traced_as_a_symbol(name: str) -> None:
    build, shape = MODELS[name]
    x = torch.randn(4, *shape)
    assert batch_is_symbolic(rebatch(exported(build().eval(), (x,))), x)


def test_a_dynamic_batch_is_taken_as_it_is() -> None:
    model = make_conv()
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(3, 1, 8, 8),), dynamic_shapes={"x": {0: batch}})
    module = rebatch(program)
    x = torch.randn(5, 1, 8, 8)
    torch.testing.assert_close(energy_and_gradient(module, x), energy_and_gradient(model, x))
    assert batch_is_symbolic(module, x)


def test_parameters_and_buffers_keep_their_names_and_kind() -> None:
    model = make_conv()
    module = rebatch(exported(model, (torch.randn(2, 1, 8, 8),)))
    assert dict(module.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert {name for name, _ in module.named_buffers()} >= {"norm.running_mean", "norm.running_var"}
    with torch.no_grad():
        module.get_parameter("head.bias").add_(1.0)
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(module(x), model(x))  # a program in memory shares the tensors of its model


def test_conditioning_inputs() -> None:
    class Conditional(nn.Module):
        def forward(self, obs: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
            return (obs.view(4, 6) * x.reshape(4, 6)).square().sum(1)

    module = rebatch(exported(Conditional(), (torch.randn(4, 2, 3), torch.randn(4, 6))))
    obs, x = torch.randn(3, 2, 3), torch.randn(3, 6)
    assert list(module.signature.parameters) == ["obs", "x"]
    torch.testing.assert_close(module(obs, x), (obs.flatten(1) * x).square().sum(1))


def test_the_mode_of_gradients_survives_an_error() -> None:
    module = rebatch(exported(Blocks().eval(), (torch.randn(2, 3, 4),)))
    with pytest.raises(RuntimeError):
        module(torch.randn(2, 3, 5))
    assert torch.is_grad_enabled()


class TestErrors:
    def test_samples_that_depend_on_each_other(self) -> None:
        class Coupled(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return F.batch_norm(x, None, None, training=True).pow(4).sum(1)

        with pytest.raises(ContractError, match="energy of sample 0 changes with the other samples"):
            rebatch(exported(Coupled(), (torch.randn(4, 3),)))

    def test_a_batch_that_cannot_be_freed_says_how_to_export(self) -> None:
        class Fixed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("weight", torch.arange(4.0))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.square().sum(1) * self.weight.view(4)

        with pytest.raises(ContractError, match=r'fixed batch of 4.*dynamic_shapes=\{"x": \{0: batch\}\}'):
            rebatch(exported(Fixed(), (torch.randn(4, 3),)))

    def test_inputs_of_different_leading_sizes(self) -> None:
        class Table(nn.Module):
            def forward(self, x: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
                return (x @ table).sum(1)

        with pytest.raises(ContractError, match=r"do not share one leading batch.*x: \(2, 3\), table: \(3, 4\)"):
            rebatch(exported(Table(), (torch.randn(2, 3), torch.randn(3, 4))))

    def test_an_input_without_dimensions(self) -> None:
        class Scaled(nn.Module):
            def forward(self, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
                return scale * x.sum(1)

        with pytest.raises(ContractError, match="input 'scale' has no leading batch dimension"):
            rebatch(exported(Scaled(), (torch.randn(2, 3), torch.tensor(1.0))))

    def test_several_outputs(self) -> None:
        class Two(nn.Module):
            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return x.sum(1), x

        with pytest.raises(ContractError, match="returns 2 values; expected one tensor of energies"):
            rebatch(exported(Two(), (torch.randn(2, 3),)))
