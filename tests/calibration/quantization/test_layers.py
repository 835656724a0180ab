from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ebm_export.calibration.quantization.layers import Layer, find_layers
from ebm_export.exporter.energy import make_energy
from tests.exporter.referee import score_graph

from .graphs import conv_net, graph, perceptron


def by_name(model) -> dict[str, Layer]:
    return {layer.name: layer for layer in find_layers(model)}


class TestByHand:
    def test_layers_in_the_order_in_which_they_run(self) -> None:
        assert [layer.name for layer in find_layers(conv_net())] == ["h", "a", "b", "gr", "gb", "grad"]

    def test_flags(self) -> None:
        layers = by_name(conv_net(channels=16, size=8))
        assert {name for name, layer in layers.items() if layer.half == "gradient"} == {"gr", "gb", "grad"}
        assert {name for name, layer in layers.items() if layer.writes_grad} == {"grad"}
        assert {name for name, layer in layers.items() if layer.reads_state} == {"h"}
        assert {name: layer.macs for name, layer in layers.items()} == {
            "h": 2 * 16 * 9 * 64, "a": 16 * 16 * 9 * 64, "b": 16 * 16 * 9 * 64,
            "gr": 16 * 16 * 9 * 64, "gb": 16 * 16 * 9 * 64, "grad": 2 * 16 * 9 * 64,
        }  # fmt: skip
        assert (layers["a"].activation, layers["a"].weight, layers["a"].output) == ("h", "w1", "a")
        assert layers["a"].channel_axis == 0

    def test_products(self) -> None:
        layers = by_name(perceptron())
        assert {name: layer.op for name, layer in layers.items()} == {
            "h": "Gemm", "f": "MatMul", "p1": "MatMul", "grad": "MatMul",
        }  # fmt: skip
        assert all(layer.channel_axis == 1 for layer in layers.values())
        assert layers["f"].macs == 16 * 8

    @pytest.mark.parametrize(
        ("node", "layers"),
        [
            ("y = Gemm <transB: int = 1> (x, w)", 1),
            ("y = Gemm <transB: int = 1> (x, w, b)", 1),
            ("y = Gemm <transB: int = 1, alpha = 1.0> (x, w)", 1),
            ("y = Gemm <transB: int = 1, alpha = 2.0> (x, w)", 0),
            ("y = Gemm <transB: int = 1> (x, w, x)", 0),  # a bias that is computed
            ("y = MatMul (x, w)", 1),
            ("y = MatMul (w, w)", 0),
            ("t = Transpose (x)  q = MatMul (x, t)  y = MatMul (q, x)", 0),
        ],
    )
    def test_what_is_a_layer(self, node: str, layers: int) -> None:
        model = graph(
            f"""score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {{
                {node}  energy = ReduceSum <keepdims: int = 0> (y, last)
                s = Unsqueeze (grad_scale, last)  grad = Mul (s, x)
            }}""",
            {"w": np.ones((3, 3), np.float32), "b": np.ones(3, np.float32), "last": np.array([1])},
        )
        found = [layer for layer in find_layers(model) if layer.activation == "x"]
        assert len(found) == layers
        if found and found[0].op == "Gemm":
            assert found[0].channel_axis == 0

    def test_two_layers_side_by_side_both_write_the_gradient(self) -> None:
        model = graph(
            """score (float[B, 3] x, float[B] grad_scale) => (float[B] energy, float[B, 3] grad) {
                y = MatMul (x, w)  z = Sin (y)  energy = ReduceSum <keepdims: int = 0> (z, last)
                s = Unsqueeze (grad_scale, last)  c = Cos (y)  g = Mul (c, s)
                left = MatMul (g, w)  right = MatMul (g, v)  grad = Add (left, right)
            }""",
            {"w": np.ones((3, 3), np.float32), "v": np.ones((3, 3), np.float32), "last": np.array([1])},
        )
        assert {layer.name for layer in find_layers(model) if layer.writes_grad} == {"left", "right"}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.block = nn.ModuleDict({"a": nn.Conv2d(4, 4, 3, padding=1), "integrad": nn.Conv2d(4, 4, 3, padding=1)})
        self.down = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.first(x)
        h = h + self.block["integrad"](torch.relu(self.block["a"](torch.relu(h))))
        return self.head(nn.functional.silu(self.down(h)).mean((2, 3))).squeeze(1)


class Sequence(nn.Module):
    """Sees x [B, 5, 3] as 5 * B rows."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8, bias=False), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.tanh(self.a(x))).sum((1, 2))


class TestTraced:
    def test_flags(self) -> None:
        layers = find_layers(score_graph(make_energy(Residual(), torch.randn(2, 1, 8, 8))))
        forward = [layer for layer in layers if layer.half == "forward"]
        back = [layer for layer in layers if layer.half == "gradient"]
        modules = ["first", "block.a", "block.integrad", "down", "head.0", "head.1"]
        assert [layer.module for layer in forward] == modules
        assert [layer.module for layer in back] == modules[::-1]
        assert [layer.module for layer in layers if layer.writes_grad] == ["first"]
        assert [layer.reads_state for layer in forward] == [True, False, False, False, False, False]
        # The head is linear: what goes back through it is a multiple of the scale.
        assert [layer.reads_scale for layer in layers] == [False] * 6 + [True, True, False, False, False, False]
        assert forward[0].macs == back[-1].macs == 4 * 9 * 64

    def test_a_module_called_grad(self) -> None:
        model = nn.Sequential()
        model.add_module("grad", nn.Conv1d(1, 2, 3))
        layers = find_layers(score_graph(make_energy(lambda x: model(x).tanh().sum((1, 2)), torch.randn(2, 1, 8))))
        assert {layer.half for layer in layers} == {"forward", "gradient"}

    def test_rows_of_one_sample_count_together(self) -> None:
        layers = find_layers(score_graph(make_energy(Sequence(), torch.randn(2, 5, 3))))
        assert {layer.module: layer.macs for layer in layers} == {"a": 5 * 24, "b": 5 * 8}
