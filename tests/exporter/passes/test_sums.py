"""Sums beside the batch as products."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.passes.sums import SumByProduct
from ebm_export.runtime import SamplerConfig, load

from .graphs import check_pass, graph, kinds, run

AXES = {"one": np.array([1], np.int64), "two": np.array([1, 2], np.int64), "apart": np.array([1, 3], np.int64)}
AXES |= {"last": np.array([-1], np.int64), "back": np.array([-3], np.int64)}
FEEDS = {"x": np.random.default_rng(0).standard_normal((3, 16, 5, 4)).astype(np.float32)}


def reduced(operation: str, result: str) -> ir.Model:
    return graph(f"g (float[B, 16, 5, 4] x) => (float[{result}] y) {{ y = {operation} }}", AXES)


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ("ReduceMean<keepdims=1>(x, one)", "B, 1, 5, 4"),
        ("ReduceMean<keepdims=0>(x, one)", "B, 5, 4"),
        ("ReduceSum(x, two)", "B, 1, 1, 4"),
        ("ReduceSum<keepdims=0>(x, two)", "B, 4"),
        ("ReduceMean<keepdims=0>(x, back)", "B, 5, 4"),
    ],
)
def test_a_sum_beside_the_batch_is_a_product_with_the_same_digits_at_each_batch(operation: str, result: str) -> None:
    model = reduced(operation, result)
    assert check_pass(SumByProduct(), model, FEEDS)
    assert "MatMul" in kinds(model) and not any(kind.startswith("Reduce") for kind in kinds(model))
    whole = run(model, FEEDS)[0]
    for rows in (1, 2):
        np.testing.assert_array_equal(run(model, {"x": FEEDS["x"][:rows]})[0], whole[:rows])
    assert not check_pass(SumByProduct(), model, FEEDS)


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ("ReduceMean(x, last)", "B, 16, 5, 1"),
        ("ReduceMean(x, apart)", "B, 1, 5, 1"),
        ("ReduceMax(x, one)", "B, 1, 5, 4"),
        ("ReduceSumSquare(x, one)", "B, 1, 5, 4"),
        ("ReduceSum(x)", "1, 1, 1, 1"),
    ],
)
def test_the_others_stay(operation: str, result: str) -> None:
    model = reduced(operation, result)
    assert not check_pass(SumByProduct(), model, FEEDS)


class Energy(nn.Module):
    def __init__(self, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.mean = nn.Linear(6, 16), nn.Linear(16, 1), mean

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = nn.functional.silu(self.first(x))
        return self.second(torch.tanh(3 * self.mean(h))).flatten(1).sum(1)


class Patches(nn.Module):
    """Norms over the channels of an image, which are tokens then; onnxruntime moved Transposes past the means of these."""

    def __init__(self, attends: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm, self.layer = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8), nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True) if attends else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(self.stem(x).permute(0, 2, 3, 1))
        if self.attention is None:
            return torch.tanh(self.layer(h).permute(0, 3, 1, 2).mean((2, 3))).sum(1)
        tokens = h.flatten(1, 2)
        return torch.tanh(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1)).sum(1)


def check_alone(energy: nn.Module, x: torch.Tensor, folder: Path) -> None:
    path = export(
        energy.eval(), x[:2], targets=["onnxruntime"], precisions=["fp32"], out=folder / "set.ebm",
        sampler=SamplerConfig(steps=4, step_size=0.01),
    )  # fmt: skip
    with load(path) as ebm:
        found = ebm.score(x.numpy())
        for rows in (1, 3):
            for part, whole in zip(ebm.score(x[:rows].numpy()), found, strict=True):
                np.testing.assert_array_equal(part, whole[:rows])


@pytest.mark.parametrize("attends", [False, True])
def test_a_sample_is_the_same_alone_where_images_become_tokens(attends: bool, tmp_path: Path) -> None:
    check_alone(Patches(attends), torch.randn(9, 3, 8, 8), tmp_path)


@pytest.mark.parametrize(
    "mean",
    [lambda h: h.mean(1), lambda h: h - h.mean(1, keepdim=True), lambda h: nn.functional.layer_norm(h, (16,)).sum(1)],
    ids=["a set", "centred", "tokens"],
)
def test_a_sample_is_the_same_alone(mean: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path) -> None:
    check_alone(Energy(mean), torch.randn(9, 12, 6), tmp_path)
