"""Group norms on images, and not on views of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes.groups import KeepChannels
from ebm_export.exporter.sampler_graph import sampler_graph
from ebm_export.runtime import SamplerConfig, load

from ..referee import score_graph
from .graphs import check_pass, graph, kinds


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


CONSTANTS = {"view": i64(-1, 3, 20), "back": i64(-1, 6, 2, 5), "last": i64(2), "one": np.float32(1)}
CONSTANTS |= {"other": i64(-1, 10, 2, 3), "first": i64(1), "row": np.ones((1, 1, 20), np.float32)}
FEEDS = {"x": np.random.default_rng(0).standard_normal((4, 6, 2, 5)).astype(np.float32)}
NORM = """
m = ReduceMean<keepdims=1>(v, last) d = Sub(v, m) q = Mul(d, d) s = ReduceMean<keepdims=1>(q, last)
t = Add(s, one) r = Sqrt(t) n = Div(d, r)
"""


def norm(
    more: str = "", end: str = "y = Reshape(n, back)", outputs: str = "float[B, 6, 2, 5] y", norm: str = NORM
) -> ir.Model:
    return graph(
        f"g (float[B, 6, 2, 5] x) => ({outputs}) <float[B, 3, 20] v> {{ v = Reshape(x, view) {norm} {more} {end} }}",
        CONSTANTS,
    )


def test_a_norm_is_that_of_the_image() -> None:
    model = norm()
    assert check_pass(KeepChannels(), model, FEEDS)
    assert kinds(model).count("AveragePool") == 2
    of_images = {"AveragePool", "Sub", "Mul", "Div"}
    for node in model.graph:
        if node.op_type in of_images:
            assert len(node.inputs[0].shape) == 4, node
    assert not check_pass(KeepChannels(), model, FEEDS)


def test_numbers_of_groups_are_those_of_each_image_that_they_meet() -> None:
    text = (
        "g (float[B, 6, 2, 5] x, float[B, 12, 5] z) => (float[B, 6, 2, 5] y, float[B, 12, 5] u) <float[B, 3, 20] v, float[B, 3, 20] w> "
        f"{{ v = Reshape(x, view) {NORM} y = Reshape(n, back) w = Reshape(z, view) a = Sub(w, m) b = ReduceMean<keepdims=1>(a, last) "
        "c = Sub(a, b) u = Reshape(c, again) }"
    )
    model = graph(text, {**CONSTANTS, "again": i64(-1, 12, 5)})
    z = np.random.default_rng(1).standard_normal((4, 12, 5)).astype(np.float32)
    assert check_pass(KeepChannels(), model, {**FEEDS, "z": z})
    assert kinds(model).count("AveragePool") == 3


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((6, 7), 3), ((6, 2, 5), 6), ((6, 2, 5), 1), ((4, 3, 2, 2), 2)],
    ids=["series", "each", "all", "volume"],
)
def test_of_any_places_and_groups(shape: tuple[int, ...], groups: int) -> None:
    sizes, numbers = ", ".join(map(str, shape)), int(np.prod(shape)) // groups
    text = f"g (float[B, {sizes}] x) => (float[B, {sizes}] y) <float[B, {groups}, {numbers}] v> {{ v = Reshape(x, view) {NORM} y = Reshape(n, back) }}"
    model = graph(text, {**CONSTANTS, "view": i64(-1, groups, numbers), "back": i64(-1, *shape)})
    assert check_pass(
        KeepChannels(), model, {"x": np.random.default_rng(0).standard_normal((4, *shape)).astype(np.float32)}
    )
    assert {len(node.inputs[0].shape) for node in model.graph if node.op_type == "Mul"} == {1 + len(shape)}


@pytest.mark.parametrize(
    "model",
    [
        norm(outputs="float[B, 6, 2, 5] y, float[B, 3, 20] n"),
        norm("w = Softmax(n)", "y = Reshape(w, back)"),
        norm("w = Transpose<perm=[0,2,1]>(n)", "y = Reshape(w, back)"),
        norm(outputs="float[B, 3, 20] y", end="y = Softmax(n)"),
        norm(end="y = Reshape(n, other)", outputs="float[B, 10, 2, 3] y"),
        norm(norm=NORM.replace("s = ReduceMean<keepdims=1>(q, last)", "s = ReduceMean<keepdims=1>(q, first)")),
        norm(norm=NORM.replace("s = ReduceMean<keepdims=1>(q, last)", "s = ReduceMax<keepdims=1>(q, last)")),
        norm(norm=NORM.replace("d = Sub(v, m)", "d = Sub(v, row)")),
        norm(norm="n = Neg(v)"),
    ],
    ids=["output", "softmax", "turned", "no way back", "another image", "other axis", "largest", "row", "no mean"],
)
def test_a_view_that_is_read_as_one_stays(model: ir.Model) -> None:
    assert not check_pass(KeepChannels(), model, FEEDS)


class Norms(nn.Module):
    """A residual network with norms of groups and of channels, shifted by a condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head, self.shift = nn.Conv2d(3, 16, 3, 1, 1), nn.Linear(16, 1), nn.Linear(4, 16)
        norms = [nn.GroupNorm(4, 16), nn.GroupNorm(16, 16, affine=False), nn.InstanceNorm2d(16, affine=True)]
        self.norms = nn.ModuleList([*norms, nn.InstanceNorm2d(16)])
        self.convolutions = nn.ModuleList([nn.Conv2d(16, 16, 3, 1, 1) for _ in self.norms])

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            h = h + convolution(nn.functional.silu(norm(h) + self.shift(c)[:, :, None, None]))
        return self.head(h.mean((2, 3))).squeeze(1)


def test_a_gradient_has_no_view_left() -> None:
    energy = make_energy(Norms().eval(), torch.randn(4, 3, 8, 8), cond={"c": torch.randn(4, 4)})
    model = score_graph(energy)
    assert KeepChannels()(model).modified
    assert kinds(model).count("AveragePool") == 4 * 4  # mean and variance of each norm, and two means of its gradient
    for node in model.graph:
        shapes = [
            list(value.shape)
            for value in (*node.inputs, *node.outputs)
            if value is not None and value.shape is not None
        ]
        for shape in shapes:
            assert shape[1:] != [4, 256] and (shape[:1] != [1] or shape[2:] != [8, 8]), node


def test_a_norm_of_the_state_itself_is_one_of_the_image_in_each_step() -> None:
    energy = make_energy(
        nn.Sequential(nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 1)).eval(), torch.randn(2, 4, 4, 4)
    )
    score = score_graph(energy)
    steps = sampler_graph(score, SamplerConfig(steps=4, step_size=0.1), 3, highest_scale=None)
    assert KeepChannels()(score).modified and KeepChannels()(steps).modified
    assert 0 < 3 * kinds(score).count("AveragePool") == kinds(steps).count("AveragePool")


def test_openvino_answers_as_pytorch_and_the_same_in_each_batch(tmp_path: Path) -> None:
    energy, (x, c) = Norms().eval(), (torch.randn(9, 3, 8, 8), torch.randn(9, 4))
    path = export(
        energy, x[:2], cond={"c": c}, targets=["openvino"], precisions=["fp32"], fuse=2,
        sampler=SamplerConfig(steps=4, step_size=0.01), out=tmp_path / "norms.ebm",
    )  # fmt: skip
    wanted = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(energy(wanted, c).sum(), wanted)
    with load(path) as ebm:
        found = ebm.score(x.numpy(), c=c.numpy())
        np.testing.assert_allclose(found[1], grad.numpy(), rtol=1e-4, atol=1e-6)
        for rows in (1, 3, 8):
            for part, whole in zip(ebm.score(x[:rows].numpy(), c=c[:rows].numpy()), found, strict=True):
                np.testing.assert_array_equal(part, whole[:rows])
