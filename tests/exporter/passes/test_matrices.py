"""Products with one matrix in place of copies of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.passes import ShareMatrix
from ebm_export.runtime import SamplerConfig, load

from .graphs import check_pass, graph

GENERATOR = np.random.default_rng(0)
FEEDS = {"x": GENERATOR.standard_normal((6, 5, 4)).astype(np.float32)}
CONSTANTS = {
    "w": GENERATOR.standard_normal((4, 4)).astype(np.float32),
    "k": GENERATOR.standard_normal((5, 5)).astype(np.float32),
    "copies": np.array([2, 3, 4, 4], np.int64),
    "six": np.array([6, 4, 4], np.int64),
    "more": np.array([6, 5, 5], np.int64),
    "turned": np.array([6, 2, 8], np.int64),
    "again": np.array([6, 4, 4], np.int64),
}


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("e = Expand(w, six) y = MatMul(x, e)", "w"),
        ("e = Expand(w, copies) f = Reshape(e, six) y = MatMul(x, f)", "w"),
        ("e = Expand(w, copies) f = Reshape(e, six) t = Transpose<perm=[0,2,1]>(f) y = MatMul(x, t)", "w.transposed"),
        ("e = Expand(w, copies) t = Transpose<perm=[1,0,3,2]>(e) f = Reshape(t, six) y = MatMul(x, f)", "w.transposed"),
        ("e = Expand(k, more) y = MatMul(e, x)", "k"),
    ],
)
def test_a_product_reads_the_matrix_itself(body: str, read: str) -> None:
    model = graph(f"g (float[6, 5, 4] x) => (float[6, 5, 4] y) {{ {body} }}", CONSTANTS)
    assert check_pass(ShareMatrix(), model, FEEDS)
    product = next(node for node in model.graph if node.op_type == "MatMul")
    assert read in [value.name for value in product.inputs if value is not None]
    assert not check_pass(ShareMatrix(), model, FEEDS)


@pytest.mark.parametrize(
    "body",
    [
        "y = MatMul(x, w)",
        "e = Expand(w, six) f = Reshape(e, turned) h = Reshape(f, again) y = MatMul(x, h)",  # its last dimensions were others
        "e = Expand(w, six) t = Transpose<perm=[2,1,0]>(e) f = Reshape(t, again) y = MatMul(x, f)",
        "e = Expand(w, six) m = Mul(e, e) y = MatMul(x, m)",
    ],
)
def test_what_is_no_copy_stays(body: str) -> None:
    model = graph(f"g (float[6, 5, 4] x) => (float[6, 5, 4] y) {{ {body} }}", CONSTANTS)
    assert not check_pass(ShareMatrix(), model, FEEDS)


def test_a_matrix_that_gives_the_product_its_samples_is_copied() -> None:
    model = graph("g (float[5, 4] x) => (float[6, 5, 4] y) { e = Expand(w, six) y = MatMul(x, e) }", CONSTANTS)
    assert not check_pass(ShareMatrix(), model, {"x": FEEDS["x"][0]})


class Places(nn.Module):
    """A square layer for each place of a permuted image: its gradient was wrong on OpenVINO, and the export ended."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.layer, self.place = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Linear(8, 8),
            nn.Parameter(torch.randn(6, 6, 8)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(self.stem(x).permute(0, 2, 3, 1) + self.place).softmax(-1)
        return h.permute(0, 3, 1, 2).square().flatten(1).sum(1)


def test_a_layer_of_a_permuted_image(tmp_path: Path) -> None:
    energy, x = Places().eval(), torch.randn(4, 3, 6, 6)
    path = export(
        energy, x[:2], targets=["openvino", "onnxruntime"], precisions=["fp32"], out=tmp_path / "places.ebm",
        sampler=SamplerConfig(steps=4, step_size=0.01),
    )  # fmt: skip
    wanted = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(energy(wanted).sum(), wanted)
    for backend in ("openvino", "onnxruntime"):
        with load(path, backend=backend) as ebm:
            np.testing.assert_allclose(ebm.score(x.numpy())[1], grad.numpy(), rtol=1e-3, atol=1e-6)
