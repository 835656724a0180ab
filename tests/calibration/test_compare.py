"""Whole comparisons of bundles whose energy is known on paper."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ebm_export.calibration.compare import compare
from ebm_export.calibration.compare_options import CompareOptions
from ebm_export.calibration.comparison import Comparison, EngineResult
from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.metrics.frechet import frechet_distance
from ebm_export.calibration.report import render_report
from ebm_export.calibration.speed import with_front
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.errors import DivergenceError, LoadError, UnsupportedOperation, UsageError
from tests.calibration.test_sample_networks import linear
from tests.runtime.tiny_bundle import artifact_entry, golden_data, manifest_entries, quadratic_graph, write_bundle

WARM = {"steps": 30, "step_size": 0.1}
"""E = |x|^2 / 2 at T = 1: after 30 steps of 0.1 a chain has forgotten its start."""


def options(*bundles: Path, **changes: Any) -> CompareOptions:
    quick = {"chains": 360, "batches": (4,), "rounds": 2, "threads": 1, "extra_rounds": 0, "sysfs": "/nowhere"}
    return CompareOptions(bundles=bundles, **{**quick, **changes})


def bent(path: Path, factor: float, cond: bool = False) -> Path:
    """The quadratic score graph with its gradient multiplied by a factor."""
    graph = quadratic_graph(cond)
    graph.graph.node[-1].output[0] = "straight"
    graph.graph.node.append(onnx.helper.make_node("Mul", ["straight", "factor"], ["grad"]))
    graph.graph.initializer.append(numpy_helper.from_array(np.array(factor, np.float32), "factor"))
    onnx.save(graph, path)
    return path


def two_engines(path: Path, **changes: Any) -> Path:
    """A bundle with an fp32 and an fp16 artifact of the same graph."""
    with writing_bundle(path) as folder:
        entries = []
        for precision in ("fp32", "fp16"):
            name = f"score.{precision}.onnxruntime.onnx"
            onnx.save(quadratic_graph(), folder / name)
            entries.append(artifact_entry(folder, name, precision=precision))
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
        write_manifest(folder, manifest_entries(entries, **{"sampler": WARM, **changes}))
    return path


def engine(found: Comparison, name: str) -> EngineResult:
    return next(one for one in found.engines if one.name == name)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, CompareOptions]:
    """A faultless engine, a bent one and one that diverges, beside FP32."""
    folder = tmp_path_factory.mktemp("compare")
    bundle = two_engines(folder / "quadratic.ebm")
    texts = [f"{name}={bent(folder / f'{name}.onnx', factor)}" for name, factor in (("bent", 1.5), ("wild", 1e12))]
    generator = np.random.default_rng(0)
    asked = options(
        bundle,
        candidates=texts,
        cache=folder / "samples",
        data=generator.standard_normal((50, 3)).astype(np.float32),
        ood=9 + generator.standard_normal((40, 3)).astype(np.float32),
    )
    return compare(asked), asked


class TestWhole:
    def test_engines_and_their_verdicts(self, whole: tuple[Comparison, CompareOptions]) -> None:
        found, _ = whole
        assert [one.name for one in found.engines] == ["fp32 onnxruntime", "fp16 onnxruntime", "bent", "wild"]
        assert found.reference == "fp32 onnxruntime"
        assert [one.passed for one in found.engines] == [True, True, False, False]

    def test_a_bent_gradient_is_found_in_samples_and_score(self, whole: tuple[Comparison, CompareOptions]) -> None:
        bent = engine(whole[0], "bent")
        assert bent.gate is not None
        failed = {verdict.metric for verdict in bent.gate.verdicts if not verdict.passed}
        assert {"energy", "score gain"} <= failed
        assert [stage.gain for stage in bent.fidelity] == pytest.approx([0.5] * len(bent.fidelity), abs=1e-5)

    def test_a_faultless_engine_draws_the_same_samples_under_the_same_noise(
        self, whole: tuple[Comparison, CompareOptions]
    ) -> None:
        found, _ = whole
        # Its chains carry a gradient scale and those of FP32 do not, which is a rounding at each step.
        assert 0 < (engine(found, "fp16 onnxruntime").same_noise_distance or 0) < 1e-6
        assert engine(found, "bent").same_noise_distance > 0.01
        assert found.first.same_noise_distance is None
        np.testing.assert_allclose(found.pictures["fp16 onnxruntime"], found.pictures[found.reference], atol=1e-5)

    def test_divergence_is_one_engines_failure(self, whole: tuple[Comparison, CompareOptions]) -> None:
        wild = engine(whole[0], "wild")
        assert wild.failure.startswith("Its chains diverge: ")
        assert wild.gate is None and wild.latency == ()
        assert "wild" not in whole[0].pictures

    def test_times_front_and_outliers(self, whole: tuple[Comparison, CompareOptions]) -> None:
        found, _ = whole
        assert [[step.batch for step in one.latency] for one in found.engines] == [[4], [4], [4], []]
        assert any(one.front for one in found.engines)
        assert [one.auroc for one in found.engines] == [1.0, 1.0, 1.0, None]

    def test_nearer_than_fp32_to_itself_is_no_merit(self, whole: tuple[Comparison, CompareOptions]) -> None:
        """The two faultless engines run the same graph, so at most the faster of them is on the front."""
        faultless = [engine(whole[0], name) for name in ("fp32 onnxruntime", "fp16 onnxruntime")]
        fastest = min(faultless, key=lambda one: one.latency[0].median)
        assert [one.front for one in faultless] == [one is fastest for one in faultless]
        # Their qualities differ in the ninth digit, which is no reason to keep the slower one, whichever that is.
        one, other = faultless
        swapped = [dataclasses.replace(one, latency=other.latency), dataclasses.replace(other, latency=one.latency)]
        assert [entry.front for entry in with_front(swapped, one.latency[0].batch)] == [
            entry is not fastest for entry in faultless
        ]

    def test_figures_of_the_samples_beside_those_of_fp32_itself(self, whole: tuple[Comparison, CompareOptions]) -> None:
        figures = {one.name: one.figures for one in whole[0].engines}
        own, fine, bent = (figures[name] for name in ("fp32 onnxruntime", "fp16 onnxruntime", "bent"))
        assert figures["wild"] is None
        assert own is not None and fine is not None and bent is not None
        for name in ("precision", "recall", "coverage"):
            assert 0.8 < getattr(own, name) < 1
            assert getattr(fine, name) == pytest.approx(getattr(own, name), abs=0.01)  # the same chains
        assert bent.precision > own.precision and bent.recall < own.recall  # a fifth narrower: tamer, and less of it
        assert own.frechet is None  # x is no network's features

    def test_how_chains_mix(self, whole: tuple[Comparison, CompareOptions]) -> None:
        mixing = {one.name: one.mixing for one in whole[0].engines}
        own, fine = mixing["fp32 onnxruntime"], mixing["fp16 onnxruntime"]
        assert own is not None and own.r_hat is not None and 1 < own.r_hat < 2  # 15 steps are two of its times
        assert (own.chains, own.states, own.first_step, own.last_step) == (16, 16, 15, 30)
        assert fine is not None and fine.effective == pytest.approx(own.effective, rel=0.01)  # the same noise
        assert mixing["bent"] is not None and mixing["wild"] is None

    def test_says_why_there_is_no_energy(self, whole: tuple[Comparison, CompareOptions]) -> None:
        assert whole[0].power.startswith("no electric energy was measured: this device has neither")
        assert all(one.energy is None for one in whole[0].engines)

    def test_histograms_are_of_all_that_could_be_drawn(self, whole: tuple[Comparison, CompareOptions]) -> None:
        assert list(whole[0].energies.share) == ["fp32 onnxruntime", "fp16 onnxruntime", "bent"]

    def test_no_seed_is_one_that_an_export_draws_with(self, whole: tuple[Comparison, CompareOptions]) -> None:
        seeds = whole[0].seeds
        assert len(set(seeds.values())) == 3
        exports = GateRules()
        rounds = range(1000)
        drawn = {exports.sample_seed(extra, candidate=which) for extra in rounds for which in (False, True)}
        drawn |= {exports.trajectory_seed(extra) for extra in rounds}
        assert not drawn & {*seeds.values()}

    def test_is_plain_json(self, whole: tuple[Comparison, CompareOptions]) -> None:
        entries = whole[0].to_dict()
        assert json.loads(json.dumps(entries, allow_nan=False)) == entries

    def test_a_second_comparison_draws_nothing_again(
        self, whole: tuple[Comparison, CompareOptions], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found, asked = whole
        drawn = []

        def tell(what: str, done: int, total: int) -> None:
            if what.startswith(("samples", "more samples")):
                drawn.append(what)

        fewer = dataclasses.replace(asked, candidates=asked.candidates[:1], data=None, ood=None)
        again = compare(fewer, tell)
        assert drawn == []
        for name in ("fp32 onnxruntime", "fp16 onnxruntime", "bent"):
            assert engine(again, name).gate == engine(found, name).gate


class TestSeveralBundles:
    def test_one_model_in_two_bundles_has_its_gradients_compared(self, tmp_path: Path) -> None:
        bundles = [write_bundle(tmp_path / f"{name}.ebm", sampler=WARM) for name in ("first", "second")]
        found = compare(options(*bundles))
        assert [one.name for one in found.engines] == ["first: fp32 onnxruntime", "second: fp32 onnxruntime"]
        assert found.models[1].same_as_first
        assert found.engines[1].fidelity and found.engines[1].passed

    def test_two_models_are_compared_by_their_samples_alone(self, tmp_path: Path) -> None:
        first = write_bundle(tmp_path / "first.ebm", sampler=WARM)
        with writing_bundle(tmp_path / "second.ebm") as folder:
            bent(folder / "score.onnx", 3.0)
            golden = golden_data()
            np.savez(folder / "golden.npz", allow_pickle=False, **{**golden, "grad": 3 * golden["grad"]})
            write_manifest(folder, manifest_entries([artifact_entry(folder, "score.onnx")], sampler=WARM))
        found = compare(options(first, tmp_path / "second.ebm"))
        other = found.engines[1]
        assert not found.models[1].same_as_first
        assert other.fidelity == () and not other.passed
        assert other.gate is not None
        assert not any(verdict.metric.startswith("score") for verdict in other.gate.verdicts)

    def test_models_with_other_inputs(self, tmp_path: Path) -> None:
        bundles = [write_bundle(tmp_path / f"{cond}.ebm", cond=cond) for cond in (False, True)]
        with pytest.raises(
            UsageError, match=r"takes x \[3\], centre \[3\] and .* takes x \[3\]: only models with the same"
        ):
            compare(options(*bundles))

    def test_the_same_name_twice(self, tmp_path: Path) -> None:
        bundles = [
            write_bundle(tmp_path / folder / "a.ebm")
            for folder in ("one", "two")
            if (tmp_path / folder).mkdir() is None
        ]
        with pytest.raises(UsageError, match="the bundles need different names"):
            compare(options(*bundles))


def test_conditions_are_part_of_the_chains(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "a.ebm", cond=True, sampler=WARM)
    same = bent(tmp_path / "same.onnx", 1.0, cond=True)
    centre = np.array([[5, 5, 5], [-5, -5, -5]], np.float32)
    found = compare(options(bundle, candidates=[f"same={same}"], cond={"centre": centre}))
    assert engine(found, "same").passed
    means = found.pictures["same"].mean(axis=1)  # chains take turns with the two conditions
    assert (means[0::2] > 2).all() and (means[1::2] < -2).all()
    assert found.modes is not None and len(found.modes.reference) == 2


def test_a_schedule_of_precisions_is_a_candidate(tmp_path: Path) -> None:
    schedule = "fp16:0-20,fp32:20-30"
    found = compare(options(two_engines(tmp_path / "a.ebm"), precisions=[schedule]))
    assert [one.name for one in found.engines] == ["fp32 onnxruntime", f"{schedule} onnxruntime"]
    assert found.engines[1].passed and found.engines[1].fidelity
    assert found.engines[1].latency[0].steps == 30  # not all of its steps are alike


def test_more_chains_are_drawn_where_the_gate_is_undecided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ebm_export.calibration import rounds as module

    sizes: list[int] = []
    subsets: set[int] = set()
    judge = module.judge

    def undecided(reference, candidate, *arguments, **settings):
        sizes.append(len(reference))
        assert len(candidate) == len(reference)
        result = judge(reference, candidate, *arguments, **settings)
        subsets.add(result.subset)
        return dataclasses.replace(result, decided=False)

    monkeypatch.setattr(module, "judge", undecided)
    compare(options(two_engines(tmp_path / "a.ebm"), chains=200, extra_rounds=2))
    assert sizes == [200, 400, 600, 200, 400, 600]
    assert len(subsets) == 1  # more chains make the answer surer, the question stays


@pytest.mark.parametrize(
    "settings", [{"sampler": "mala", "steps": 40, "warmup": 20}, {"sampler": "tempering", "steps": 30}]
)
def test_samplers_that_warm_up_or_have_replicas_are_timed(settings: dict[str, Any], tmp_path: Path) -> None:
    found = compare(options(two_engines(tmp_path / "a.ebm", sampler={**WARM, **settings}), batches=(1,)))
    assert [len(one.latency) for one in found.engines] == [1, 1] and found.not_timed == []


def test_what_cannot_be_timed_keeps_its_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, rows = OnnxRuntimeEngine.run, 7  # no other call of the comparison has so few

    def picky(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if "fp16" in self.path.name and len(inputs["x"]) == rows:
            raise UnsupportedOperation("no memory for so many")
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", picky)
    found = compare(options(two_engines(tmp_path / "a.ebm"), batches=(rows,)))
    assert [one.latency == () for one in found.engines] == [False, True]
    assert found.engines[1].passed and found.engines[1].failure == ""
    assert found.not_timed == ["fp16 onnxruntime: no memory for so many"] == found.to_dict()["not_timed"]
    page = render_report(found)
    assert "No time of a step for fp16 onnxruntime: no memory for so many." in page


def test_energy_is_measured_where_there_are_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ebm_export.calibration import speed as module

    zone = tmp_path / "class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1000"), ("max_energy_range_uj", "262143328850")):
        (zone / name).write_text(text)
    monkeypatch.setattr(module, "idle_watts", lambda sensors: 3.0)
    found = compare(options(two_engines(tmp_path / "a.ebm"), sysfs=tmp_path))
    assert found.power == "energy from RAPL package-0"
    assert [(one.energy.joules_per_sample, one.energy.idle_watts) for one in found.engines if one.energy] == [
        (0.0, 3.0)
    ] * 2


class TestExact:
    SCHEDULE = "fp16:0-20,fp32:20-30"

    def test_acceptance_of_blocks_or_why_there_is_none(self, tmp_path: Path) -> None:
        wide = tmp_path / "wide.onnx"
        onnx.save(quadratic_graph(curvature=0.5), wide)
        bent(tmp_path / "bent.onnx", 1.2)
        texts = [f"{name}={tmp_path / f'{name}.onnx'}" for name in ("wide", "bent")]
        bundle = two_engines(tmp_path / "a.ebm")
        told: set[str] = set()
        asked = options(bundle, precisions=["fp16", self.SCHEDULE], candidates=texts, exact=True)
        found = compare(asked, lambda what, done, total: told.add(what))
        exact = {one.name: one.exact for one in found.engines}
        same, broad, crooked = (exact[name] for name in ("fp16 onnxruntime", "wide", "bent"))
        assert same is not None and broad is not None and crooked is not None
        assert same.block_acceptance == pytest.approx(1, abs=1e-5)
        assert (same.chains, same.blocks, same.block, same.temperature) == (64, 5, 5, 1.0)  # of 30 steps, 7 warm up
        assert 0.5 < broad.low < broad.block_acceptance < broad.high < 0.97
        assert crooked.block_acceptance == pytest.approx(1, abs=1e-5)  # its energy is right
        assert found.not_exact == [
            f"{self.SCHEDULE} onnxruntime: exact sampling corrects one precision, not several by steps"
        ]
        assert found.first.exact is None and exact[f"{self.SCHEDULE} onnxruntime"] is None
        assert "exact sampling from wide" in told
        entries = found.to_dict()
        assert entries["engines"][1]["exact"]["block_acceptance"] == same.block_acceptance
        assert entries["not_exact"] == found.not_exact

    def test_chains_without_noise_and_another_model(self, tmp_path: Path) -> None:
        first = two_engines(tmp_path / "first.ebm", sampler={**WARM, "noise": [0.4, 0.0]})
        with writing_bundle(tmp_path / "second.ebm") as folder:
            bent(folder / "score.onnx", 3.0)
            golden = golden_data()
            np.savez(folder / "golden.npz", allow_pickle=False, **{**golden, "grad": 3 * golden["grad"]})
            write_manifest(folder, manifest_entries([artifact_entry(folder, "score.onnx")], sampler=WARM))
        found = compare(options(first, tmp_path / "second.ebm", exact=True))
        assert found.not_exact == [
            "first: fp16 onnxruntime: the last step of the bundle's chains has no noise, so they end in samples of no density",
            "second: fp32 onnxruntime: it holds another model",
        ]
        assert not any(one.exact for one in found.engines)

    def test_left_out_unless_asked_for(self, whole: tuple[Comparison, CompareOptions]) -> None:
        assert whole[0].not_exact == [] and not any(one.exact for one in whole[0].engines)


class TestErrors:
    def test_nothing_to_compare_with(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="there is nothing to compare with fp32 onnxruntime: give a bundle with"):
            compare(options(write_bundle(tmp_path / "a.ebm")))

    def test_a_name_that_is_taken(self, tmp_path: Path) -> None:
        file = bent(tmp_path / "b.onnx", 1.0)
        with pytest.raises(UsageError, match="--candidate fp16 onnxruntime: there is an engine of this name already"):
            compare(options(two_engines(tmp_path / "a.ebm"), candidates=[f"fp16 onnxruntime={file}"]))

    def test_data_without_outliers(self, tmp_path: Path) -> None:
        bundle = two_engines(tmp_path / "a.ebm")
        with pytest.raises(UsageError, match="--data and --ood are needed together"):
            compare(options(bundle, data=np.zeros((4, 3), np.float32)))
        with pytest.raises(UsageError, match=r"--ood: expected shape \[M, 3\], got \[4, 5\]"):
            compare(options(bundle, data=np.zeros((4, 3), np.float32), ood=np.zeros((4, 5), np.float32)))

    def test_too_few_chains(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="chains: expected at least"):
            compare(options(two_engines(tmp_path / "a.ebm"), chains=3))

    def test_a_feature_network_that_does_not_fit_is_found_before_sampling(self, tmp_path: Path) -> None:
        bundle = two_engines(tmp_path / "a.ebm")
        with pytest.raises(LoadError, match="gone.onnx"):
            compare(options(bundle, features=str(tmp_path / "gone.onnx")))

    def test_fp32_itself_diverges(self, tmp_path: Path) -> None:
        bundle = two_engines(tmp_path / "a.ebm", sampler={"steps": 400, "step_size": 1e3})
        with pytest.raises(DivergenceError, match="try a smaller step_size"):
            compare(options(bundle))


def test_what_a_backend_does_not_take_is_one_engines_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = OnnxRuntimeEngine.run

    def picky(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.path.name == "strange.onnx":
            raise UnsupportedOperation("the backend cannot compile strange.onnx")
        return run(self, inputs)

    monkeypatch.setattr(OnnxRuntimeEngine, "run", picky)
    asked = options(
        two_engines(tmp_path / "a.ebm"),
        candidates=[f"{name}={bent(tmp_path / f'{name}.onnx', 1.0)}" for name in ("strange", "sound")],
    )
    found = compare(asked)
    strange = engine(found, "strange")
    assert strange.failure == "It could not be run: the backend cannot compile strange.onnx"
    assert strange.gate is None and strange.latency == () and "strange" not in found.pictures
    assert engine(found, "sound").passed


def test_the_frechet_distance_of_all_features_of_a_network(tmp_path: Path) -> None:
    """The network repeats x 20 times: more features than the gate's 16 components, and 20 times the distance."""
    bundle = two_engines(tmp_path / "a.ebm")
    network = helper.make_graph(
        [helper.make_node("Concat", ["x"] * 20, ["features"], axis=1)],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", 60])],
    )
    file = tmp_path / "network.onnx"
    onnx.save(helper.make_model(network, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), file)
    asked = options(bundle, features=str(file), cache=tmp_path / "samples", extra_rounds=2)
    found = compare(asked)
    assert found.features == "the features of network.onnx"
    figures = found.first.figures
    assert figures is not None and figures.width == 60
    sets = {path: np.load(path) for path in sorted((tmp_path / "samples").glob("*.npy"))}
    whole = [x for x in sets.values() if len(x) == 360]
    apart = [frechet_distance(one, other) for one, other in itertools.permutations(whole, 2)]
    assert 20 * min(abs(distance - figures.frechet / 20) for distance in apart) < 1e-6 * figures.frechet
    assert found.to_dict()["engines"][0]["figures"]["frechet"] == figures.frechet


def test_features_that_overflow_are_one_engines_failure(tmp_path: Path) -> None:
    """exp(9 x), which float32 holds of FP32's samples, and not of those that an engine drives apart."""
    bundle = two_engines(tmp_path / "a.ebm")
    network = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
        network (float[B, 3] x) => (float[B, 3] features) <float factor = {9}>
        { large = Mul(x, factor) features = Exp(large) }""")
    onnx.save(network, tmp_path / "network.onnx")
    wide = bent(tmp_path / "wide.onnx", -0.3)
    found = compare(options(bundle, candidates=[f"wide={wide}"], features=str(tmp_path / "network.onnx")))
    gate = engine(found, "wide").gate
    assert gate is not None and [entry.metric for entry in gate.verdicts if entry.metric == "finite"] == ["finite"]
    assert engine(found, "fp16 onnxruntime").gate is not None
    assert "wide" in render_report(found)


def test_classes_are_the_modes(tmp_path: Path) -> None:
    """Two halves of one cloud, in which no clusters are to be found."""
    bundle, classes = (
        two_engines(tmp_path / "a.ebm"),
        linear(tmp_path / "sides.onnx", np.array([[1.0, -1], [0, 0], [0, 0]])),
    )
    found = compare(options(bundle, classes=classes, features=str(linear(tmp_path / "f.onnx", np.eye(3)[:, 1:]))))
    assert found.features == "the features of f.onnx, their modes being the classes of sides.onnx"
    assert found.modes is not None and found.modes.classes and len(found.modes.reference) == 2
    (gate,) = [one.gate for one in found.engines if one.name == "fp16 onnxruntime"]
    notes = {verdict.metric: verdict.note for verdict in gate.verdicts}
    assert notes["modes"] == "2 modes" and notes["frechet"] == "2 components"


def test_features_of_the_model_itself(tmp_path: Path) -> None:
    """The score graph of a quadratic has no learned layer, and that is said before anything is drawn."""
    with pytest.raises(UsageError, match="no learned layer leads to its energy"):
        compare(options(two_engines(tmp_path / "a.ebm"), features="model"))
