"""Shapes that no case of the zoo has, since they belong to no sample."""

from __future__ import annotations

import numpy as np
import torch

from ebm_export.exporter.energy import make_energy

from ..referee import score_graph, session


def test_a_number_expanded_to_one_entry_has_a_dimension() -> None:
    def energy(x: torch.Tensor) -> torch.Tensor:
        return x.square().sum(1) + 0.0 * torch.stack([x.sum()]).sum()  # its gradient expands [] to [1]

    x = torch.randn(3, 4)
    opened = session(score_graph(make_energy(energy, x)))
    value, grad = opened.run(["energy", "grad"], {"x": x.numpy(), "grad_scale": np.ones(3, np.float32)})
    np.testing.assert_allclose(value, energy(x), rtol=1e-6)
    np.testing.assert_allclose(grad, 2 * x, rtol=1e-6)
