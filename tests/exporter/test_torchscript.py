"""TorchScript graphs run operation by operation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.torchscript import ScriptedGraph
from ebm_export.runtime.errors import LoadError

from .models_to_load import ConditionalEnergy, MlpEnergy, energy_and_gradient, make_conv
from .referee import score_graph, session
from .symbolic_batch import batch_is_symbolic


def saved(path: Path, make: Callable[[], torch.jit.ScriptModule]) -> torch.jit.ScriptModule:
    """Writes a TorchScript file with PyTorch and reads it back, without PyTorch's notes of deprecation."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make().save(str(path))
        return torch.jit.load(str(path))


FORMS = {
    "traced": lambda model, x: torch.jit.trace(model, x),
    "scripted": lambda model, x: torch.jit.script(model),
    "frozen": lambda model, x: torch.jit.freeze(torch.jit.script(model)),
}
MODELS = {"conv": (make_conv, (1, 8, 8)), "mlp": (MlpEnergy, (4,))}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_energies_and_gradients_are_the_originals(tmp_path: Path, name: str, form: str) -> None:
    build, shape = MODELS[name]
    model = build().eval()
    scripted = saved(tmp_path / "m.pt", lambda: FORMS[form](model, torch.randn(3, *shape)))
    module = ScriptedGraph(scripted)
    assert list(module.signature.parameters) == ["x"]
    for batch in (1, 3, 6):
        x = torch.randn(batch, *shape)
        torch.testing.assert_close(energy_and_gradient(module, x), energy_and_gradient(model, x))
    assert batch_is_symbolic(module, torch.randn(3, *shape))
    if form != "frozen":
        assert dict(module.named_parameters()).keys() == dict(model.named_parameters()).keys()
        assert set(dict(module.named_buffers())) >= set(dict(model.named_buffers()))


@pytest.mark.parametrize("form", ["traced", "scripted"])
def test_a_part_of_a_model_can_be_torchscript(tmp_path: Path, form: str) -> None:
    """A pretrained encoder, say; its parameters would be trained with those of the model."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers = nn.Sequential(nn.Linear(3, 8), nn.SiLU(), nn.Linear(8, 8)).eval()
            self.encoder = saved(tmp_path / "m.pt", lambda: FORMS[form](layers, torch.randn(2, 3)))
            self.head = nn.Linear(8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(x).tanh()).squeeze(1)

    model = Outer().eval()
    assert all(parameter.requires_grad for parameter in model.parameters())
    x = torch.randn(4, 3)
    opened = session(score_graph(make_energy(model, x[:2])))
    found = opened.run(["energy", "grad"], {"x": x.numpy(), "grad_scale": np.ones(4, np.float32)})
    for value, expected in zip(found, energy_and_gradient(model, x), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-6)
    assert all(parameter.requires_grad for parameter in model.parameters())


CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(2, 4, 3, padding=1), (2, 6)),
    "2d": (lambda: nn.Conv2d(2, 4, 3, stride=2, dilation=2, padding="valid"), (2, 8, 8)),
    "3d": (lambda: nn.Conv3d(2, 4, 2, groups=2), (2, 4, 4, 4)),
    "circular": (lambda: nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), (2, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 4, 3, 2, output_padding=1), (2, 3, 3)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_become_graphs(tmp_path: Path, name: str, form: str) -> None:
    build, shape = CONVOLUTIONS[name]
    x = torch.randn(3, *shape)
    front = nn.Sequential(build(), nn.SiLU(), nn.Flatten())
    model = nn.Sequential(front, nn.Linear(front(x).shape[1], 1), nn.Flatten(0)).eval()
    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: FORMS[form](model, x)))
    opened = session(score_graph(make_energy(module, x)))
    found = opened.run(["energy", "grad"], {"x": x.numpy(), "grad_scale": np.ones(3, np.float32)})
    expected = energy_and_gradient(model, x)
    torch.testing.assert_close(tuple(map(torch.tensor, found)), expected, rtol=1e-4, atol=1e-5)


def test_a_copy_has_its_own_parameters(tmp_path: Path) -> None:
    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(MlpEnergy().eval())))
    copied = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(copied(torch.randn(2, 4)), torch.zeros(2))
    assert not torch.equal(module(torch.randn(2, 4)), torch.zeros(2))


def test_the_mode_of_a_scripted_module_can_be_changed(tmp_path: Path) -> None:
    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(MlpEnergy().train())))
    x = torch.randn(2, 4)
    assert module.training
    assert module.drop.training  # type: ignore[union-attr]
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_defaults_of_a_scripted_forward_stay(tmp_path: Path) -> None:
    model = ConditionalEnergy().eval()
    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(model)))
    obs, action = torch.randn(3, 3), torch.randn(3, 2)
    torch.testing.assert_close(module(obs, action), model(obs, action))
    torch.testing.assert_close(module(obs, action, 5.0), model(obs, action, 5.0))


def test_a_part_without_gradient_stays_without(tmp_path: Path) -> None:
    class Stopped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                weight = torch.softmax(x, 1)
            return (weight * x).sum(1)

    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(Stopped())))
    x = torch.randn(3, 4)
    _, grad = energy_and_gradient(module, x)
    torch.testing.assert_close(grad, torch.softmax(x, 1))
    assert torch.is_grad_enabled()


def test_lists_dictionaries_tuples_and_dtypes(tmp_path: Path) -> None:
    class Containers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.sizes = [1, 2]

        def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return x * 2, {"square": x * x, "ones": torch.ones_like(x, dtype=torch.float64).to(x.dtype)}

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            double, named = self.parts(x)
            total = torch.zeros(x.size(0), dtype=x.dtype, device=x.device)
            for size in self.sizes:
                total = total + double[:, -size]
            for key, value in named.items():
                if key != "ones":
                    total = total + value.sum(1)
            index = torch.tensor([0, 1])
            chunks = x.split([1, x.shape[1] - 1], dim=1)
            if x.dim() == 2 and not x.is_complex():
                total = total + x[:, index].to(torch.float32).sum(1) + chunks[1].mean(1)
            while total.dim() > 1:
                total = total.squeeze(-1)
            return total + named["ones"].sum(1)

    model = Containers()
    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(model)))
    x = torch.randn(3, 4)
    torch.testing.assert_close(energy_and_gradient(module, x), energy_and_gradient(model, x))
    assert batch_is_symbolic(module, x)


def test_shared_weights_stay_shared(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.second(torch.tanh(self.first(x))).sum(1)

    module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(Tied())))
    assert len(list(module.parameters())) == 1


class TestErrors:
    def test_an_error_that_the_model_raises(self, tmp_path: Path) -> None:
        class Checked(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                if x.shape[1] != 4:
                    raise ValueError("expected four numbers")
                return x.sum(1)

        module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(Checked())))
        assert module(torch.randn(2, 4)).shape == (2,)
        with pytest.raises(RuntimeError, match="the TorchScript model raised: expected four numbers"):
            module(torch.randn(2, 5))

    def test_an_operation_that_cannot_be_run(self, tmp_path: Path) -> None:
        class Listed(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                values: list[float] = x[0].tolist()
                return x.sum(1) + values[0]

        module = ScriptedGraph(saved(tmp_path / "m.pt", lambda: torch.jit.script(Listed())))
        with pytest.raises(
            LoadError, match=r"uses prim::tolist, which this exporter cannot run; export the model with save_energy"
        ):
            module(torch.randn(2, 4))

    def test_a_file_without_forward(self, tmp_path: Path) -> None:
        class Library(nn.Module):
            @torch.jit.export
            def half(self, x: torch.Tensor) -> torch.Tensor:
                return x / 2

        scripted = saved(tmp_path / "m.pt", lambda: torch.jit.script(Library()))
        with pytest.raises(LoadError, match="has no forward method"):
            ScriptedGraph(scripted)
