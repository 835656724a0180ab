"""Target tensorrt: a real plan for every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.targets.tensorrt import available, write
from ebm_export.exporter.trace import trace
from ebm_export.runtime import tensorrt_library
from ebm_export.runtime.errors import MissingBackend, UnsupportedOperation
from ebm_export.runtime.tensorrt_library import fingerprint

BATCH = (1, 4, 8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_builds_a_plan(tmp_path: Path, score_graph: Any, precision: str) -> None:
    steps: list[tuple[str, int, int]] = []
    entry = write(
        score_graph(precision),
        tmp_path,
        precision=precision,
        batch=BATCH,
        progress=lambda *step: steps.append(step),
    )
    assert entry["path"] == f"score.{precision}.tensorrt.plan"
    assert (tmp_path / entry["path"]).stat().st_size > 1000
    assert (entry["status"], entry["options"]) == ("built, not run", {"batch": list(BATCH)})
    assert entry["toolchain"][fingerprint().library] == fingerprint().version
    assert steps


def test_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, score_graph: Any) -> None:
    assert available() is None
    monkeypatch.setattr(tensorrt_library, "_MODULES", ("a_package_nobody_has",))
    assert "target 'tensorrt' cannot be written: neither" in str(available())
    with pytest.raises(MissingBackend, match=r"ebm-export\[tensorrt-rtx\]"):
        write(score_graph("fp32"), tmp_path, precision="fp32", batch=BATCH)
    assert not list(tmp_path.iterdir())


class Adding(torch.nn.Module):
    """Adds rows of all samples to one list, which takes a scatter that adds; TensorRT has none."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = (2 * torch.arange(x.shape[0])[:, None] + torch.tensor([1, 1])).flatten()
        return x.reshape(-1, 3).index_add(0, rows, x.reshape(-1, 3).sin()).reshape(-1, 6).square().sum(1)


class Counting(torch.nn.Module):
    """Counts in one list for all samples, by an operation of which TensorRT does not say which node it refuses."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        places = 2 * torch.arange(x.shape[0])[:, None] + (x[:, :, 0] > 0)
        ones = torch.ones_like(places).flatten()
        counts = torch.zeros_like(ones).scatter_add(0, places.flatten(), ones)
        return (x.sum(2) * counts.reshape(-1, 2)).square().sum(1)


@pytest.mark.parametrize(
    ("model", "refused", "stands_for"),
    [
        (Adding(), "the ScatterND node 'inner/ScatterND': Assertion", "aten.index_put.default"),
        (Counting(), r"the ScatterElements node \(the parser does not say which\): Unsupported", "aten.scatter_add"),
    ],
)
def test_a_refusal_names_the_place_in_the_model(
    tmp_path: Path, model: torch.nn.Module, refused: str, stands_for: str
) -> None:
    holder = torch.nn.Sequential()
    holder.add_module("inner", model)
    graph = ir.to_proto(lower(trace(make_energy(holder, torch.zeros(2, 2, 3))), "score"))
    with pytest.raises(
        UnsupportedOperation,
        match=rf"does not take {refused}.*; it stands for {stands_for}.*, in module 'inner' \(test_tensorrt.py:\d+, in "
        r"forward\); rewrite that line",
    ) as caught:
        write(graph, tmp_path, precision="fp32", batch=BATCH)
    assert caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())
