"""Whole numbers that pick rows of a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.index_limits import index_limits
from ebm_export.exporter.trace import trace
from ebm_export.runtime import UsageError, load


class Labelled(nn.Module):
    """Rows by a label, by tokens through reshapes, by an index that may count from the end, by numbers that are computed, and by the
    first of two numbers, the second of which is a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.label, self.token, self.small = nn.Embedding(10, 4), nn.Embedding(7, 4), nn.Embedding(5, 4)
        self.few = nn.Embedding(8, 4)
        self.table = nn.Parameter(torch.randn(6, 4))

    def forward(
        self,
        x: torch.Tensor,
        label: torch.Tensor,
        tokens: torch.Tensor,
        place: torch.Tensor,
        free: torch.Tensor,
        pair: torch.Tensor,
    ) -> torch.Tensor:
        seen = self.label(label) + self.token(tokens.reshape(-1, 3).unsqueeze(2)).sum((1, 2)) + self.table[place]
        seen = seen + self.small(tokens[:, 0] % 5) + self.label(free % 10) + self.label(free.clamp(0, 9))
        seen = seen + self.small(pair[:, 0]) + 0.01 * pair[:, 1:] + self.small(label % 5) + self.few(label)
        return (x - seen).square().sum(1)


X = torch.randn(4, 4)
COND = {
    "label": torch.arange(4),
    "tokens": torch.arange(12).reshape(4, 3) % 5,
    "place": torch.arange(4).to(torch.int32),
    "free": torch.arange(4),
    "pair": torch.tensor([[0, 700], [1, 3], [2, 5], [4, 1]]),
}


def test_are_those_of_the_tables() -> None:
    assert index_limits(trace(make_energy(Labelled().eval(), X, cond=COND))) == {
        "label": (0, 7),  # the smaller of two tables
        "tokens": (0, 6),
        "place": (-6, 5),
    }


def test_the_runtime_refuses_others(tmp_path: Path) -> None:
    """As PyTorch does; OpenVINO answers with some row."""
    path = export(Labelled().eval(), X, cond=COND, out=tmp_path / "m.ebm", targets=["onnxruntime", "openvino"])
    for backend in ("onnxruntime", "openvino"):
        with load(path, backend=backend, threads=1) as ebm:
            given = {name: rows.numpy() for name, rows in COND.items()}
            ebm.score(X.numpy(), **given | {"free": np.full(4, 123), "place": np.full(4, -6)})
            for name, value in (("label", 8), ("label", -1), ("tokens", 7), ("place", 6), ("place", -7)):
                with pytest.raises(UsageError, match=f"{name}: expected whole numbers from .*got {value}$"):
                    ebm.score(X.numpy(), **given | {name: np.full(given[name].shape, value)})
