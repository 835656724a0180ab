"""The constant that OpenVINO adds along the wrong axis, and the pass that keeps it from doing so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig, load


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_weighted_mixture_is_right_at_every_batch(batch: int, tmp_path: Path) -> None:
    means, weights = torch.randn(4, 3), torch.randn(4)

    def energy(x: torch.Tensor) -> torch.Tensor:
        return -torch.logsumexp(weights - (x[:, None] - means).square().sum(-1), 1)

    config = SamplerConfig(steps=12, step_size=0.05)
    path = export(energy, torch.zeros(2, 3), out=tmp_path / "m.ebm", targets=["openvino"], sampler=config)
    x = torch.randn(batch, 3)
    with load(path, backend="openvino", threads=1) as ebm:
        value, _ = ebm.score(x.numpy())
    np.testing.assert_allclose(value, energy(x).numpy(), rtol=1e-5, atol=1e-5)
