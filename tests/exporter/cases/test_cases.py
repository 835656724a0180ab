"""The zoo itself: every case is a deterministic energy, sample by sample, with a gradient worth comparing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from . import FAMILIES, Case, all_cases, arguments, draw, parameter_names, reference_energy
from .third_party import BRANCHING

BATCH = 3
CASES = all_cases()


def evaluate(case: Case, module: torch.nn.Module, seed: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Energy [B] and gradient [B, *S] at drawn inputs."""
    inputs = draw(case, seed, BATCH)
    values = arguments(module, inputs, dtype)
    x = values[parameter_names(module, inputs).index(case.wrt or "x")].requires_grad_()
    energy = reference_energy(case, module(*values))
    (gradient,) = torch.autograd.grad(energy.sum(), x)
    return energy.detach(), gradient


@pytest.mark.parametrize("name", CASES)
def test_case(name: str) -> None:
    case = CASES[name]
    module = case.build()
    assert not module.training
    state = {key: value.clone() for key, value in module.state_dict().items()}
    again = case.build().state_dict()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[key], again[key]) for key in state), "build gives other weights the second time"

    # float32: the module as it is
    energy32, gradient32 = evaluate(case, module, 1, torch.float32)
    assert energy32.shape == (BATCH,)
    assert energy32.dtype == torch.float32
    assert torch.equal(evaluate(case, module, 1, torch.float32)[0], energy32), "two calls disagree"
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items()), "a call changes the state"

    # float64: the referee
    module.double()
    energy, gradient = evaluate(case, module, 1, torch.float64)
    assert energy.dtype == torch.float64
    assert torch.isfinite(energy).all()
    assert torch.isfinite(gradient).all()
    norm = gradient.flatten(1).norm(dim=1)
    assert (norm > 1e-3).all(), "the gradient is zero"
    difference = (gradient32.double() - gradient).flatten(1).norm(dim=1) / norm
    assert (difference < 1e-4).all(), f"float32 and float64 gradients differ by {difference.max():.1e}"

    # the gradient is a function of x, not a constant
    _, other = evaluate(case, module, 2, torch.float64)
    assert not torch.allclose(gradient, other, rtol=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_samples_are_independent(name: str) -> None:
    case = CASES[name]
    module = case.build().double()
    inputs = draw(case, 3, BATCH)
    with torch.no_grad():
        together = reference_energy(case, module(*arguments(module, inputs, torch.float64)))
        for sample in range(BATCH):
            one = {key: value[sample : sample + 1] for key, value in inputs.items()}
            alone = reference_energy(case, module(*arguments(module, one, torch.float64)))
            np.testing.assert_allclose(alone.numpy(), together[sample : sample + 1].numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", BRANCHING)
def test_branching_case_is_a_sound_energy(name: str) -> None:
    case = BRANCHING[name]
    energy, gradient = evaluate(case, case.build().double(), 1, torch.float64)
    assert energy.shape == (BATCH,)
    assert torch.isfinite(energy).all()
    assert torch.isfinite(gradient).all()
    assert (gradient.flatten(1).norm(dim=1) > 1e-3).all()


def test_families_have_cases() -> None:
    assert {name.split("/")[0] for name in CASES} == set(FAMILIES)


def test_draw_repeats() -> None:
    case = CASES["elementwise/cross_entropy"]
    first, second, third = draw(case, 5, 2), draw(case, 5, 2), draw(case, 6, 2)
    assert first["x"].dtype == np.float32
    assert first["target"].dtype == np.int64
    assert all(np.array_equal(first[key], second[key]) for key in first)
    assert not np.array_equal(first["x"], third["x"])
