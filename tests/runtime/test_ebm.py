"""load, score, sample and refine on bundles of a quadratic energy."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import (
    DivergenceError,
    Ebm,
    FunctionEngine,
    LoadError,
    MissingBackend,
    SamplerConfig,
    UsageError,
    load,
)
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.precision_schedule import Span
from ebm_export.runtime.progress import Progress

from .tiny_bundle import (
    artifact_entry,
    manifest_entries,
    quadratic_graph,
    write_bundle,
    write_manifest,
    write_two_precisions,
    writing_bundle,
)

X = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
CENTRE = np.random.default_rng(1).standard_normal((5, 3)).astype(np.float32)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[Ebm]:
    with load(write_bundle(tmp_path / "plain.ebm"), "onnxruntime", threads=1) as ebm:
        yield ebm


@pytest.fixture
def conditional(tmp_path: Path) -> Iterator[Ebm]:
    with load(write_bundle(tmp_path / "conditional.ebm", cond=True), "onnxruntime", threads=1) as ebm:
        yield ebm


class TestScore:
    def test_energy_and_unscaled_gradient(self, plain: Ebm) -> None:
        energy, grad = plain.score(X)
        np.testing.assert_allclose(energy, 0.5 * (X**2).sum(axis=1), rtol=1e-6)
        np.testing.assert_allclose(grad, X, rtol=1e-6)
        assert energy.dtype == grad.dtype == np.float32

    def test_results_are_the_callers(self, plain: Ebm) -> None:
        energy, grad = plain.score(X)
        kept = energy.copy(), grad.copy()
        plain.score(X * 2)
        np.testing.assert_array_equal((energy, *grad.T), (kept[0], *kept[1].T))

    @pytest.mark.parametrize("rows", [1, 5])
    def test_conditions_of_all_or_of_one_row(self, conditional: Ebm, rows: int) -> None:
        _, grad = conditional.score(X, centre=CENTRE[:rows])
        np.testing.assert_allclose(grad, X - CENTRE[:rows], rtol=1e-5, atol=1e-6)

    def test_conditions_as_sample_takes_them(self, conditional: Ebm) -> None:
        for found, wanted in zip(
            conditional.score(X, cond={"centre": CENTRE}), conditional.score(X, centre=CENTRE), strict=True
        ):
            np.testing.assert_array_equal(found, wanted)

    def test_an_input_that_is_called_cond(self) -> None:
        engine = FunctionEngine(lambda x, cond: (0.5 * np.square(x - cond).sum(1), x - cond))
        ebm = Ebm(
            engine,
            ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("cond", (3,), "float32"),)),
            SamplerConfig(),
        )
        for _, grad in (ebm.score(X, cond=CENTRE), ebm.score(X, cond={"cond": CENTRE})):
            np.testing.assert_allclose(grad, X - CENTRE, rtol=1e-6)

    def test_other_types_and_layouts(self, conditional: Ebm) -> None:
        _, expected = conditional.score(X, centre=CENTRE)
        _, grad = conditional.score(np.asfortranarray(X.astype(np.float64)), centre=CENTRE.T.copy().T)
        np.testing.assert_array_equal(grad, expected)
        assert conditional.score([[1, 2, 3]], centre=[[0, 0, 0]])[1].tolist() == [[1, 2, 3]]

    def test_batches(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "m.ebm", cond=True)
        with load(bundle, "onnxruntime", max_batch=2) as ebm:
            for centre in (CENTRE, CENTRE[:1]):
                energy, grad = ebm.score(X, centre=centre)
                np.testing.assert_allclose(grad, X - centre, rtol=1e-5, atol=1e-6)
                np.testing.assert_allclose(energy, 0.5 * ((X - centre) ** 2).sum(axis=1), rtol=1e-5)

    @pytest.mark.parametrize(
        ("x", "cond", "message"),
        [
            (X[0], {"centre": CENTRE}, "x: expected shape [B, 3], got [3]"),
            (X[:, :2], {"centre": CENTRE}, "x: expected shape [B, 3], got [5, 2]"),
            (X[:0], {"centre": CENTRE}, "x: expected shape [B, 3], got [0, 3]"),
            (X.astype(complex), {"centre": CENTRE}, "x: expected float32, got an array of complex128"),
            ("x", {"centre": CENTRE}, "x: expected float32, got an array of <U1"),
            (
                X,
                {},
                "the model needs the conditioning input 'centre': pass centre= an array of float32 [B, 3], B being 5",
            ),
            (X, {"center": CENTRE}, "'center' is not an input of this model; did you mean 'centre'?"),
            (X, {"centre": CENTRE, "zzz": 1}, "'zzz' is not an input of this model; its inputs are centre"),
            (X, {"centre": CENTRE[:3]}, "centre: expected shape [5 or 1, 3], got [3, 3]"),
            (X, {"centre": CENTRE[0]}, "centre: expected shape [5 or 1, 3], got [3]"),
            (X[:1], {"centre": CENTRE}, "centre: expected shape [1, 3], got [5, 3]"),
        ],
    )
    def test_refuses(self, conditional: Ebm, x: Any, cond: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=re.escape(message)):
            conditional.score(x, **cond)

    def test_refuses_a_condition_of_a_model_without_any(self, plain: Ebm) -> None:
        with pytest.raises(UsageError, match="'obs' is not an input of this model; it has no other inputs than x"):
            plain.score(X, obs=X)


class TestBrokenObservations:
    """Some libraries answer them: OpenVINO's ReLU makes 0 of NaN."""

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_are_refused(self, conditional: Ebm, value: float) -> None:
        broken = CENTRE.copy()
        broken[3, 1] = value
        for ask in (lambda: conditional.score(X, centre=broken), lambda: conditional.sample(5, centre=broken)):
            with pytest.raises(
                UsageError, match="centre: expected numbers that float32 holds, got NaN or infinity among them"
            ):
                ask()

    def test_a_mask_may_hold_negative_infinity(self, conditional: Ebm) -> None:
        broken = CENTRE.copy()
        broken[3, 1] = -np.inf
        assert conditional.score(X, centre=broken)[0][3] == np.inf


class TestSample:
    def test_shape_type_and_seed(self, plain: Ebm) -> None:
        samples = plain.sample(7, seed=1)
        assert samples.shape == (7, 3) and samples.dtype == np.float32
        np.testing.assert_array_equal(plain.sample(7, seed=1), samples)
        assert not np.array_equal(plain.sample(7, seed=2), samples)

    def test_a_chain_does_not_depend_on_how_many_there_are(self, plain: Ebm) -> None:
        everything = plain.sample(9, seed=1)
        np.testing.assert_allclose(plain.sample(4, seed=1), everything[:4], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(plain.sample(9, seed=1, max_batch=2), everything, rtol=1e-4, atol=1e-5)

    def test_the_bundles_settings_hold_unless_overridden(self, plain: Ebm) -> None:
        heard: list[Progress] = []
        plain.sample(2, callback=heard.append)
        assert heard[-1].done == heard[-1].steps == plain.sampler.steps == 20
        plain.sample(2, callback=heard.append, steps=3)
        assert heard[-1].steps == 3
        plain.sample(2, callback=heard.append, config=SamplerConfig(steps=4, step_size=0.1))
        assert heard[-1].steps == 4

    def test_moments(self, plain: Ebm) -> None:
        n, h = 20_000, 0.1
        samples = plain.sample(n, steps=80, step_size=h).astype(np.float64)
        variance = 1 / (1 - h / 2)  # of the chain at this step size
        assert (abs(samples.mean(axis=0)) < 4 * np.sqrt(variance / n)).all()
        assert (abs(samples.var(axis=0) - variance) < 4 * variance * np.sqrt(2 / n)).all()

    def test_conditions_reach_each_chain(self, conditional: Ebm) -> None:
        samples = conditional.sample(5, steps=200, noise=0.0, centre=CENTRE)
        np.testing.assert_allclose(samples, CENTRE, atol=1e-4)

    def test_starts_from_data_of_the_call_or_of_the_bundle(self, tmp_path: Path) -> None:
        own = np.arange(6, dtype=np.float32).reshape(2, 3)
        with load(write_bundle(tmp_path / "m.ebm", data=own), "onnxruntime") as ebm:
            still = {"init": "data", "steps": 1, "step_size": 0.0}
            np.testing.assert_array_equal(np.unique(ebm.sample(20, **still), axis=0), own)
            np.testing.assert_array_equal(ebm.sample(20, data=[[7, 8, 9]], **still), [[7, 8, 9]] * 20)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n": 0}, "n: expected a whole number of at least 1, got 0"),
            ({"n": 2.5}, "n: expected a whole number of at least 1, got 2.5"),
            ({"n": 2, "seed": -1}, "seed: expected a whole number from 0 to 2**64 - 1, got -1"),
            ({"n": 2, "step_siz": 1}, "'step_siz' is neither an input of this model nor a sampler setting; did you"),
            ({"n": 2, "steps": 0}, "steps: expected a whole number of at least 1, got 0"),
            ({"n": 2, "init": "data"}, "pass data= an array [M, 3]"),
            ({"n": 2, "x0": X}, "x0: expected 2 states, or 1 for all chains, got 5"),
            ({"n": 2, "data": X[:, :2], "init": "data"}, "data: expected shape [B, 3], got [5, 2]"),
            ({"n": 2, "max_batch": 0}, "max_batch: expected a whole number of at least 1, got 0"),
        ],
    )
    def test_refuses(self, plain: Ebm, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=re.escape(message)):
            plain.sample(**arguments)

    @pytest.mark.parametrize("sampler", ["langevin", "preconditioned", "underdamped", "mala", "hmc", "tempering"])
    def test_a_temperature_that_the_noise_overrules_is_refused(self, plain: Ebm, sampler: str) -> None:
        noisy = SamplerConfig(steps=2, step_size=0.1, noise=0.1)
        for given in ({"config": noisy}, {"noise": 0.1, "steps": 2, "step_size": 0.1}):
            with pytest.raises(
                UsageError, match=r"temperature=2 has no effect while noise=0.1 is set.*set noise=None as"
            ):
                plain.sample(2, sampler=sampler, temperature=2, **given)
        plain.sample(2, sampler=sampler, temperature=2, noise=None, config=noisy)
        plain.sample(2, sampler=sampler, config=noisy.replace(temperature=2))  # a bundle may say both


class TestRestart:
    """Beyond 2 the energy is NaN, and some starts lie there."""

    def ebm(self) -> Ebm:
        def cliff(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.where(abs(x).max(axis=1) > 2, np.nan, 0.5 * (x * x).sum(axis=1)), x

        model = ModelSpec("cliff", TensorSpec("x", (3,), "float32"))
        return Ebm(FunctionEngine(cliff), model, SamplerConfig(steps=3, step_size=0.05, temperature=0.2))

    def test_a_start_that_was_drawn_is_drawn_anew(self, caplog: pytest.LogCaptureFixture) -> None:
        samples = self.ebm().sample(40, seed=1, diverged="restart")
        assert samples.shape == (40, 3) and abs(samples).max() <= 2
        assert all("are started anew (" in message for message in caplog.messages)
        said = re.fullmatch(
            r"(\d+) of 40 chains diverged, seen at the start, and are started anew \(1 of 3\): (.*)", caplog.messages[0]
        )
        assert said is not None
        anew = [int(number) for number in said[2].split(", ")]
        assert 0 < len(anew) == int(said[1]) < 40
        others = self.ebm().sample(40, seed=1, diverged="drop")
        np.testing.assert_array_equal(others, np.delete(samples, anew, axis=0))  # which are as ever

    def test_a_start_that_was_given_stays(self) -> None:
        start = np.zeros((40, 3), np.float32)
        start[7] = 5
        with pytest.raises(DivergenceError, match="^chain 7, started anew 3 times, has an energy") as caught:
            self.ebm().sample(40, seed=1, x0=start, diverged="restart")
        assert str(caught.value).endswith("not finite at the start; look at the states that they start from")

    def test_what_was_tried_is_not_advised(self) -> None:
        with pytest.raises(DivergenceError, match=r"40 of 40 chains .* after step 1; try a smaller .*, --bounds\)$"):
            self.ebm().sample(40, seed=1, step_size=1e9, diverged="drop")


class TestRefine:
    def test_is_sample_from_given_states(self, plain: Ebm) -> None:
        before = X.copy()
        refined = plain.refine(X, seed=3, steps=5)
        np.testing.assert_array_equal(refined, plain.sample(5, seed=3, x0=X, steps=5))
        np.testing.assert_array_equal(X, before)

    def test_one_state_for_all(self, plain: Ebm) -> None:
        samples = plain.sample(4, x0=X[:1], steps=1, step_size=0.0)
        np.testing.assert_array_equal(samples, np.repeat(X[:1], 4, axis=0))

    def test_refuses(self, plain: Ebm) -> None:
        with pytest.raises(UsageError, match=r"x0: expected shape \[B, 3\], got \[3\]"):
            plain.refine(X[0])


class TestNames:
    """Conditioning inputs whose names are also something else."""

    def ebm(self, name: str) -> Ebm:
        engine = FunctionEngine(lambda x, **cond: (0.5 * ((x - cond[name]) ** 2).sum(axis=1), x - cond[name]))
        model = ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(TensorSpec(name, (3,), "float32"),))
        return Ebm(engine, model, SamplerConfig(steps=100, step_size=0.2, noise=0.0))

    def test_a_condition_wins_over_a_setting(self) -> None:
        samples = self.ebm("noise").sample(5, noise=CENTRE)
        np.testing.assert_allclose(samples, CENTRE, atol=1e-4)

    @pytest.mark.parametrize("name", ["data", "config", "cond", "seed", "n", "self"])
    def test_a_condition_named_like_a_parameter(self, name: str) -> None:
        ebm = self.ebm(name)
        np.testing.assert_allclose(ebm.sample(5, cond={name: CENTRE}), CENTRE, atol=1e-4)
        np.testing.assert_allclose(ebm.score(X, **{name: CENTRE})[1], X - CENTRE, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_one_number_is_a_condition_of_one_number(self, shape: tuple[int, ...]) -> None:
        """However many axes it has there; `--cond level=3` gives an array of one number."""

        def around(x: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            grad = x - level.reshape(-1, 1)
            return 0.5 * (grad * grad).sum(axis=1), grad

        model = ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("level", shape, "float32"),))
        ebm = Ebm(FunctionEngine(around), model, SamplerConfig(steps=2))
        np.testing.assert_allclose(ebm.score(X, level=np.array([3]))[1], X - 3, rtol=1e-5)
        with pytest.raises(UsageError, match="or --cond level=NUMBER"):
            ebm.score(X)
        with pytest.raises(UsageError, match="level: expected shape"):
            ebm.score(X, level=np.array([3, 4]))

    def test_all_conditions_that_are_missing_are_named_at_once(self) -> None:
        engine = FunctionEngine(lambda x, **cond: ((x * x).sum(axis=1), 2 * x))
        specs = (
            TensorSpec("sigma", (), "float32"),
            TensorSpec("goal", (2,), "float32"),
            TensorSpec("label", (), "int64"),
        )
        ebm = Ebm(engine, ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=specs), SamplerConfig(steps=2))
        said = r"--cond sigma=FILE\.npy, or --cond sigma=NUMBER\); and so for 'goal', float32 \[B, 2\]; and so for 'label', int64 \[B\]$"
        with pytest.raises(UsageError, match=said):
            ebm.score(X)
        with pytest.raises(UsageError, match=r"'goal': .* --cond goal=FILE\.npy\)$"):
            ebm.score(X, sigma=np.ones(1), label=np.ones(1, np.int64))

    @pytest.mark.parametrize("parameter", ["energy", "grad", "grad_scale", "x"])
    def test_a_condition_goes_by_its_name_in_the_model_and_in_the_graph(self, parameter: str) -> None:
        name = f"{parameter}_"
        engine = FunctionEngine(lambda x, **cond: (0.5 * ((x - cond[name]) ** 2).sum(axis=1), x - cond[name]))
        spec = TensorSpec(name, (3,), "float32", parameter)
        ebm = Ebm(engine, ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(spec,)), SamplerConfig(steps=2))
        for called in (parameter, name):
            np.testing.assert_allclose(ebm.score(X, **{called: CENTRE})[1], X - CENTRE, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(ebm.sample(5, **{called: CENTRE}), ebm.sample(5, cond={name: CENTRE}))
        with pytest.raises(UsageError, match=f"the model needs the conditioning input '{parameter}': pass"):
            ebm.score(X)
        with pytest.raises(UsageError, match=f"'{parameter}' and '{name}' are one input, by two names"):
            ebm.score(X, **{parameter: CENTRE, name: CENTRE})

    @pytest.mark.parametrize(
        ("dtype", "good", "bad"),
        [
            ("int64", np.array([[1]], np.int32), np.array([[1.5]])),
            ("int64", np.array([[1.0]]), np.array([[np.nan]])),
            ("int64", np.array([[-3.0]], np.float32), np.array([[1e18]])),
            ("bool", np.array([[True]]), np.array([[1]])),
        ],
    )
    def test_types_of_conditions(self, dtype: str, good: np.ndarray, bad: np.ndarray) -> None:
        def energy(x: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert label.dtype == np.dtype(dtype) and label.shape == (5, 1)
            return 0.5 * (x * x).sum(axis=1), x

        model = ModelSpec("m", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("label", (1,), dtype),))
        ebm = Ebm(FunctionEngine(energy), model)
        ebm.score(X, label=good)
        with pytest.raises(UsageError, match=f"label: expected {dtype}, got an array of {bad.dtype}"):
            ebm.score(X, label=bad)


class TestSeveralPrecisions:
    def test_a_schedule_opens_one_engine_for_each_precision(self, tmp_path: Path) -> None:
        with load(write_two_precisions(tmp_path / "m.ebm"), precision="int8:0-2,fp32:2-3,int8:3-5") as ebm:
            assert ebm.choice.count("; then ") == 2
            assert ebm.choice.startswith("0-2 on onnxruntime int8 (score.int8.onnxruntime.onnx): backend left out")
            moved = ebm.sample(1, x0=X[:1], steps=5, step_size=0.1, noise=0.0)
            np.testing.assert_allclose(moved, X[:1] * 0.85**4 * 0.9, rtol=1e-5)
            np.testing.assert_allclose(ebm.score(X)[1], 1.5 * X, rtol=1e-6)
            with pytest.raises(UsageError, match="covers 5 steps, and the chain has 20"):
                ebm.sample(1)

    def test_exact_sampling(self, tmp_path: Path) -> None:
        n = 20_000
        with load(write_two_precisions(tmp_path / "m.ebm"), precision="int8", exact="fp32") as ebm:
            assert ebm.choice.count("; corrected by onnxruntime fp32 (score.fp32.onnxruntime.onnx)") == 1
            np.testing.assert_allclose(ebm.score(X)[1], X, rtol=1e-6)
            settings = {"steps": 150, "warmup": 50, "step_size": 0.3, "block": 3}
            variance = ebm.sample(n, **settings).var(axis=0)  # the surrogate's is 2/3
            assert (abs(variance - 1) < 4 * np.sqrt(2 / n)).all()

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"exact": "fp32"}, UsageError, "moves in fp32: set precision to the low one .* without --exact"),
            ({"precision": "int8", "exact": "bf16"}, LoadError, "has nothing bf16; it holds onnxruntime fp32, onnx"),
            (
                {"precision": "int8:0-", "exact": "fp32"},
                UsageError,
                "and int8:0- is several: leave exact .--exact. out",
            ),
            ({"precision": "int8:0-9,bf16:9-"}, LoadError, "has nothing bf16"),
            ({"precision": "int8:1-9"}, UsageError, "to start at 0"),
        ],
    )
    def test_refuses(self, tmp_path: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
        bundle = write_two_precisions(tmp_path / "m.ebm")
        with pytest.raises(error, match=message):
            load(bundle, **arguments)

    def test_an_engine_that_does_not_open_closes_the_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[FunctionEngine] = []
        closed: list[FunctionEngine] = []

        class Second(FunctionEngine):
            def open(self) -> None:
                opened.append(self)
                if len(opened) == 2:
                    raise RuntimeError("no memory")

            def close(self) -> None:
                closed.append(self)

        monkeypatch.setattr(
            "ebm_export.runtime.artifact_engine.open_engine", lambda *a, **k: Second(lambda x: (x[:, 0], x))
        )
        with pytest.raises(RuntimeError, match="no memory"):
            load(write_two_precisions(tmp_path / "m.ebm"), precision="int8:0-9,fp32:9-")
        assert opened[0] in closed

    def test_a_schedule_and_exact_exclude_each_other(self) -> None:
        engine = FunctionEngine(lambda x: (x[:, 0], x))
        with pytest.raises(UsageError, match="give a schedule of engines or exact, not both"):
            Ebm(
                engine,
                ModelSpec("m", TensorSpec("x", (3,), "float32")),
                schedule=[(Span("int8", 0, None), engine)],
                exact=engine,
            )


class TestLoad:
    def test_says_what_it_picked(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "ebm_export")
        with load(write_bundle(tmp_path / "m.ebm")) as ebm:
            assert ebm.choice.startswith("onnxruntime fp32 (score.fp32.onnxruntime.onnx): backend left out")
        assert caplog.messages == [f"m.ebm: {ebm.choice}"]

    def test_an_engine_of_ones_own(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "m.ebm")
        with load(bundle, engine=FunctionEngine(lambda x: (x[:, 0], 7 * x))) as ebm:
            np.testing.assert_allclose(ebm.score(X)[1], 7 * X, rtol=1e-6)
            assert ebm.choice == "function: the engine that was given"
        with pytest.raises(UsageError, match="precision='fp32' has no effect on the engine that was given"):
            load(bundle, precision="fp32", engine=FunctionEngine(lambda x: (x[:, 0], x)))

    def test_closed(self, tmp_path: Path) -> None:
        ebm = load(write_bundle(tmp_path / "m.ebm"))
        ebm.close()
        ebm.close()
        with pytest.raises(RuntimeError, match="the engine is not open"):
            ebm.score(X)

    def test_an_artifacts_largest_batch_is_kept_to(self, tmp_path: Path) -> None:
        sizes = []

        class Watched(FunctionEngine):
            def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
                sizes.append(len(inputs["x"]))
                return super().run(inputs)

        with load(write_bundle(tmp_path / "m.ebm"), engine=Watched(lambda x: (x[:, 0], x)), max_batch=2) as ebm:
            ebm.sample(5, steps=1, max_batch=4)
        assert set(sizes) == {1, 2}

    def test_errors(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle = write_bundle(tmp_path / "m.ebm")
        with pytest.raises(UsageError, match="threads: expected a whole number of at least 1, got 0"):
            load(bundle, threads=0)
        with pytest.raises(UsageError, match="backend: expected one of"):
            load(bundle, "tvm")
        with pytest.raises(
            LoadError, match="has nothing fp16; it holds onnxruntime fp32; export the model with --precision fp16 too"
        ):
            load(bundle, precision="fp16")
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MissingBackend, match="backend 'onnxruntime' cannot be used here: the package onnxruntime"):
            load(bundle, "onnxruntime")

    def test_damaged_artifact(self, tmp_path: Path) -> None:
        bundle = write_bundle(tmp_path / "m.ebm")
        (bundle / "score.fp32.onnxruntime.onnx").write_bytes(b"")
        with pytest.raises(LoadError, match=r"score\.fp32\.onnxruntime\.onnx is damaged or was changed"):
            load(bundle)

    def test_options_the_backend_does_not_know_are_refused(self, tmp_path: Path) -> None:
        with writing_bundle(tmp_path / "m.ebm") as folder:
            (folder / "score.onnx").write_bytes(quadratic_graph().SerializeToString())
            entry = artifact_entry(folder, "score.onnx", options={"turbo": True})
            write_manifest(folder, manifest_entries([entry]))
        with pytest.raises(
            UsageError, match="backend 'onnxruntime' knows the options 'providers' and 'leave_out'; it got 'turbo'"
        ):
            load(tmp_path / "m.ebm")


class TestJudgedElsewhere:
    """A low precision is known to be good along the bundle's own chains."""

    @staticmethod
    def warnings(
        caplog: pytest.LogCaptureFixture, judged: str, rounding: float | None = None, **settings: Any
    ) -> list[str]:
        model = ModelSpec("bowl", TensorSpec("x", (3,), "float32"))
        engine = FunctionEngine(lambda x: (0.5 * (x * x).sum(axis=1), x))
        ebm = Ebm(engine, model, SamplerConfig(steps=3, step_size=0.1), judged=judged, energy_rounding=rounding)
        for _ in range(2):
            ebm.sample(2, **settings)
        return [record.getMessage() for record in caplog.records]

    def test_it_is_said_once(self, caplog: pytest.LogCaptureFixture) -> None:
        found = self.warnings(caplog, "int8", sampler="mala", temperature=0.1)
        assert len(found) == 1
        assert "int8 was calibrated and judged along chains" in found[0]
        assert "with sampler='mala', temperature=0.1 its samples" in found[0]

    @pytest.mark.parametrize("sampler", ["mala", "hmc", "tempering", "underdamped"])
    def test_samplers_that_accept_by_the_energy(self, caplog: pytest.LogCaptureFixture, sampler: str) -> None:
        (found,) = self.warnings(caplog, "int8", sampler=sampler)
        said = f"{sampler} accepts by differences of energies, which are rounded as well: where that is as much as the temperature"
        assert (said in found) == (sampler != "underdamped")

    @pytest.mark.parametrize("sampler", ["mala", "hmc", "tempering", "underdamped"])
    @pytest.mark.parametrize(("temperature", "told"), [(0.02, True), (0.09, True), (0.11, False), (2.0, False)])
    def test_it_counts_beside_the_temperature(
        self, caplog: pytest.LogCaptureFixture, sampler: str, temperature: float, told: bool
    ) -> None:
        for settings in ({"temperature": temperature}, {"noise": (0.2 * temperature) ** 0.5}):
            caplog.clear()
            (found,) = self.warnings(caplog, "int8", 0.05, sampler=sampler, **settings)
            said = f"which are rounded as well, by 0.05 at the bundle's own samples, and the temperature is {temperature:.3g}:"
            assert (said in found) == (told and sampler != "underdamped")
            assert ("accepts by differences" in found) == (told and sampler != "underdamped")

    def test_a_bundle_says_by_how_much(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path = write_two_precisions(tmp_path / "m.ebm")
        text = (path / "manifest.json").read_text()
        entries = json.loads(text)
        entries["artifacts"][1]["energy_rounding"] = 0.7
        for manifest, said in ((json.dumps(entries), "well, by 0.7 at"), (text, "well: where that is as much")):
            (path / "manifest.json").write_text(manifest)
            with load(path, precision="int8", backend="onnxruntime") as ebm:
                ebm.sample(2, sampler="mala")
            assert f"which are rounded as {said}" in caplog.messages[-1]

    def test_gradients_that_are_clipped_elsewhere(self, caplog: pytest.LogCaptureFixture) -> None:
        """They were judged as steps read them."""
        assert "with grad_clip=3.0 its samples" in self.warnings(caplog, "int8", grad_clip=3.0)[0]

    def test_much_longer_chains(self, caplog: pytest.LogCaptureFixture) -> None:
        assert "with steps=13 its samples" in self.warnings(caplog, "bf16", steps=13)[0]

    @pytest.mark.parametrize(("judged", "settings"), [("", {"temperature": 0.1}), ("int8", {"steps": 12})])
    def test_nothing_to_say(self, caplog: pytest.LogCaptureFixture, judged: str, settings: dict[str, Any]) -> None:
        assert not self.warnings(caplog, judged, **settings)
