"""Random numbers that forward draws."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.trace import trace
from ebm_export.runtime.errors import ContractError

from .referee import score_graph, session


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def seeded(x: torch.Tensor) -> torch.Tensor:
    return x * torch.randn(5, generator=generator())


def seeded_for_all(x: torch.Tensor) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return x * torch.rand(5) + torch.rand_like(torch.zeros(5))


def in_place(x: torch.Tensor) -> torch.Tensor:
    g = generator()
    return x * torch.empty(5).normal_(generator=g).mul_(2) + torch.randn(5, generator=g).add_(3)


def order(x: torch.Tensor) -> torch.Tensor:
    return x[:, torch.randperm(5, generator=generator())[:3]]


@pytest.mark.parametrize("function", [seeded, seeded_for_all, in_place, order])
def test_numbers_of_a_fixed_seed_are_constants(function: Callable[[torch.Tensor], torch.Tensor]) -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return function(x).sin().sum(1)

    state = torch.random.get_rng_state()
    opened = session(score_graph(make_energy(energy, torch.zeros(2, 5))))
    assert torch.equal(torch.random.get_rng_state(), state)
    x = torch.randn(3, 5)
    feeds = {"x": x.numpy(), "grad_scale": np.ones(3, np.float32)}
    np.testing.assert_allclose(opened.run(["energy"], feeds)[0], energy(x).numpy(), rtol=1e-5, atol=1e-6)


def test_numbers_drawn_for_each_sample_are_refused_with_their_place() -> None:
    text = r"forward draws random numbers in the model itself \(test_random_draws\.py:\d+, in .*register_buffer"
    with pytest.raises(ContractError, match=text):
        trace(make_energy(lambda x: (x.sin() + 0 * torch.rand_like(x)).sum(1), torch.zeros(2, 5)))


def test_numbers_that_are_others_in_float64_are_compared_in_float32(tmp_path: Path) -> None:
    """From 16 on PyTorch draws other ones for float64, in which engines are judged where that is the same function."""

    def energy(x: torch.Tensor) -> torch.Tensor:
        return (x * torch.randn(20, dtype=x.dtype, generator=generator())).sin().sum(1)

    export(energy, torch.randn(4, 20), out=tmp_path / "drawn.ebm")
