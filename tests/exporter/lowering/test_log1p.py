"""Logarithms near one, where log(1 + x) loses what 1 + x rounds off."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ebm_export.exporter.energy import make_energy

from ..referee import score_graph, session

NUMBERS = np.array([-0.5, -1e-3, -1e-6, 1e-8, 1e-5, 0.3, 3.0, 1e7, 1e30], np.float32)


def energies(function: Callable[[torch.Tensor], torch.Tensor], numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    opened = session(score_graph(make_energy(lambda x: function(x).sum(1), torch.rand(4, 1))))
    x = numbers[:, None]
    (found,) = opened.run(["energy"], {"x": x, "grad_scale": np.ones(len(x), np.float32)})
    return found, function(torch.tensor(numbers, dtype=torch.float64)).numpy()


def test_log1p_keeps_its_bits() -> None:
    found, exact = energies(torch.log1p, NUMBERS)
    np.testing.assert_allclose(found, exact, rtol=4e-7)  # three roundings of 6e-8 each, and the logarithm's own


def test_log1p_at_its_ends() -> None:
    found, _ = energies(torch.log1p, np.array([-1.0, np.inf], np.float32))
    np.testing.assert_array_equal(found, [-np.inf, np.inf])


@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_softplus_far_below_zero(beta: float) -> None:
    found, exact = energies(lambda x: F.softplus(x, beta), np.array([-25.0, -12.0, -1.0, 0.0, 2.0, 60.0], np.float32))
    np.testing.assert_allclose(found, exact, rtol=2e-6)  # exp's argument of 75 is rounded by 4e-6 / 2


def test_softplus_is_one_operation() -> None:
    model = score_graph(make_energy(lambda x: F.softplus(x).sum(1), torch.rand(4, 1)))
    kinds = [node.op_type for node in model.graph]
    assert kinds.count("Softplus") == 1
    assert "Log" not in kinds
