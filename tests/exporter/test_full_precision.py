"""Models written for mixed precision run in one type, and are exported so."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ebm_export.exporter import export, make_energy, save_energy
from ebm_export.exporter.contract import check_contract
from ebm_export.exporter.full_precision import FullPrecision
from ebm_export.runtime import SamplerConfig, load

CONFIG = SamplerConfig(steps=6, step_size=0.05, noise=0.01)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


class Autocast(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class Decorated(Net):
    @torch.autocast("cpu")
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x)


class Mixed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first.bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x.to(torch.bfloat16)).float().relu())


class Half(Net):
    def __init__(self) -> None:
        super().__init__()
        self.half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros(1, dtype=torch.float16)
        return super().forward(x.half() + zero).float()


ASKED = {Autocast: "autocast", Decorated: "autocast", Mixed: "bfloat16", Half: "float16"}


@pytest.mark.parametrize("kind", ASKED)
def test_exported_in_float32_with_a_line_that_says_so(
    kind: type[Net], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = kind().eval()
    path = export(model, torch.randn(4, 3), out=tmp_path / "m.ebm", sampler=CONFIG)
    assert [line for line in caplog.messages if f"the model asks for {ASKED[kind]} in forward" in line]
    plain = Net().eval()
    plain.load_state_dict({key: value.float() for key, value in model.state_dict().items()})
    x = torch.randn(5, 3)
    with load(path, threads=1) as ebm:
        value, _ = ebm.score(x.numpy())
    torch.testing.assert_close(torch.tensor(value), plain(x).squeeze(1).detach())


@pytest.mark.parametrize("kind", ASKED)
def test_saved_as_an_archive(kind: type[Net], tmp_path: Path) -> None:
    save_energy(kind().eval(), tmp_path / "m.pt2", torch.randn(4, 3))


def test_nothing_is_said_of_a_model_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    check_contract(make_energy(Net().eval(), torch.randn(4, 3)))
    assert not caplog.messages


@pytest.mark.parametrize("around", [lambda: torch.autocast("cpu"), torch.inference_mode, torch.no_grad])
def test_what_the_caller_runs_in_does_not_matter(around: Any, tmp_path: Path) -> None:
    with around():
        export(Net().eval(), torch.randn(4, 3), out=tmp_path / "m.ebm", sampler=CONFIG)


def test_everything_is_as_before_afterwards() -> None:
    enter = torch.autocast.__enter__
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ZeroDivisionError), FullPrecision():
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
            raise ZeroDivisionError
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert torch.autocast.__enter__ is enter
    block = torch.autocast("cpu", torch.bfloat16)
    with FullPrecision() as precision, block:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert precision.found == {"autocast"}
    with block:
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_float64_where_the_reference_asks_for_it() -> None:
    with FullPrecision(torch.float64):
        assert torch.ones(2).half().dtype == torch.float64
        assert torch.ones(2).to(dtype=torch.bfloat16).dtype == torch.float64
        assert torch.ones(2).to(torch.int8).dtype == torch.int8
