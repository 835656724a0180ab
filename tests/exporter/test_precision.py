from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.exporter.emulate import emulate
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.precision import LOW_TYPES, keep_in_float32, kept_in_float32, typed
from ebm_export.exporter.split import split

from .cases import all_cases
from .referee import energy_of, per_sample, score_graph, session


class Net(nn.Module):
    """Two convolutions, a group norm and a linear head, with a quadratic term on the state itself."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16)
        self.deep, self.head = nn.Conv2d(16, 16, 3, 2, 1), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.norm(self.stem(x)))
        h = F.silu(self.deep(h)).mean((2, 3))
        return self.head(h).squeeze(1) * 20 + 0.5 * x.square().sum((1, 2, 3))


X = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def full() -> ir.Model:
    return score_graph(make_energy(Net().eval(), X))


@pytest.mark.parametrize("precision", LOW_TYPES)
class TestTyped:
    def test_border_is_float32_and_the_file_is_valid(self, full: ir.Model, precision: str) -> None:
        model = typed(full, precision)
        for value in (*model.graph.inputs, *model.graph.outputs):
            assert value.dtype == ir.DataType.FLOAT
        onnx.checker.check_model(ir.to_proto(model), full_check=True)

    def test_layers_are_low_and_reductions_are_not(self, full: ir.Model, precision: str) -> None:
        low = LOW_TYPES[precision]
        for node in typed(full, precision).graph:
            if node.op_type == "Conv":
                assert {value.dtype for value in (*node.inputs, *node.outputs) if value is not None} == {low}
            if node.op_type.startswith("Reduce"):
                assert node.inputs[0].dtype == node.outputs[0].dtype == ir.DataType.FLOAT

    def test_layers_that_are_kept_are_float32(self, full: ir.Model, precision: str) -> None:
        marked = ir.from_proto(ir.to_proto(full))
        keep_in_float32(marked, {"deep/Conv", "deep/grad/Conv"})
        model = ir.from_proto(ir.to_proto(typed(marked, precision)))
        assert [node.name for node in kept_in_float32(model.graph)] == ["deep/Conv", "deep/grad/Conv"]
        types = {node.name: node.outputs[0].dtype for node in model.graph if node.op_type == "Conv"}
        assert types["deep/Conv"] == types["deep/grad/Conv"] == ir.DataType.FLOAT
        assert types["stem/Conv"] == LOW_TYPES[precision]
        onnx.checker.check_model(ir.to_proto(model), full_check=True)

    def test_energy_head_is_float32(self, full: ir.Model, precision: str) -> None:
        model = typed(full, precision)
        energy = next(value for value in model.graph.outputs if value.name == "energy")
        node = energy.producer()
        while node is not None and node.op_type != "Gemm":
            assert node.outputs[0].dtype == ir.DataType.FLOAT
            node = next((v.producer() for v in node.inputs if v is not None and v.producer() is not None), None)
        assert any(n.op_type == "Gemm" and n.inputs[1].dtype == ir.DataType.FLOAT for n in model.graph)

    def test_the_float32_graph_is_left_alone(self, full: ir.Model, precision: str) -> None:
        before = ir.to_proto(full).SerializeToString(deterministic=True)
        typed(full, precision)
        assert ir.to_proto(full).SerializeToString(deterministic=True) == before

    def test_every_rounding_counted_it_is_close(self, full: ir.Model, precision: str) -> None:
        opened = session(ir.from_proto(emulate(ir.to_proto(typed(full, precision)))))
        feeds = {"x": X.numpy(), "grad_scale": np.ones(8, np.float32)}
        _, exact = session(full).run(["energy", "grad"], feeds)
        _, rough = opened.run(["energy", "grad"], feeds)
        error = per_sample(rough - exact, exact)
        assert (error > 1e-6).all(), "nothing was rounded"
        assert (error < (5e-3 if precision == "fp16" else 3e-2)).all()


def test_gradient_scale_keeps_fp16_from_underflow(full: ir.Model) -> None:
    opened = session(ir.from_proto(emulate(ir.to_proto(typed(full, "fp16")))))

    def gradient(scale: float) -> np.ndarray:
        feeds = {"x": X.numpy(), "grad_scale": np.full(8, scale, np.float32)}
        return opened.run(["grad"], feeds)[0] / scale

    # The quadratic term never leaves float32, so what is lost is the network's share.
    network = gradient(1.0) - X.numpy()
    assert np.abs(per_sample(gradient(1e-8) - X.numpy() - network, network)).min() > 0.5
    assert np.abs(per_sample(gradient(4.0) - X.numpy() - network, network)).max() < 0.02


class Activated(nn.Module):
    """Two layers that hand on what they get, and a function between them."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.function, self.last = nn.Linear(1, 1, bias=False), function, nn.Linear(1, 1)
        for layer in (self.first, self.last):
            layer.weight.data.fill_(1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x))).squeeze(1)


@pytest.mark.parametrize("precision", LOW_TYPES)
@pytest.mark.parametrize(
    "function",
    [
        F.softplus,
        lambda z: F.softplus(z, beta=2.0),
        F.mish,
        F.silu,
        F.gelu,
        lambda z: F.gelu(z, approximate="tanh"),
        F.elu,
    ],
)
def test_gradients_of_activations_hold_as_far_as_their_values(
    precision: str, function: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """In FP16 softplus had none between 11 and 20, where exp(z) / (1 + exp(z)) is infinity / infinity, and the tanh form of GELU none
    from 256 on. onnxruntime on x86 computes in float32 and does not show it."""
    x = torch.tensor([-3000.0, -300.0, -15.0, -5.0, -0.5, 0.5, 5.0, 7.0, 12.0, 19.0, 25.0, 300.0, 3000.0])[:, None]
    graph = score_graph(make_energy(Activated(function).eval(), torch.zeros(5, 1)))
    feeds = {"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)}
    (exact,) = session(graph).run(["grad"], feeds)
    (found,) = session(ir.from_proto(emulate(ir.to_proto(typed(graph, precision))))).run(["grad"], feeds)
    np.testing.assert_allclose(found, exact, atol=2e-3 if precision == "fp16" else 2e-2)


def test_the_gradient_of_softplus_is_rounded_once() -> None:
    """In BF16 each of its four operations was, and it was off by 0.9 % at most, where half of the type's last place is 0.4 %."""
    graph = score_graph(make_energy(Activated(F.softplus).eval(), torch.zeros(5, 1)))
    x = torch.linspace(-8, 8, 4001)[:, None].bfloat16().float()
    feeds = {"x": x.numpy(), "grad_scale": np.ones(len(x), np.float32)}
    (found,) = session(ir.from_proto(emulate(ir.to_proto(typed(graph, "bf16"))))).run(["grad"], feeds)
    exact = torch.sigmoid(x.double()).numpy()
    assert 1e-3 < np.abs(found / exact - 1).max() < 2**-8


def test_an_energy_without_layers_stays_float32() -> None:
    model = score_graph(make_energy(lambda x: (x.sin() * x).sum(1), torch.zeros(2, 3)))
    assert not [node for node in typed(model, "bf16").graph if node.op_type == "Cast"]


def test_a_scatter_that_adds_is_a_reduction() -> None:
    # The nodes of all samples in one list: nothing but a scatter can add there, and onnxruntime has none in FP16.
    model = typed(score_graph(energy_of(all_cases()["indexing/message_passing_flat"])), "fp16")
    scatters = [node for node in model.graph if node.op_type == "ScatterND"]
    assert scatters
    assert all(node.inputs[2].dtype == ir.DataType.FLOAT for node in scatters)
    assert any(node.op_type == "Gemm" and node.outputs[0].dtype == ir.DataType.FLOAT16 for node in model.graph)
    session(model)


def test_an_infinite_mask_stays_infinite_and_a_finite_one_finite() -> None:
    mask = torch.tensor([[0.0, -torch.inf, -1e9]])

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("mask", mask)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (torch.softmax(self.layer(x) + self.mask, 1) * x).sum(1)

    model = typed(score_graph(make_energy(Masked(), torch.zeros(2, 3))), "fp16")
    stored = [v.const_value.numpy() for v in model.graph.initializers.values() if "mask" in (v.name or "")]
    assert any(np.isneginf(array).sum() == 1 and np.isfinite(array).sum() == 2 for array in map(np.ravel, stored))


@pytest.mark.parametrize("precision", list(LOW_TYPES))
def test_features_that_are_no_floats_keep_their_types(precision: str) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see, self.judge = nn.Linear(5, 4), nn.Linear(4, 1)

        def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
            feature = self.see(seen)
            kept = torch.where(feature > 0, x, 0.5 * x)  # a mask
            return self.judge(kept).squeeze(1) + kept.square().sum(1) * feature.argmax(1)

    halves = split(score_graph(make_energy(Masked(), torch.zeros(2, 4), cond={"seen": torch.zeros(2, 5)})))
    assert halves is not None
    types = [value.dtype for value in halves.prologue.graph.outputs]
    assert ir.DataType.BOOL in types
    low = typed(halves.prologue, precision)
    assert [value.dtype for value in low.graph.outputs] == types
    onnx.checker.check_model(ir.to_proto(low), full_check=True)
