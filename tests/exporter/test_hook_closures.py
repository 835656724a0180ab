"""Energies on features that hooks keep, written as people write them: functions inside `__init__` that know `self`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.module_copy import copy_module
from ebm_export.runtime import SamplerConfig, load


class Kept(nn.Module):
    """Its energy reads what a hook on its first layer put into its dictionary."""

    def __init__(self, hooked: Callable[[Kept], Callable[..., None]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        self.features: dict[str, torch.Tensor] = {}
        self.net[0].register_forward_hook(hooked(self))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).squeeze(1) + self.features["h"].square().sum(1)


def by_the_model(model: Kept) -> Callable[..., None]:
    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        model.features["h"] = output

    return hook


def by_its_dictionary(model: Kept) -> Callable[..., None]:
    features = model.features

    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        features["h"] = output

    return hook


def wrapped(model: Kept) -> Callable[..., None]:
    inner = by_the_model(model)

    @functools.wraps(inner)
    def hook(*arguments: Any) -> None:
        inner(*arguments)

    return hook


def of_itself(model: Kept) -> Callable[..., None]:
    def hook(module: nn.Module, given: Any, output: torch.Tensor, again: bool = True) -> None:
        model.features["h"] = output
        if again:
            hook(module, given, output, again=False)

    return hook


HOOKS = [by_the_model, by_its_dictionary, wrapped, of_itself]


@pytest.mark.parametrize("hooked", HOOKS)
@pytest.mark.parametrize("was_run", [False, True])
def test_the_copys_hooks_write_to_the_copy(
    hooked: Callable[[Kept], Callable[..., None]], was_run: bool, tmp_path: Path
) -> None:
    model = Kept(hooked).eval()
    if was_run:
        model(torch.randn(1, 4))
    before = dict(model.features)
    bundle = export(model, torch.randn(4, 4), out=tmp_path / "m.ebm", sampler=SamplerConfig(steps=4, step_size=0.01))
    assert dict(model.features) == before, "the user's module is never written to"
    x = torch.randn(3, 4)
    with load(bundle) as ebm, torch.no_grad():
        np.testing.assert_allclose(ebm.score(x.numpy())[0], model(x).numpy(), rtol=1e-5, atol=1e-6)


def test_other_hooks_stay_as_they_are() -> None:
    kept: dict[str, torch.Tensor] = {}

    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        kept["h"] = output

    layer = nn.Linear(3, 3)
    handle = layer.register_forward_hook(hook)
    copied = copy_module(layer)
    assert copied._forward_hooks[handle.id] is hook
    copied(torch.ones(1, 3))
    assert list(kept) == ["h"]
