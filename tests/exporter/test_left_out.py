"""Energies that do not read all of x."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig


def said(energy: Callable[[torch.Tensor], torch.Tensor], folder: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    settings = SamplerConfig(steps=12, step_size=0.05)
    export(energy, torch.zeros(2, 3, 4), out=folder / "made.ebm", targets=["onnxruntime"], sampler=settings)
    return [message for message in caplog.messages if "numbers of x have no gradient" in message]


def test_numbers_that_nothing_depends_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = said(lambda x: x[:, :2, 1:].square().sum((1, 2)), tmp_path, caplog)
    assert len(found) == 1
    assert found[0].startswith(
        "6 of 12 numbers of x have no gradient at any of 96 states along chains, the first of them x[:, 0, 0]"
    )


def test_a_gradient_that_is_zero_at_times_is_no_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert not said(lambda x: x.relu().square().sum((1, 2)), tmp_path, caplog)
