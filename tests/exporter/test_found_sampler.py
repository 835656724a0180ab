"""Sampler settings for models that come without any."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.found_sampler import find_sampler
from ebm_export.runtime import UsageError


def test_energies_go_down() -> None:
    energy = make_energy(lambda x: 1e4 * x.square().sum(1), torch.zeros(2, 3))
    config, trajectory = find_sampler(energy)
    start, end = (np.square(trajectory.x[stage]).sum() for stage in (0, -1))
    assert config.step_size < 1e-4 and end < start


def test_a_start_without_an_energy_is_named() -> None:
    """There is none for one state of six or so."""
    energy = make_energy(lambda x: x.square().sum(1) + torch.log(x[:, 0] + 1), torch.zeros(2, 3))
    with pytest.raises(
        UsageError, match=r"[1-8] of 8 energies are not finite at states from N\(0, I\), where chains start"
    ):
        find_sampler(energy)
