"""Cutting the prologue out of a score graph."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.calibration.candidate import external_candidate
from ebm_export.exporter import export
from ebm_export.exporter.emulate import emulate
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes.graph import dims
from ebm_export.exporter.precision import typed
from ebm_export.exporter.split import Split, split
from ebm_export.exporter.targets import target
from ebm_export.exporter.targets.score import write_plan
from ebm_export.exporter.trace import input_names
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.build import build_plans
from ebm_export.runtime.bundle import Bundle

from .cases import all_cases, draw
from .referee import energy_of, per_sample, score_graph, session
from .test_zoo_engines import REFUSED


class Policy(nn.Module):
    """An image encoder, and a perceptron that judges an action beside what the encoder saw."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 8 * 8, 16))
        self.judge = nn.Sequential(nn.Linear(16 + 4, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return self.judge(torch.cat([self.encoder(image), action], 1)).squeeze(1)


class Attending(nn.Module):
    """A token made of x attends to tokens of a condition, and a scale for each channel comes from a class."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.query, self.key, self.value = nn.Linear(4, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.table, self.scale = nn.Embedding(5, 6), nn.Linear(6, 8)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        seen = F.scaled_dot_product_attention(self.query(x)[:, None], self.key(tokens), self.value(tokens))[:, 0]
        return (seen * torch.tanh(self.scale(self.table(kind)))).sum(1) + 0.5 * x.square().sum(1)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


POLICY = {"x": randn(8, 4), "image": randn(8, 3, 16, 16)}
ATTENDING = {"x": randn(8, 4), "tokens": randn(8, 7, 6), "kind": torch.arange(8) % 5}


def graph_of(module: nn.Module, inputs: dict[str, torch.Tensor]) -> ir.Model:
    x, *_ = inputs.values()
    return score_graph(make_energy(module.eval(), x, cond={name: inputs[name] for name in list(inputs)[1:]}))


def halves_of(module: nn.Module, inputs: dict[str, torch.Tensor]) -> Split:
    found = split(graph_of(module, inputs))
    assert found is not None
    return found


def run(model: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    opened = session(model)
    wanted = {port.name: feeds[port.name] for port in opened.get_inputs()}
    return dict(zip((port.name for port in opened.get_outputs()), opened.run(None, wanted), strict=True))


def check_split(whole: ir.Model, halves: Split, feeds: dict[str, np.ndarray], rtol: float = 1e-6) -> None:
    """The two halves give what the whole gives."""
    expected = run(whole, feeds)
    found = run(halves.score, feeds | run(halves.prologue, feeds))
    for name in ("energy", "grad"):
        assert per_sample(found[name] - expected[name], expected[name]).max() <= rtol, name


def test_an_encoder_runs_once() -> None:
    halves = halves_of(Policy(), POLICY)
    assert halves.reads == ("image",)
    assert {node.op_type for node in halves.prologue.graph} >= {"Conv", "Gemm"}
    assert "Conv" not in {node.op_type for node in halves.score.graph}
    assert [value.name for value in halves.score.graph.inputs] == ["x", "feature_0", "grad_scale"]
    # The first layer's share of the encoder is in the prologue too: what is left of it reads the action alone.
    first = next(node for node in halves.score.graph if node.op_type == "MatMul")
    assert first.inputs[0] is halves.score.graph.inputs[0]


def test_halves_share_the_weights_of_the_whole() -> None:
    whole = graph_of(Policy(), POLICY)
    before = ir.to_proto(whole).SerializeToString(deterministic=True)
    halves = split(whole)
    assert halves is not None
    parts = [*halves.prologue.graph.initializers.items(), *halves.score.graph.initializers.items()]
    assert len(parts) > 8 and all(
        held.const_value is whole.graph.initializers[name].const_value for name, held in parts
    )
    assert ir.to_proto(whole).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize(("module", "inputs"), [(Policy, POLICY), (Attending, ATTENDING)])
def test_halves_give_what_the_whole_gives(module: type[nn.Module], inputs: dict[str, torch.Tensor], batch: int) -> None:
    feeds = {name: tensor.numpy()[:batch] for name, tensor in inputs.items()}
    feeds |= {"x": inputs["x"].numpy()[:batch], "grad_scale": np.linspace(0.5, 2, batch, dtype=np.float32)}
    check_split(graph_of(module(), inputs), halves_of(module(), inputs), feeds)


def test_keys_values_and_scales_are_features() -> None:
    halves = halves_of(Attending(), ATTENDING)
    assert set(halves.reads) == {"tokens", "kind"}
    products = [node for node in halves.score.graph if node.op_type in ("MatMul", "Gemm")]
    weights = {"key.weight", "value.weight", "scale.weight"}
    assert not any((value.name or "").startswith(tuple(weights)) for node in products for value in node.inputs if value)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_features_of_a_low_type_are_float32_at_the_border(precision: str) -> None:
    whole = typed(graph_of(Policy(), POLICY), precision)
    halves = split(whole)
    assert halves is not None
    for ports in (halves.prologue.graph.outputs, halves.score.graph.inputs):
        assert {value.dtype for value in ports} == {ir.DataType.FLOAT}
    feeds = {name: tensor.numpy() for name, tensor in POLICY.items()} | {"grad_scale": np.ones(8, np.float32)}
    emulated = [ir.from_proto(emulate(ir.to_proto(model))) for model in (whole, halves.prologue, halves.score)]
    # Nothing is rounded at the border that is not rounded in the whole; sums may be done in another order.
    check_split(
        emulated[0],
        Split(emulated[1], emulated[2], halves.reads, halves.keeps),
        feeds,
        rtol=1e-2 if precision == "bf16" else 2e-3,
    )


def no_condition(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum(1)


def table_alone(x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    return (x * F.one_hot(kind, 4).float()).square().sum(1)


@pytest.mark.parametrize(
    ("energy", "cond"), [(no_condition, {}), (table_alone, {"kind": torch.arange(8) % 4})], ids=["none", "table"]
)
def test_nothing_of_weight_is_left_where_it_is(energy: object, cond: dict[str, torch.Tensor]) -> None:
    assert split(score_graph(make_energy(energy, randn(8, 4), cond=cond))) is None  # type: ignore[arg-type]


class Recurrent(nn.Module):
    """A recurrent network, which begins with a state of zeros for each sample, and a scale of another condition."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.recurrent = kind(3, 8, batch_first=True)
        self.judge = nn.Sequential(nn.Linear(8 + 4, 16), nn.SiLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, goal: torch.Tensor, history: torch.Tensor) -> torch.Tensor:
        seen = self.recurrent(history)[0][:, -1]
        return self.judge(torch.cat([seen, x], 1)).squeeze(1) + (x - goal).square().sum(1)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_recurrent_encoder_runs_once(kind: type[nn.RNNBase]) -> None:
    inputs = {"x": randn(8, 4), "goal": randn(8, 4), "history": randn(8, 5, 3)}
    halves = halves_of(Recurrent(kind), inputs)
    assert (halves.reads, halves.keeps) == (("history",), ("goal",))
    weights = [value.name for node in halves.score.graph for value in node.inputs if value is not None]
    assert not any((name or "").startswith("recurrent.") for name in weights)
    feeds = {name: tensor.numpy()[:3] for name, tensor in inputs.items()}
    check_split(graph_of(Recurrent(kind), inputs), halves, feeds | {"grad_scale": np.ones(3, np.float32)})


def test_a_recurrent_encoder_of_a_shared_condition(tmp_path: Path) -> None:
    """The prologue then sees one row, and x has as many as there are chains."""
    net, history = Recurrent(nn.GRU).eval(), randn(1, 5, 3)
    out = export(
        net, randn(8, 4), cond={"goal": randn(8, 4), "history": randn(8, 5, 3)}, out=tmp_path / "m.ebm",
        sampler=SamplerConfig(steps=3, step_size=0.01),
    )  # fmt: skip
    x, goal = randn(6, 4), randn(6, 4)
    with load(out) as ebm:
        energy, _ = ebm.score(x, goal=goal, history=history)
    expected = net(x, goal, history.expand(6, -1, -1)).detach()
    np.testing.assert_allclose(energy, expected, rtol=1e-5)


class CrossAttention(nn.Module):
    """Points of x attend to tokens of a condition; PyTorch projects keys and values together, with the batch in third place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.points, self.tokens = nn.Linear(2, 16), nn.Linear(3, 16)
        self.attention, self.judge = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 1)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        points, tokens = self.points(x), self.tokens(context)
        seen = self.attention(points, tokens, tokens, need_weights=False)[0]
        return self.judge(torch.tanh(points + seen)).sum((1, 2)) + x.square().sum((1, 2))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_keys_and_values_that_are_projected_together(precision: str) -> None:
    inputs = {"x": randn(8, 4, 2), "context": randn(8, 6, 3)}
    whole = graph_of(CrossAttention(), inputs)
    feeds = {name: tensor.numpy()[:3] for name, tensor in inputs.items()} | {"grad_scale": np.ones(3, np.float32)}
    halves = split(whole if precision == "fp32" else typed(whole, precision))
    assert halves is not None
    assert not halves.keeps
    # None of their products is left: query, scores, values and output, and the same for the gradient.
    features = {value for value in halves.score.graph.inputs if value.name not in ("x", "grad_scale")}
    stored = [value for value in halves.score.graph.initializers.values() if dims(value) in ((16, 32), (32, 16))]
    assert not stored
    assert all(dims(value)[0] == "B" for value in features)  # type: ignore[index]
    if precision == "fp32":
        check_split(whole, halves, feeds)


def test_learned_tokens_are_no_condition() -> None:
    """What depends on the number of samples alone has nothing to be worked out from."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.layer = nn.Parameter(randn(1, 3, 4)), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
            tokens = torch.cat([self.layer(self.tokens.expand(len(x), -1, -1)), x[:, None]], 1)
            return (tokens.tanh().sum(1) - goal).square().sum(1)

    assert split(graph_of(Tokens(), {"x": randn(8, 4), "goal": randn(8, 4)})) is None


def test_a_condition_that_both_halves_read() -> None:
    class Near(Policy):
        def forward(self, action: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
            return super().forward(action, image) + (action.sum(1) - image.mean((1, 2, 3))).square()

    halves = halves_of(Near(), POLICY)
    assert (halves.reads, halves.keeps) == (("image",), ("image",))
    feeds = {name: tensor.numpy() for name, tensor in POLICY.items()} | {"grad_scale": np.ones(8, np.float32)}
    check_split(graph_of(Near(), POLICY), halves, feeds)


def test_a_name_that_is_taken() -> None:
    class Named(Policy):
        def forward(self, action: torch.Tensor, image: torch.Tensor, feature_0: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(action, image) + (action * feature_0).sum(1)

    halves = halves_of(Named(), POLICY | {"feature_0": randn(8, 4)})
    assert [value.name for value in halves.score.graph.inputs] == ["x", "feature_0", "feature_1", "grad_scale"]


@pytest.mark.parametrize("name", [name for name, case in all_cases().items() if case.cond and name not in REFUSED])
def test_every_conditional_case_of_the_zoo(name: str) -> None:
    case = all_cases()[name]
    energy = energy_of(case)
    whole = score_graph(energy)
    halves = split(whole)
    if halves is None:
        return
    names = input_names(energy)
    feeds = {names[key]: array for key, array in draw(case, 1, 3).items()}
    feeds["grad_scale"] = np.array([0.5, 1, 2], np.float32)
    check_split(whole, halves, feeds, rtol=1e-5)


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_bundle_of_two_halves(tmp_path: Path, target: str) -> None:
    model = Policy().eval()
    config = SamplerConfig(steps=5, step_size=0.1)
    paths = {
        whole: export(
            model,
            POLICY["x"],
            cond={"image": POLICY["image"]},
            out=tmp_path / f"{whole}.ebm",
            targets=[target],
            sampler=config,
            split=not whole,
        )
        for whole in (False, True)
    }
    entries = json.loads((paths[False] / "manifest.json").read_text())["artifacts"]
    assert [(entry["role"], entry["status"]) for entry in entries] == [("prologue", "verified"), ("score", "verified")]
    assert (entries[0]["reads"], entries[1]["reads"], entries[1]["prologue"]) == (["image"], [], entries[0]["path"])
    image = POLICY["image"].numpy()[:1]
    with load(paths[False], threads=1) as split_ebm, load(paths[True], threads=1) as whole_ebm:
        for shared in (image, np.repeat(image, 6, axis=0), POLICY["image"].numpy()[:6]):
            np.testing.assert_allclose(
                split_ebm.sample(6, image=shared), whole_ebm.sample(6, image=shared), rtol=1e-4, atol=1e-5
            )
            for found, expected in zip(
                split_ebm.score(POLICY["x"].numpy()[:6], image=shared),
                whole_ebm.score(POLICY["x"].numpy()[:6], image=shared),
                strict=True,
            ):
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_graph_made_elsewhere_from_the_second_half(tmp_path: Path) -> None:
    """It takes the features, so that it runs behind the bundle's own prologue; one of the whole takes the conditions."""
    options = {
        "cond": {"image": POLICY["image"]},
        "targets": ["onnx"],
        "sampler": SamplerConfig(steps=5, step_size=0.1),
    }
    split_path = export(Policy().eval(), POLICY["x"], out=tmp_path / "split.ebm", **options)  # type: ignore[arg-type]
    whole_path = export(Policy().eval(), POLICY["x"], out=tmp_path / "whole.ebm", split=False, **options)  # type: ignore[arg-type]
    bundle = Bundle(split_path)
    x, image = POLICY["x"].numpy(), POLICY["image"].numpy()
    inputs = {"x": x, "grad_scale": np.ones(8, np.float32), "image": image}
    answers = []
    for path in (split_path, whole_path):
        candidate = external_candidate(f"other={path / 'score.fp32.onnx'}", bundle)
        assert (candidate.prologue is not None) == (path == split_path)
        with candidate.engine(1) as engine:
            answers.append(engine.run(inputs)["grad"].copy())
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-4, atol=1e-6)


@pytest.mark.tensorrt
def test_plans_of_what_belongs_together(tmp_path: Path) -> None:
    path = export(
        Policy().eval(),
        POLICY["x"],
        cond={"image": POLICY["image"]},
        out=tmp_path / "m.ebm",
        targets=["tensorrt"],
        sampler=SamplerConfig(steps=5, step_size=0.1),
        batch=(4, 8, 16),
        fuse=2,
    )

    def plans() -> dict[str, dict[str, object]]:
        entries = json.loads((path / "manifest.json").read_text())["artifacts"]
        return {entry["path"]: entry for entry in entries if entry["target"] == "tensorrt"}

    written = plans()
    names = [f"{role}.fp32.tensorrt.plan" for role in ("prologue", "sampler", "score")]
    assert list(written) == names
    # A condition that all chains share is one row, whatever the batch.
    assert [entry["options"] for entry in written.values()] == [{"batch": [smallest, 8, 16]} for smallest in (1, 4, 4)]
    rows = build_plans(path, batch=(2, 4, 8))
    assert [row["file"] for row in rows] == names
    built = plans()
    assert [entry["options"] for entry in built.values()] == [{"batch": [smallest, 4, 8]} for smallest in (1, 2, 2)]
    for name in names:
        for key in ("prologue", "sampler", "reads", "steps", "settings"):
            assert (built[name].get(key) or None) == (written[name].get(key) or None), (name, key)
    assert built["score.fp32.tensorrt.plan"]["prologue"] == names[0]
    assert built["score.fp32.tensorrt.plan"]["sampler"] == names[1]
    assert built["sampler.fp32.tensorrt.plan"]["steps"] == 2


@pytest.mark.tensorrt
def test_a_plan_is_run_as_its_graph_was_judged(tmp_path: Path) -> None:
    graph = target("onnx").write(ir.to_proto(graph_of(Policy(), POLICY)), tmp_path, precision="fp32", batch=(1, 2, 4))
    graph["schedule"] = "mixed:0-3,fp32:3-"
    assert write_plan(graph, tmp_path, batch=(1, 2, 4))["schedule"] == "mixed:0-3,fp32:3-"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_prologue_may_be_lowered_by_itself(precision: str) -> None:
    """As its graph's would be: what is calibrated is only the steps' part."""
    alone = typed(halves_of(Policy(), POLICY).prologue, precision)
    whole = split(typed(graph_of(Policy(), POLICY), precision))
    assert whole is not None
    feeds = {"image": POLICY["image"].numpy()}
    wanted, found = (run(ir.from_proto(emulate(ir.to_proto(model))), feeds) for model in (whole.prologue, alone))
    assert found.keys() == wanted.keys()
    exact = run(halves_of(Policy(), POLICY).prologue, feeds)
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)
        assert 0 < np.abs(array - exact[name]).max() < 0.02 * np.abs(array).max()
