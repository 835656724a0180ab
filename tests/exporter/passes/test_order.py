"""Images that are permuted, computed on and permuted back, as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes.graph import dims
from ebm_export.exporter.passes.order import KeepOrder
from ebm_export.exporter.sampler_graph import sampler_graph
from ebm_export.runtime import SamplerConfig, load

from ..referee import score_graph
from .graphs import check_pass, graph, kinds

GENERATOR = np.random.default_rng(0)


def numbers(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def i64(*sizes: int) -> np.ndarray:
    return np.array(sizes, np.int64)


FEEDS = {"x": numbers(3, 4, 2, 5), "c": numbers(3, 1, 1, 4)}
CONSTANTS = {
    "w": numbers(4),
    "p": numbers(2, 5, 1),
    "m": numbers(4, 6),
    "b": numbers(6),
    "k": numbers(6, 4),
    "one": np.float32(1),
}
CONSTANTS |= {"last": i64(-1), "places": i64(1, 2), "middle": i64(2), "row": numbers(1, 4)}
CONSTANTS |= {
    "flat": i64(-1, 4),
    "lines": i64(-1, 5, 4),
    "six": i64(-1, 2, 5, 6),
    "four": i64(-1, 2, 5, 4),
    "heads": i64(-1, 2, 5, 2, 2),
}
TURNED = "t = Transpose<perm=[0,2,3,1]>(x)"
BACK = "y = Transpose<perm=[0,3,1,2]>(v)"


def permuted(body: str, channels: int = 4, end: str = BACK, result: str | None = None) -> ir.Model:
    result = result or f"float[B, {channels}, 2, 5] y"
    return graph(f"g (float[B, 4, 2, 5] x, float[B, 1, 1, 4] c) => ({result}) {{ {TURNED} {body} {end} }}", CONSTANTS)


NORM = """
a = ReduceMean<keepdims=1>(t, last) d = Sub(t, a) q = Mul(d, d) s = ReduceMean<keepdims=1>(q, last) e = Add(s, one) r = Sqrt(e)
n = Div(d, r)
"""


@pytest.mark.parametrize(
    ("body", "channels"),
    [
        (f"{NORM} v = Mul(n, w)", 4),
        ("u = Add(t, p) v = Mul(w, u)", 4),
        ("u = Add(t, c) v = Add(u, c)", 4),
        ("g = Greater(t, w) v = Where(g, t, one)", 4),
        ("v = LeakyRelu<alpha=0.3>(t)", 4),
        ("m1 = ReduceMax<keepdims=1>(t, places) v = Sub(t, m1)", 4),
        ("m1 = ReduceMax<keepdims=1>(t, middle) v = Sub(t, m1)", 4),
        ("v = MatMul(t, m)", 6),
        ("f = Reshape(t, flat) h = Gemm(f, m, b) z = Reshape(h, six) v = Relu(z)", 6),
        ("f = Reshape(t, flat) o = Mul(f, row) h = Gemm<transB=1>(o, k, b) v = Reshape(h, six)", 6),
        ("f = Reshape(t, lines) h = MatMul(f, m) a = Sub(h, b) v = Reshape(a, six)", 6),
        ("f = Reshape(t, lines) e = Reshape(f, flat) h = Gemm(e, m, b) v = Reshape(h, six)", 6),
        ("f = Reshape(t, flat) a = ReduceMean<keepdims=1>(f, last) o = Sub(f, a) v = Reshape(o, four)", 4),
    ],
)
def test_between_two_transposes_there_are_none(body: str, channels: int) -> None:
    model = permuted(body, channels)
    for node in model.graph:
        node.name = f"layer {node.outputs[0].name}"
    products = [node.name for node in model.graph if node.op_type in ("Gemm", "MatMul")]
    assert check_pass(KeepOrder(), model, FEEDS)
    assert kinds(model).count("Transpose") == ("c)" in body)  # what is turned has one place
    assert not {"Reshape", "Gemm", "MatMul"} & set(kinds(model))
    assert [node.name for node in model.graph if node.op_type == "Conv"] == products
    for node in model.graph:
        if node.op_type != "Transpose":
            assert len(dims(node.outputs[0]) or ()) == 4
    assert not check_pass(KeepOrder(), model, FEEDS) or "c)" in body


def test_a_mean_over_all_places_ends_it_too() -> None:
    model = permuted(NORM, end="y = ReduceMean<keepdims=0>(n, places)", result="float[B, 4] y")
    assert check_pass(KeepOrder(), model, FEEDS) and "Transpose" not in kinds(model)


@pytest.mark.parametrize(
    ("body", "end", "result"),
    [
        ("v = Relu(t)", "y = Identity(v)", "float[B, 2, 5, 4] y"),
        ("v = Relu(t)", "y = Transpose<perm=[0,1,3,2]>(v)", "float[B, 2, 4, 5] y"),
        ("v = Softmax(t)", BACK, None),
        ("v = Relu(t) h = Reshape(v, heads)", "y = ReduceMean<keepdims=0>(h, last)", "float[B, 2, 5, 2] y"),
        ("v = Relu(t)", "y = ReduceMean<keepdims=0>(v, last)  z = Transpose<perm=[0,3,1,2]>(v)", "float[B, 2, 5] y, float[B, 4, 2, 5] z"),
        ("v = Relu(t)", "y = ReduceMean<keepdims=0>(v, middle)", "float[B, 2, 4] y"),
        ("f = Reshape(t, flat) h = Gemm<transA=1>(f, f) g = ReduceMean<keepdims=1>(h) v = Mul(t, g)", BACK, None),
    ],
)  # fmt: skip
def test_what_is_read_as_it_is_stays(body: str, end: str, result: str | None) -> None:
    model = permuted(body, end=end, result=result)
    shortened = "y = ReduceMean<keepdims=0>(v, last)" in end
    assert check_pass(KeepOrder(), model, FEEDS) == shortened  # [B, *places] is the same of both


class Layers(nn.Module):
    """A residual network of norms and layers of permuted images, shifted by a condition."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.shift, self.head = nn.Conv2d(3, 16, 2, 2), nn.Linear(4, 16), nn.Linear(16, 1)
        self.depths = nn.ModuleList(nn.Conv2d(16, 16, 5, 1, 2, groups=16) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(2))
        self.wide = nn.ModuleList(nn.Linear(16, 32) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        for depth, norm, wide, narrow in zip(self.depths, self.norms, self.wide, self.narrow, strict=True):
            turned = norm(depth(h).permute(0, 2, 3, 1)) + self.shift(c)[:, None, None]
            h = h + narrow(nn.functional.gelu(wide(turned))).permute(0, 3, 1, 2)
        return self.head(h.mean((2, 3))).squeeze(1)


def test_a_gradient_has_no_permuted_image_left_in_single_steps_and_in_fused_ones() -> None:
    energy = make_energy(Layers().eval(), torch.randn(4, 3, 8, 8), cond={"c": torch.randn(4, 4)})
    score = score_graph(energy)
    steps = sampler_graph(score, SamplerConfig(steps=4, step_size=0.1), 2, highest_scale=None)
    for model in (score, steps):
        layers = [node.name for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul")]
        assert KeepOrder()(model).modified
        assert [node.name for node in model.graph if node.op_type in ("Conv", "Gemm", "MatMul")] == layers
        products = [node.name or "" for node in model.graph if node.op_type in ("Gemm", "MatMul")]
        assert products and all("head" in name or "shift" in name for name in products)
        for node in model.graph:
            if node.op_type == "Transpose" and "sampler/Transpose" not in (node.name or ""):
                assert list(node.outputs[0].shape or ())[1:] == [16, 1, 1], node  # the condition


def test_openvino_answers_as_pytorch_and_the_same_in_each_batch(tmp_path: Path) -> None:
    energy, (x, c) = Layers().eval(), (torch.randn(9, 3, 8, 8), torch.randn(9, 4))
    path = export(
        energy, x[:2], cond={"c": c}, targets=["openvino"], precisions=["fp32"], fuse=2,
        sampler=SamplerConfig(steps=4, step_size=0.01), out=tmp_path / "layers.ebm",
    )  # fmt: skip
    wanted = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(energy(wanted, c).sum(), wanted)
    with load(path) as ebm:
        found = ebm.score(x.numpy(), c=c.numpy())
        np.testing.assert_allclose(found[1], grad.numpy(), rtol=1e-4, atol=1e-6)
        for rows in (1, 3, 8):
            for part, whole in zip(ebm.score(x[:rows].numpy(), c=c[:rows].numpy()), found, strict=True):
                np.testing.assert_array_equal(part, whole[:rows])
    chains = []
    for fuse in (True, False):
        with load(path, fuse=fuse) as ebm:
            chains.append(ebm.refine(x.numpy(), seed=0, cond={"c": c.numpy()}))
    np.testing.assert_array_equal(*chains)
