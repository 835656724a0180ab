"""What a function captures becomes part of the module that calls it."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from ebm_export.exporter import export, make_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.function_module import FunctionModule
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.errors import ContractError

CONFIG = SamplerConfig(steps=6, step_size=0.05, noise=0.01)
GLOBAL = torch.full((3,), 2.0)


def test_captured_tensors_and_modules_are_copied() -> None:
    weight, layer = torch.ones(3, requires_grad=True), nn.Linear(3, 1)
    module = FunctionModule(lambda x: (layer(x) + x @ weight + x @ GLOBAL).squeeze(1))
    assert {name for name, _ in module.named_buffers()} == {"fn_weight", "fn_GLOBAL"}
    x = torch.randn(4, 3)
    before = module(x)
    copied = copy.deepcopy(module).double()
    with torch.no_grad():
        weight.zero_()
        layer.weight.zero_()
    torch.testing.assert_close(copied(x.double()).float(), before)
    assert not torch.equal(module(x), before)  # the module itself still uses the originals


def test_a_function_that_keeps_count_is_found_out_and_left_alone() -> None:
    count = torch.zeros(())

    def counting(x: torch.Tensor) -> torch.Tensor:
        count.add_(1)
        return x.square().sum(1) * count

    with pytest.raises(ContractError, match="two calls with the same inputs gave different energies"):
        check_contract(make_energy(counting, torch.randn(4, 3)))
    assert count == 0


def test_tensors_of_inference_mode(tmp_path: Path) -> None:
    with torch.inference_mode():
        weight, layer, x = torch.randn(3, 3), nn.Linear(3, 1), torch.randn(4, 3)
    path = export(
        lambda x: (x @ weight).square().sum(1) + layer(x).squeeze(1), x, out=tmp_path / "m.ebm", sampler=CONFIG
    )
    with load(path, threads=1) as ebm:
        value, _ = ebm.score(x.numpy())
    torch.testing.assert_close(torch.tensor(value), ((x @ weight).square().sum(1) + layer(x).squeeze(1)).clone())


def test_one_that_cannot_be_reached_is_refused_by_name() -> None:
    with torch.inference_mode():
        hidden = [torch.randn(3, 3)]
    with pytest.raises(ContractError, match="made in torch.inference_mode.*clone it outside of inference mode"):
        check_contract(make_energy(lambda x: (x @ hidden[0]).square().sum(1), torch.randn(4, 3)))
