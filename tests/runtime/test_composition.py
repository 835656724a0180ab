"""Sums and mixtures of energies."""

from __future__ import annotations

import dataclasses
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, Engine, FunctionEngine, SamplerConfig, UsageError, load
from ebm_export.runtime.composition import CompositeEngine, compose
from ebm_export.runtime.fused_steps import Fused
from ebm_export.runtime.known_scales import KnownScales
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.precision_schedule import Span

from .tiny_bundle import write_bundle

X = np.random.default_rng(0).standard_normal((6, 2)).astype(np.float32) * 2


def bowl(centre: float, slope: float = 1.0, shape: tuple[int, ...] = (2,), **changes: Any) -> Ebm:
    """E = slope/2 |x - centre|^2, or around a conditioning input."""

    def energy(x: np.ndarray, **cond: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        off = x - next(iter(cond.values()), np.float32(centre))
        return slope / 2 * (off**2).sum(axis=1), slope * off

    model = ModelSpec(f"bowl at {centre:g}", TensorSpec("x", shape, "float32"), cond=changes.pop("cond", ()))
    return Ebm(FunctionEngine(energy), model, SamplerConfig(steps=150, step_size=0.2, sampler="mala"), **changes)


def test_a_sum_is_the_weighted_sum() -> None:
    energy, grad = compose([bowl(1.0), bowl(-2.0, 0.5)], [2.0, -1.0]).score(X)
    np.testing.assert_allclose(energy, ((X - 1) ** 2).sum(axis=1) - 0.25 * ((X + 2) ** 2).sum(axis=1), rtol=1e-4)
    np.testing.assert_allclose(grad, 2 * (X - 1) - 0.5 * (X + 2), rtol=1e-4, atol=1e-5)


def test_a_mixture_is_that_of_the_densities() -> None:
    weights, temperature = np.array([1.0, 3.0]), 0.7
    energies = np.array([0.5 * ((X - 1) ** 2).sum(axis=1), 0.5 * ((X + 2) ** 2).sum(axis=1)], np.float64)
    densities = weights[:, None] * np.exp(-energies / temperature)
    energy, grad = compose([bowl(1.0), bowl(-2.0)], weights, kind="mixture", temperature=temperature).score(X)  # type: ignore[arg-type]
    np.testing.assert_allclose(energy, -temperature * np.log(densities.sum(axis=0)), rtol=1e-4)
    shares = densities / densities.sum(axis=0)
    expected = shares[0][:, None] * (X - 1) + shares[1][:, None] * (X + 2)
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)


def test_a_mixture_is_joined_at_the_temperature_of_its_chains() -> None:
    def made(**options: Any) -> np.ndarray:
        cold = bowl(1.0)
        cold.sampler = cold.sampler.replace(temperature=(2.0, 0.25))
        return compose([cold, bowl(-2.0)], kind="mixture", **options).score(X)[0]

    np.testing.assert_array_equal(made(), made(temperature=0.25))
    assert (made() != made(temperature=1.0)).any()
    frozen = bowl(1.0)
    frozen.sampler = SamplerConfig(steps=10, sampler="optimize", temperature=0.0)
    with pytest.raises(UsageError, match="have T = 0 at their last step: give the T that you sample at"):
        compose([frozen, bowl(-2.0)], kind="mixture")
    compose([bowl(1.0)], kind="sum").close()


def test_a_precision_that_was_judged_for_a_part_alone_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    low = bowl(1.0, judged="int8", energy_rounding=3.0)
    low.sample(2)
    assert not caplog.messages
    inner = compose([low, bowl(0.0)])
    for _ in range(2):
        compose([bowl(-2.0), inner]).sample(2)
    (said,) = caplog.messages
    assert (
        "int8 was calibrated and judged along chains of its own energy with the bundle's own settings; in the sum of"
        in said
    )
    assert "samples may be far from those of fp32: compare with fp32. mala accepts by" in said


def test_a_part_stays_within_its_gradient_scale_where_another_is_flat() -> None:
    """The composite's gradient is small where the parts cancel, and so its scale large."""
    seen: list[list[float]] = [[], []]
    parts = []
    for index, (slope, highest) in enumerate(((1e-3, 4e3), (1.0, 4.0))):
        part = bowl(0.0, slope)
        real = part.engine.run

        def run(inputs: dict[str, np.ndarray], real: Any = real, index: int = index) -> dict[str, np.ndarray]:
            seen[index].append(float(inputs["grad_scale"].max()))
            return real(inputs)

        part.engine.run = run  # type: ignore[method-assign]
        part.engine.known_scales = KnownScales(1 / slope, highest)
        parts.append(part)
    _, grad = compose(parts, [1.0, 0.0]).score(X)
    np.testing.assert_allclose(grad, 1e-3 * X, rtol=1e-5)
    assert max(seen[1]) == 4 < max(seen[0]) <= 4e3


def test_a_mixture_far_from_all_parts_is_finite() -> None:
    energy, grad = compose([bowl(1.0), bowl(-1.0)], kind="mixture").score(np.full((1, 2), 1e4, np.float32))
    np.testing.assert_allclose(energy, 9999.0**2, rtol=1e-6)
    np.testing.assert_allclose(grad, 9999, rtol=1e-6)


def test_samples_of_a_product_lie_between_its_parts() -> None:
    n = 4000
    samples = compose([bowl(3.0), bowl(-1.0, 3.0)]).sample(n)
    assert (abs(samples.mean(axis=0)) < 4 * np.sqrt(0.25 / n)).all()  # (3 - 3 * 1) / 4, with variance 1/4
    assert (abs(samples.var(axis=0) * 4 - 1) < 4 * np.sqrt(2 / n)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(
    ("settings", "bias"),
    [
        ({"sampler": "mala", "steps": 400, "step_size": 0.2, "warmup": 0}, 0.0),  # which goes by the energy
        (
            {"sampler": "langevin", "steps": 1200, "step_size": 0.01},
            0.01,
        ),  # and by the gradient; h / 2 of a curvature of 4 at most
    ],
    ids=["mala", "langevin"],
)
def test_samples_of_a_mixture_have_its_moments_and_shares(
    settings: dict[str, Any], bias: float, temperature: float, tmp_path: Path
) -> None:
    """A bundle, 0.5 |x|^2, and a bowl that is four times as steep, with an eighth of its volume in three dimensions."""
    n, at = 4000, 1.2
    wide = load(write_bundle(tmp_path / "m.ebm"), "onnxruntime", threads=1)
    narrow = bowl(at, 4.0, (3,))
    weights = np.array([1.0, 4.0])
    config = SamplerConfig.from_dict({**settings, "temperature": temperature})
    with compose([wide, narrow], weights.tolist(), kind="mixture", temperature=temperature) as both:
        samples = both.sample(n, config=config).astype(np.float64)
    shares = weights * np.array([1.0, 1 / 8])
    shares /= shares.sum()  # 2/3 and 1/3
    assert (abs(samples.mean(axis=0) - shares[1] * at) < 4 * samples.std(axis=0) / np.sqrt(n) + bias).all()
    second = shares @ (temperature * np.array([1.0, 1 / 4]) + np.array([0.0, at]) ** 2)
    assert (abs((samples**2).mean(axis=0) - second) < 4 * (samples**2).std(axis=0) / np.sqrt(n) + bias).all()
    # The mean of what a sample says about its part is that part's share, whatever the parts overlap.
    logits = np.stack([(samples**2).sum(axis=1) / 2, 2 * ((samples - at) ** 2).sum(axis=1)]) / -temperature
    said = 1 / (1 + weights[0] / weights[1] * np.exp(logits[0] - logits[1]))
    assert abs(said.mean() - shares[1]) < 4 * said.std() / np.sqrt(n) + bias


class Still(Engine):
    """E = slope / 2 |x|^2, which allocates nothing: as backends do, it answers in arrays of its own, which the next call overwrites."""

    backend = "still"

    def __init__(self, slope: float) -> None:
        self.slope = np.float32(slope)
        self.answer: dict[str, np.ndarray] = {}

    def open(self) -> None: ...

    def close(self) -> None: ...

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = inputs["x"]
        if not self.answer or self.answer["grad"].shape != x.shape:
            self.answer = {"energy": np.empty(len(x), np.float32), "grad": np.empty_like(x)}
        np.einsum("bd,bd->b", x, x, out=self.answer["energy"])
        np.einsum("b,bd->bd", inputs["grad_scale"], x, out=self.answer["grad"])
        np.multiply(self.answer["energy"], self.slope / 2, out=self.answer["energy"])
        np.multiply(self.answer["grad"], self.slope, out=self.answer["grad"])
        return self.answer


@pytest.mark.parametrize("temperature", [None, 0.7], ids=["sum", "mixture"])
def test_a_call_allocates_no_array(temperature: float | None) -> None:
    inputs = {"x": np.ones((20_000, 30), np.float32), "grad_scale": np.ones(20_000, np.float32)}
    with CompositeEngine([(Still(1), {}), (Still(2), {})], [1, 2], temperature) as engine:
        engine.run(inputs)
        tracemalloc.start()
        for _ in range(5):
            engine.run(inputs)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < inputs["grad_scale"].nbytes, "not even a number for each sample"


@pytest.mark.parametrize("temperature", [None, 0.7], ids=["sum", "mixture"])
def test_a_batch_of_another_size_is_its_own(temperature: float | None) -> None:
    """The memory of one size is no other's, and one engine may be several parts."""
    x = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
    scale = np.linspace(0.5, 2, 5, dtype=np.float32)
    shared = Still(2)
    with CompositeEngine([(shared, {}), (Still(1), {}), (shared, {})], [0.5, 2, 1], temperature) as engine:
        whole = {name: array.copy() for name, array in engine.run({"x": x, "grad_scale": scale}).items()}
        for count in (3, 1, 5):
            part = engine.run({"x": x[:count], "grad_scale": scale[:count]})
            np.testing.assert_array_equal(part["grad"], whole["grad"][:count])
            np.testing.assert_allclose(part["energy"], whole["energy"][:count], rtol=1e-6)
    half = (x.astype(np.float64) ** 2).sum(axis=1) / 2
    if temperature is None:
        energy, slope = half * 5, np.full(5, 5.0)  # 0.5 * 2 + 2 * 1 + 1 * 2
    else:
        steep, flat = 1.5 * np.exp(-2 * half / temperature), 2 * np.exp(-half / temperature)
        energy, slope = -temperature * np.log(steep + flat), (2 * steep + flat) / (steep + flat)
    np.testing.assert_allclose(whole["energy"], energy, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole["grad"], (scale * slope)[:, None] * x, rtol=1e-5)


def test_conditions_are_shared_by_name() -> None:
    spec = (TensorSpec("centre", (2,), "float32"),)
    both = compose([bowl(0.0, cond=spec), bowl(5.0), bowl(0.0, 2.0, cond=spec)])
    assert [entry.name for entry in both.model.cond] == ["centre"]
    np.testing.assert_allclose(both.score(X, centre=X)[1], X - 5, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parameter", ["", "middle"])
def test_conditions_of_one_name_are_told_apart(parameter: str) -> None:
    """By the name in the graph, or by that in the user's model, as calls take both."""
    spec = (TensorSpec("centre", (2,), "float32", parameter=parameter, range=(-3.0, 3.0)),)
    parts = [bowl(0.0, cond=spec), bowl(0.0, 2.0, cond=spec), bowl(0.0, cond=spec)]
    both = compose(parts, [1, 1, 2], names=[{}, {parameter or "centre": "1:centre"}, {"centre": "third"}])
    assert [entry.called for entry in both.model.cond] == [parameter or "centre", "1:centre", "third"]
    assert {entry.range for entry in both.model.cond} == {(-3.0, 3.0)}
    cond = {"centre": X, "1:centre": 3 * X[:1], "third": np.zeros((1, 2))}
    energy, grad = both.score(X, cond=cond)
    np.testing.assert_allclose(grad, 2 * (X - 3 * X[:1]) + 2 * X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(energy, ((X - 3 * X[:1]) ** 2).sum(axis=1) + (X**2).sum(axis=1), rtol=1e-4)
    with pytest.raises(UsageError, match="the model needs the conditioning input '1:centre'"):
        both.score(X, centre=X, third=X)


def test_conditions_of_several_names_are_made_one() -> None:
    parts = [bowl(0.0, cond=(TensorSpec(name, (2,), "float32"),)) for name in ("obs", "image")]
    both = compose(parts, names=[{}, {"image": "obs"}])
    assert [entry.name for entry in both.model.cond] == ["obs"]
    np.testing.assert_allclose(both.score(X, obs=X[:1])[1], 2 * (X - X[:1]), rtol=1e-4, atol=1e-5)


def test_all_engines_of_the_parts_are_closed() -> None:
    """Also those that the composition never asks: of other precisions, a surrogate, fused steps."""
    is_open: dict[str, bool] = {}

    class Watched(FunctionEngine):
        def __init__(self, name: str) -> None:
            super().__init__(lambda x: (0.5 * (x**2).sum(axis=1), x))
            self.name = name
            self.open()

        def open(self) -> None:
            is_open[self.name] = True

        def close(self) -> None:
            is_open[self.name] = False

    model = ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
    last, config = Watched("last"), SamplerConfig(steps=8)
    spans = [(Span("int8", 0, 5), Watched("first")), (Span("fp32", 5, None), last)]
    fused, telling = (Fused(Watched(name), 8, config) for name in ("fused", "telling"))
    parts = [
        Ebm(last, model, config, schedule=spans),
        Ebm(Watched("surrogate"), model, config, exact=Watched("exact")),
        Ebm(Watched("single"), model, config, fused=fused, telling=telling, fuse=True),
    ]
    with compose(parts):
        assert list(is_open.values()) == 7 * [True]
    assert is_open == dict.fromkeys(is_open, False)


def test_takes_the_smallest_batch() -> None:
    both = compose([bowl(0.0, max_batch=7), bowl(1.0, max_batch=3)])
    assert both.max_batch == 3 and both.model.name == "sum of bowl at 0, bowl at 1"


def test_the_first_parts_data_are_where_chains_start() -> None:
    data = np.full((4, 2), 3, np.float32)
    model = ModelSpec("flat", TensorSpec("x", (2,), "float32"))
    config = SamplerConfig(steps=1, init="data", noise=0.0)
    first = Ebm(FunctionEngine(lambda x: (x[:, 0], 0 * x)), model, config, data=data)
    with compose([first, bowl(0.0, slope=1e-6)]) as both:
        np.testing.assert_allclose(both.sample(5), 3, rtol=1e-4)


def test_a_checkpoint_is_of_these_weights(tmp_path: Path) -> None:
    def run(weights: list[float], **changes: Any) -> None:
        with compose([bowl(0.0), bowl(1.0)], weights, **changes) as both:
            both.sample(5, checkpoint=tmp_path / "run")

    run([1.0, 0.5])
    run([1.0, 0.5])
    with pytest.raises(UsageError, match="is of another run: .*files was"):
        run([1.0, 20.0])
    with pytest.raises(UsageError, match="is of another run: .*files was"):
        run([1.0, 0.5], temperature=2.0)


def test_a_checkpoint_is_of_these_names(tmp_path: Path) -> None:
    spec = (TensorSpec("centre", (2,), "float32"),)

    def run(*names: str) -> None:
        parts = [bowl(0.0, slope, cond=spec) for slope in (1.0, 2.0)]
        with compose(parts, names=[{"centre": name} for name in names]) as both:
            both.sample(5, cond={"a": X[:1], "b": X[1:2]}, checkpoint=tmp_path / "run")

    run("a", "b")
    run("a", "b")
    with pytest.raises(UsageError, match="is of another run: .*files was"):
        run("b", "a")


def test_tables_of_several_sizes_are_one_input() -> None:
    """The smaller one says what there is."""
    label = TensorSpec("label", (), "int64", limits=(0, 9))

    def part(spec: TensorSpec) -> Ebm:
        model = ModelSpec("m", TensorSpec("x", (2,), "float32"), cond=(spec,))
        return Ebm(FunctionEngine(lambda x, label: ((x * x).sum(axis=1), 2 * x)), model, SamplerConfig())

    specs = [label, dataclasses.replace(label, limits=None), dataclasses.replace(label, limits=(-4, 7))]
    for order in (specs, specs[::-1]):
        with compose([part(spec) for spec in order]) as both:
            assert both.model.cond == (dataclasses.replace(label, limits=(0, 7)),)


def test_parts_that_are_refused_are_closed() -> None:
    closed = []
    parts = [bowl(0.0), bowl(1.0, shape=(3,))]
    for part in parts:
        part.engine.close = lambda: closed.append(1)  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="expected energies of states"):
        compose(parts)
    assert len(closed) == 2


def test_where_one_part_does_not_open_those_before_it_are_closed() -> None:
    told: list[str] = []

    class Part(FunctionEngine):
        def __init__(self, name: str) -> None:
            super().__init__(lambda x: (x[:, 0], x))
            self.name = name

        def open(self) -> None:
            if self.name == "bad":
                raise RuntimeError("no memory")
            told.append(f"{self.name} opened")

        def close(self) -> None:
            told.append(f"{self.name} closed")

    with (
        pytest.raises(RuntimeError, match="no memory"),
        CompositeEngine([(Part("good"), {}), (Part("bad"), {})], [1, 1]),
    ):
        pass
    assert told == ["good opened", "good closed"]
    told.clear()
    with CompositeEngine([(Part("one"), {}), (Part("two"), {})], [1, 1]):
        assert told == ["one opened", "two opened"]


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([], {}, "expected at least one energy, got none"),
        ([bowl(0.0)], {"weights": [1, 2]}, "weights: expected 1, one for each energy, got 2"),
        ([bowl(0.0)], {"weights": [0], "kind": "mixture"}, "weights: expected finite numbers, above 0 in a mixture, got"),
        ([bowl(0.0)], {"weights": [np.nan]}, "weights: expected finite numbers, got [nan]"),
        ([bowl(0.0)], {"kind": "product"}, "kind: expected one of sum, mixture, got 'product'"),
        ([bowl(0.0)], {"temperature": 0}, "temperature: expected a number above 0, got 0"),
        ([bowl(0.0), bowl(1.0, shape=(3,))], {}, "expected energies of states [2] as that of bowl at 0, and bowl at 1 takes [3]"),
        (
            [bowl(0.0, cond=(TensorSpec("c", (2,), "float32"),)), bowl(1.0, cond=(TensorSpec("c", (1,), "int64"),))],
            {},
            "c is int64 [1] in bowl at 1 and float32 [2] in another: give one of them another name (names=; on the command "
            "line --cond 1:c=FILE.npy is for this one alone)",
        ),
        ([bowl(0.0)], {"names": [{}, {}]}, "names: expected 1, one dict for each energy, got 2"),
        ([bowl(0.0)], {"names": [{"c": "d"}]}, "names: bowl at 0 has no conditioning input 'c'; it has none"),
        (
            [bowl(0.0, cond=(TensorSpec("c", (2,), "float32"), TensorSpec("e", (2,), "float32")))],
            {"names": [{"d": "c"}]},
            "names: bowl at 0 has no conditioning input 'd'; its inputs are c, e",
        ),
        (
            [bowl(0.0, cond=(TensorSpec("c", (2,), "float32"), TensorSpec("e", (2,), "float32")))],
            {"names": [{"e": "c"}]},
            "names: two conditioning inputs of bowl at 0 would be called the same, got {'e': 'c'}",
        ),
    ],
)  # fmt: skip
def test_refuses(parts: list[Ebm], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        compose(parts, **options)
