"""Chains whose steps are too large, which float32 still holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig


def bowl(x: torch.Tensor) -> torch.Tensor:
    """Curvatures from 1 to 100: a step of more than 0.02 goes up."""
    return (x.square() * torch.tensor([0.5, 5.0, 50.0])).sum(1)


@pytest.mark.parametrize(
    ("settings", "climbs"),
    [
        ({"step_size": 0.0204, "temperature": 0.0, "steps": 200}, True),
        ({"step_size": 0.0205, "sampler": "optimize", "momentum": 0.0, "steps": 200}, True),
        ({"step_size": 0.0204, "steps": 200}, True),
        ({"step_size": 0.0196, "temperature": 0.0, "steps": 200}, False),
        ({"step_size": 0.019, "steps": 400}, False),
        ({"step_size": 0.01, "temperature": 30.0, "steps": 200}, False),
        ({"step_size": 0.03, "sampler": "mala", "steps": 50}, False),
        ({"step_size": 0.01, "noise": 0.001, "steps": 50}, False),
    ],
)
def test_it_is_said_at_the_export(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, float], climbs: bool
) -> None:
    export(
        bowl, torch.zeros(2, 3), out=tmp_path / "bowl.ebm", targets=["onnxruntime"], sampler=SamplerConfig(**settings)
    )
    said = [message for message in caplog.messages if "chains went up" in message]
    assert len(said) == climbs
    if climbs:
        assert "try a smaller step_size (--step-size)" in said[0]
