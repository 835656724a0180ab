"""Convolutions of series as those of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.passes.graph import dims
from ebm_export.exporter.passes.series import SeriesAsImages
from ebm_export.runtime import SamplerConfig, load

from .graphs import check_pass, graph

GENERATOR = np.random.default_rng(0)
FEEDS = {"x": GENERATOR.standard_normal((3, 4, 9)).astype(np.float32)}
CONSTANTS = {
    "w": GENERATOR.standard_normal((6, 4, 3)).astype(np.float32),
    "v": GENERATOR.standard_normal((6, 2, 3)).astype(np.float32),
    "b": GENERATOR.standard_normal(6).astype(np.float32),
}


def series(convolution: str, length: int) -> ir.Model:
    return graph(f"g (float[B, 4, 9] x) => (float[B, 6, {length}] y) {{ {convolution} }}", CONSTANTS)


@pytest.mark.parametrize(
    ("convolution", "length"),
    [
        ("y = Conv(x, w)", 7),
        ("y = Conv<pads=[1,2], strides=[2]>(x, w, b)", 5),
        ("y = Conv<kernel_shape=[3], dilations=[2], pads=[2,2]>(x, w, b)", 9),
        ("y = Conv<group=2, pads=[1,1]>(x, v, b)", 9),
        ("c = Conv<pads=[1,1]>(x, w) n = Neg(x) d = Conv<pads=[1,1]>(n, w, b) y = Add(c, d)", 9),
    ],
)
def test_a_convolution_is_that_of_a_line(convolution: str, length: int) -> None:
    model = series(convolution, length)
    for node in model.graph:
        node.name = f"layer {node.outputs[0].name}"
    names = [node.name for node in model.graph if node.op_type == "Conv"]
    assert check_pass(SeriesAsImages(), model, FEEDS)
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert [len(dims(node.inputs[0]) or ()) for node in convolutions] == [4] * len(convolutions)
    assert [node.name for node in convolutions] == names
    assert len({node.inputs[1] for node in convolutions}) == 1
    weight = "v" if "group" in convolution else "w"
    assert weight not in model.graph.initializers and f"{weight}.line" in model.graph.initializers
    assert not check_pass(SeriesAsImages(), model, FEEDS)


@pytest.mark.parametrize(
    "convolution", ['y = Conv<auto_pad="SAME_UPPER">(x, w)', "k = Abs(w) y = Conv<pads=[1,1]>(x, k)"]
)
def test_padding_that_is_worked_out_and_weights_that_are_computed_stay(convolution: str) -> None:
    assert not check_pass(SeriesAsImages(), series(convolution, 9), FEEDS)


class Trajectory(nn.Module):
    """Of places by channels, or of channels by places, which the first convolution reads as they are."""

    def __init__(self, channels_first: bool = False) -> None:
        super().__init__()
        self.channels_first = channels_first
        torch.manual_seed(0)
        self.stem, self.body, self.head = nn.Conv1d(3, 16, 3, 1, 1), nn.Conv1d(16, 16, 3, 2, 1), nn.Conv1d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.silu(self.stem(x if self.channels_first else x.transpose(1, 2)))
        return self.head(torch.nn.functional.silu(self.body(h))).sum((1, 2))


def test_fused_steps_convolve_as_single_ones_do(tmp_path: Path) -> None:
    x = torch.randn(9, 3, 8)
    path = export(
        Trajectory(channels_first=True).eval(), x[:2], targets=["onnxruntime"], precisions=["fp32"], fuse=2,
        sampler=SamplerConfig(steps=4, step_size=0.01), out=tmp_path / "trajectory.ebm",
    )  # fmt: skip
    for name in ("score", "sampler"):
        nodes = onnx.load(path / f"{name}.fp32.onnxruntime.onnx").graph.node
        lines = [node.output[0] for node in nodes if node.op_type == "Unsqueeze"]
        assert all(node.input[0] in lines for node in nodes if node.op_type == "Conv"), name
    found = []
    for fuse in (True, False):
        with load(path, backend="onnxruntime", fuse=fuse) as ebm:
            found.append(ebm.refine(x.numpy(), seed=0))
    np.testing.assert_array_equal(*found)


def test_a_bundle_for_onnxruntime_has_images(tmp_path: Path) -> None:
    energy, x = Trajectory().eval(), torch.randn(9, 8, 3)
    path = export(
        energy, x[:2], targets=["onnx", "onnxruntime"], precisions=["fp32"], fuse=2,
        sampler=SamplerConfig(steps=4, step_size=0.01), out=tmp_path / "trajectory.ebm",
    )  # fmt: skip
    lines = {}
    for name in ("score.fp32.onnx", "score.fp32.onnxruntime.onnx", "sampler.fp32.onnxruntime.onnx"):
        nodes = onnx.load(path / name).graph.node
        lines[name] = sum(node.op_type == "Unsqueeze" and "line" in node.name for node in nodes)
    assert lines["score.fp32.onnx"] == 0 < lines["score.fp32.onnxruntime.onnx"] < lines["sampler.fp32.onnxruntime.onnx"]
    wanted = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(energy(wanted).sum(), wanted)
    with load(path, backend="onnxruntime") as ebm:
        found = ebm.score(x.numpy())
        np.testing.assert_allclose(found[1], grad.numpy(), rtol=1e-4, atol=1e-6)
        for part, whole in zip(ebm.score(x[:4].numpy()), found, strict=True):
            np.testing.assert_array_equal(part, whole[:4])
