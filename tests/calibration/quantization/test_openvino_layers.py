"""What OpenVINO makes of an INT8 score graph: read from its compiled model, not from ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from ebm_export.calibration.quantization.calibrate import Scheme
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.calibration.quantization.quantizer import Quantizer
from ebm_export.calibration.states import States, record_states
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.targets import target
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.backends.openvino_saturation import SAFE_WEIGHT, saturates
from tests.exporter.referee import score_graph

from .graphs import error, run

SCHEME = Scheme(largest_weight=SAFE_WEIGHT if saturates() else 127)  # as an export for OpenVINO takes it on this CPU
BYTES = {"u8", "i8"}
"""What the plugin calls the inputs of a convolution in INT8: AMX multiplies signed ones as they are, other CPUs want them shifted."""

Activation = Callable[[torch.Tensor], torch.Tensor]


class Block(nn.Module):
    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.activation = activation

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + self.b(self.activation(self.a(self.activation(h))))


class Residual(nn.Module):
    """8 convolutions forward and 8 back: the first and its gradient stay in float, as does the head."""

    def __init__(self, activation: Activation, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(channels, activation) for _ in range(2)))
        self.down = nn.Conv2d(channels, channels, 4, 2, 1)
        self.last = Block(channels, activation)
        self.head = nn.Linear(channels, 1)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.last(self.down(self.blocks(self.first(x))))
        return self.head(self.activation(h).mean((2, 3))).squeeze(1)


@pytest.fixture(scope="module", params=["relu", "silu"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """(float graph, INT8 graph, states, quantizer)."""
    torch.manual_seed(0)
    model = score_graph(make_energy(Residual(getattr(nn.functional, request.param)).eval(), torch.randn(2, 1, 16, 16)))
    folder = tmp_path_factory.mktemp(request.param)
    onnx.save(ir.to_proto(model), folder / "float.onnx")
    config = SamplerConfig(steps=20, step_size=1.0, noise=0.01)
    with OnnxRuntimeEngine(folder / "float.onnx", precision="fp32", threads=1) as engine:
        states = record_states(engine, config, (1, 16, 16), folder, count=64, stages=8, chains=32, seed=0)
    quantizer = Quantizer(model, states, SCHEME, threads=1)
    int8 = quantizer.model(quantizer.default)
    correct_score(model, int8, quantizer.layers, states, threads=1)
    return model, int8, states, quantizer


def test_the_default_keeps_the_border_in_float(made) -> None:
    quantizer: Quantizer = made[3]
    kept = [layer.name for layer in quantizer.layers if layer.name not in quantizer.default]
    assert kept == ["first/Conv", "head/Gemm", "head/grad/MatMul", "first/grad/Conv"]
    said = {entry["name"]: entry for entry in quantizer.describe(quantizer.default, {})}
    assert said["first/Conv"]["reason"].startswith("reads the state")
    assert said["first/grad/Conv"]["reason"].startswith("writes the gradient")
    assert "nothing to gain" in said["head/Gemm"]["reason"]
    assert said["down/Conv"]["precision"] == "int8"
    assert said["down/Conv"]["reason"].startswith("range ")


def layers_of(compiled) -> list[dict[str, str]]:
    """What the plugin says of each layer that it runs."""
    operations = compiled.get_runtime_model().get_ops()
    return [{key: value.astype(str) for key, value in operation.get_rt_info().items()} for operation in operations]


def adds(layer: dict[str, str]) -> bool:
    """Whether a residual sum, forward or backward, is done in this layer."""
    return any(name.endswith("/Add") for name in layer["originalLayersNames"].split(","))


def test_every_chosen_convolution_runs_in_int8_and_no_add_is_left_alone(made, tmp_path: Path) -> None:
    """14 of 16 convolutions and 14 of 18 layers. One of the two others, which writes the gradient, is three in the file.

    The residual Add is not fused as a sum into the convolution: the plugin compiles it into one elementwise kernel
    ("Subgraph") together with the activation and the QuantizeLinear behind it, which reads float32 from the convolution
    and writes bytes where nothing else reads the sum.
    """
    _, int8, states, quantizer = made
    artifact = target("openvino").write(ir.to_proto(int8), tmp_path, precision="int8", batch=(1, 8, 8))
    with OpenVinoEngine(tmp_path / artifact["path"], precision="int8", threads=1) as engine:
        engine.run(states.inputs(slice(0, 8)))
        assert engine.int8_layers == (len(quantizer.default), len(quantizer.layers)) == (14, 18)
        layers = layers_of(next(reversed(engine._bound.values())).request.get_compiled_model())
    convolutions = [layer["runtimePrecision"] for layer in layers if layer["layerType"] == "Convolution"]
    assert sorted("int8" if said in BYTES else said for said in convolutions) == ["f32"] * (2 + 2) + ["int8"] * 14
    assert not [layer for layer in layers if layer["layerType"] in ("Eltwise", "Add", "FakeQuantize")]
    assert {layer["layerType"] for layer in layers if adds(layer)} == {"Subgraph"}


@pytest.mark.parametrize("made", ["relu"], indirect=True)
def test_sums_go_into_int8_convolutions_where_elementwise_operations_are_kernels_of_their_own(
    made, tmp_path: Path
) -> None:
    """So where the plugin could add in a convolution, no QuantizeLinear stands in its way, and that it does not is its choice.

    It could in the forward half of relus: the sum overwrites the skip, which the gradient of a silu reads later, and on the way
    back a mask lies between convolution and sum. It is the slower way, because activations, masks and roundings are not
    compiled into one kernel then: 18 ms a call for 15 (residual network of 38 convolutions with 18 sums inside, OpenVINO 2026.4.1, AVX2).
    """
    import openvino

    _, int8, states, _ = made
    artifact = target("openvino").write(ir.to_proto(int8), tmp_path, precision="int8", batch=(1, 8, 8))
    core, inputs = openvino.Core(), states.inputs(slice(0, 8))
    grads = []
    for settings in ({}, {"SNIPPETS_MODE": "DISABLE"}):
        model = core.read_model(tmp_path / artifact["path"])
        model.reshape({name: list(array.shape) for name, array in inputs.items()})
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
        grads.append(compiled(inputs)["grad"])
    summing = [layer for layer in layers_of(compiled) if adds(layer) and "/grad/" not in layer["originalLayersNames"]]
    assert [layer["layerType"] for layer in summing] == ["Convolution"] * 3
    assert {layer["runtimePrecision"] for layer in summing} <= BYTES
    # A sum in another order puts a number on the other side of a rounding now and then: 1e-4 with AMX, where bytes are fewer of the same.
    assert error(*grads) < 1e-3


def test_both_engines_agree_and_are_close_to_float32(made, tmp_path: Path) -> None:
    model, int8, states, _ = made
    inputs = states.inputs(slice(0, 64, 4))
    wanted, got = run(model, inputs), run(int8, inputs)
    artifact = target("openvino").write(ir.to_proto(int8), tmp_path, precision="int8", batch=(1, 8, 8))
    with OpenVinoEngine(tmp_path / artifact["path"], precision="int8", threads=1) as engine:
        other = {name: array.copy() for name, array in engine.run(inputs).items()}
    assert error(wanted["energy"], got["energy"]) < 0.02
    assert error(wanted["grad"], got["grad"]) < 0.15  # masks flip and weights are random, so nothing averages
    # Sums in another order put a number on the other side of a rounding now and then.
    assert error(got["grad"], other["grad"]) < 0.05
    assert error(got["energy"], other["energy"]) < 0.01


def test_states_are_those_of_chains(made) -> None:
    states: States = made[2]
    assert len(states) == 64
    assert np.unique(states.step)[-1] == 20


class Classes(nn.Module):
    """Logits as an energy, whose products keep OpenVINO from fusing elementwise operations, and a leaky slope."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(32, lambda h: nn.functional.leaky_relu(h, 0.2)) for _ in range(2)))
        self.blocks[0].a.bias = self.blocks[0].b.bias = None
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -torch.logsumexp(self.head(self.blocks(self.first(x)).sum((2, 3)) / 16), 1)


def test_a_mask_behind_a_convolution_in_int8(tmp_path: Path) -> None:
    """OpenVINO 2026.4.1 gave something else where such a convolution has no bias at all."""
    torch.manual_seed(0)
    model = score_graph(make_energy(Classes().eval(), torch.randn(2, 1, 16, 16)))
    onnx.save(ir.to_proto(model), tmp_path / "float.onnx")
    with OnnxRuntimeEngine(tmp_path / "float.onnx", precision="fp32", threads=1) as engine:
        states = record_states(
            engine, SamplerConfig(steps=8, step_size=1.0, noise=0.01), (1, 16, 16), tmp_path, count=32, chains=8, seed=0
        )
    quantizer = Quantizer(model, states, SCHEME, threads=1)
    quantizer._made.weights = quantizer.calibration.weights  # as they are where corrections do not help
    inputs = states.inputs(slice(0, 8))
    int8 = quantizer.model(quantizer.default)
    artifact = target("openvino").write(ir.to_proto(int8), tmp_path, precision="int8", batch=(1, 8, 8))
    with OpenVinoEngine(tmp_path / artifact["path"], precision="int8", threads=1) as engine:
        got = engine.run(inputs)["grad"].copy()
        assert engine.int8_layers[0] == len(quantizer.default)
    assert error(run(int8, inputs)["grad"], got) < 0.05
