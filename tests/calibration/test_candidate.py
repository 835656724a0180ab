from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from ebm_export.calibration.candidate import (
    bundle_candidates,
    external_candidate,
    precision_at,
    precisions_in,
    reference_of,
)
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.errors import LoadError, UsageError
from ebm_export.runtime.file_hash import sha256_of
from ebm_export.runtime.manifest_update import set_status
from tests.runtime.tiny_bundle import artifact_entry, golden_data, manifest_entries, quadratic_graph, write_bundle

FILES = {
    "score.fp32.onnxruntime.onnx": ("onnxruntime", "fp32", "verified"),
    "score.fp16.onnxruntime.onnx": ("onnxruntime", "fp16", "built, not run"),
    "score.fp32.openvino.onnx": ("openvino", "fp32", "verified"),
    "score.bf16.onnx": ("onnx", "bf16", "verified"),
}


def bundle_of(path: Path, *names: str) -> Bundle:
    """A bundle whose engines all hold the same graph, whatever they are called."""
    with writing_bundle(path) as folder:
        entries = []
        for name in names or FILES:
            onnx.save(quadratic_graph(), folder / name)
            target, precision, status = FILES[name]
            entries.append(artifact_entry(folder, name, target=target, precision=precision, status=status))
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
        write_manifest(folder, manifest_entries(entries))
    return Bundle(path)


def layered_graph(weight: np.ndarray) -> onnx.ModelProto:
    """E(x) = 0.5 * |x W|^2 over x [B, 3]; dE/dx = x W W^T."""
    node, port = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    number = onnx.TensorProto.FLOAT
    constants = {
        "weight": weight,
        "transposed": np.ascontiguousarray(weight.T),
        "half": np.array(0.5, np.float32),
        "axis": np.array([1], np.int64),
    }
    graph = onnx.helper.make_graph(
        [
            node("MatMul", ["x", "weight"], ["layer"]),
            node("Mul", ["layer", "layer"], ["square"]),
            node("ReduceSum", ["square", "axis"], ["sum"], keepdims=0),
            node("Mul", ["sum", "half"], ["energy"]),
            node("Unsqueeze", ["grad_scale", "axis"], ["column"]),
            node("Mul", ["layer", "column"], ["backward"]),
            node("MatMul", ["backward", "transposed"], ["grad"], name="last"),
        ],
        "score",
        [port("x", number, ["B", 3]), port("grad_scale", number, ["B"])],
        [port("energy", number, ["B"]), port("grad", number, ["B", 3])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)


def plain(model: onnx.ModelProto) -> onnx.ModelProto:
    """Makes of a score graph, in place, one of dE/dx itself: no input grad_scale, as other exports have it."""
    graph = model.graph
    kept = [port for port in graph.input if port.name != "grad_scale"]
    del graph.input[:]
    graph.input.extend(kept)
    graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == "grad_scale":
                node.input[index] = "one"
    return model


def bundle_with_prologue(path: Path, factor: float) -> Bundle:
    """A bundle of 0.5 * |x - centre|^2 whose prologue makes the feature factor * centre."""
    with writing_bundle(path) as folder:
        onnx.save(quadratic_graph(cond=True), folder / "score.fp32.onnxruntime.onnx")
        prologue = onnx.parser.parse_model(f"""<ir_version: 10, opset_import: ["" : 20]>
            prologue (float[B, 3] centre) => (float[B, 3] feature)
            <float factor = {{{factor}}}> {{ feature = Mul(centre, factor) }}""")
        onnx.save(prologue, folder / "prologue.fp32.onnxruntime.onnx")
        entries = [
            artifact_entry(folder, "score.fp32.onnxruntime.onnx"),
            artifact_entry(folder, "prologue.fp32.onnxruntime.onnx", role="prologue", reads=["centre"]),
        ]
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data(cond=True))
        write_manifest(folder, manifest_entries(entries, cond=True))
    return Bundle(path)


class Reader(CalibrationDataReader):
    """Gives the quantizer its calibration data, one state at a time."""

    def __init__(self, states: np.ndarray, scale: bool = True) -> None:
        self._rows = iter(states)
        self._beside = {"grad_scale": np.ones(1, np.float32)} if scale else {}

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self._rows, None)
        return None if row is None else {"x": row[None], **self._beside}


class TestBundleCandidates:
    def test_everything_that_a_bundle_holds_and_this_machine_runs(self, tmp_path: Path) -> None:
        found, not_run = bundle_candidates([bundle_of(tmp_path / "a.ebm")])
        assert [entry.name for entry in found] == ["fp32 openvino", "fp32 onnxruntime", "fp16 onnxruntime"]
        assert [entry.name for entry in not_run] == ["bf16 onnxruntime"]
        assert "no BF16 kernels" in not_run[0].reason
        assert found[2].note == "score.fp16.onnxruntime.onnx is not verified (built, not run)"

    def test_size_and_fingerprint_are_those_of_the_file(self, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm", "score.fp32.onnxruntime.onnx")
        ((only,), _) = bundle_candidates([bundle])
        assert only.bytes == only.file.stat().st_size
        assert only.fingerprint == (bundle.artifacts[0].sha256,)

    def test_only_what_was_asked_for(self, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm")
        found, _ = bundle_candidates([bundle], backends=["onnxruntime"], precisions=["fp16", "fp32"])
        assert [entry.name for entry in found] == ["fp16 onnxruntime", "fp32 onnxruntime"]

    def test_what_is_asked_for_twice_is_there_once(self, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm")
        found, _ = bundle_candidates([bundle], backends=["onnxruntime"] * 2, precisions=["fp16"] * 2)
        assert [entry.name for entry in found] == ["fp16 onnxruntime"]

    def test_several_bundles_are_told_apart(self, tmp_path: Path) -> None:
        bundles = [bundle_of(tmp_path / f"{name}.ebm", "score.fp32.onnxruntime.onnx") for name in "ab"]
        found, _ = bundle_candidates(bundles)
        assert [entry.name for entry in found] == ["a: fp32 onnxruntime", "b: fp32 onnxruntime"]

    def test_a_precision_that_no_bundle_holds(self, tmp_path: Path) -> None:
        with pytest.raises(
            LoadError, match="--precision int8: nothing here runs it: the bundles hold fp32, fp16, bf16"
        ):
            bundle_candidates([bundle_of(tmp_path / "a.ebm")], precisions=["int8"])

    def test_a_precision_that_cannot_run_here(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="--precision bf16: nothing here runs it: .*no BF16 kernels"):
            bundle_candidates([bundle_of(tmp_path / "a.ebm")], precisions=["bf16"])

    def test_a_backend_there_is_not(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--backend: expected one of tensorrt, openvino, onnxruntime, got 'tvm'"):
            bundle_candidates([bundle_of(tmp_path / "a.ebm")], backends=["tvm"])

    def test_opens_as_the_runtime_does(self, tmp_path: Path) -> None:
        found, _ = bundle_candidates([bundle_of(tmp_path / "a.ebm")], backends=["onnxruntime"], precisions=["fp16"])
        x = np.ones((2, 3), np.float32)
        with found[0].open(threads=1) as ebm:
            np.testing.assert_allclose(ebm.score(x)[0], 1.5)


class TestReference:
    def test_is_the_engine_that_load_picks(self, tmp_path: Path) -> None:
        assert reference_of(bundle_of(tmp_path / "a.ebm")).name == "fp32 openvino"

    def test_a_bundle_without_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(LoadError, match="needs an FP32 engine as its reference, .*--precision fp32 too$"):
            reference_of(bundle_of(tmp_path / "a.ebm", "score.fp16.onnxruntime.onnx"))
        bundle = bundle_of(tmp_path / "b.ebm", "score.fp32.onnxruntime.onnx")
        monkeypatch.setattr("ebm_export.runtime.runnable.available", lambda backend: f"no {backend} here")
        with pytest.raises(
            LoadError, match="no onnxruntime here; export the model again with a target of this device$"
        ):
            reference_of(bundle)

    def test_one_that_nobody_verified(self, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm", "score.fp32.onnxruntime.onnx")
        name = "score.fp32.onnxruntime.onnx"
        assert set_status(bundle.path, {name: sha256_of(bundle.path / name)}, "built, not run")
        with pytest.raises(LoadError, match="is not \\(built, not run\\): run ebm-run verify first$"):
            reference_of(Bundle(bundle.path))
        (bundle.path / "golden.npz").unlink()
        with pytest.raises(LoadError, match="is not \\(built, not run\\): export the model again without --no-verify$"):
            reference_of(Bundle(bundle.path))


class TestExternal:
    def test_onnx_on_both_backends_and_openvino_ir(self, tmp_path: Path) -> None:
        bundle = Bundle(write_bundle(tmp_path / "a.ebm", cond=True))
        onnx.save(quadratic_graph(cond=True), tmp_path / "own.onnx")
        openvino.save_model(openvino.convert_model(tmp_path / "own.onnx"), tmp_path / "own.xml")
        x = np.full((2, 3), 2, np.float32)
        for text, backend in (
            (f"ort={tmp_path}/own.onnx", "onnxruntime"),
            (f"ov=openvino:{tmp_path}/own.onnx", "openvino"),
            (f"ir={tmp_path}/own.xml", "openvino"),
        ):
            candidate = external_candidate(text, bundle)
            assert (candidate.name, candidate.backend) == (text.partition("=")[0], backend)
            assert len(candidate.fingerprint) == (2 if text.startswith("ir") else 1)  # the .bin beside it
            with candidate.open(threads=1) as ebm:
                np.testing.assert_allclose(ebm.score(x, centre=x - 1)[1], 1)

    @pytest.mark.parametrize("place", ["", "openvino:"])
    def test_what_onnxruntimes_quantizer_makes_of_a_score_graph(self, place: str, tmp_path: Path) -> None:
        weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        onnx.save(layered_graph(weight), tmp_path / "score.onnx")
        states = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
        quantize_static(
            tmp_path / "score.onnx",
            tmp_path / "int8.onnx",
            Reader(states),
            quant_format=QuantFormat.QDQ,
            nodes_to_exclude=["last"],
        )
        candidate = external_candidate(f"ort={place}{tmp_path}/int8.onnx", bundle_of(tmp_path / "a.ebm"))
        with candidate.open(threads=1) as ebm:
            grad = ebm.score(states)[1]
        exact = states @ weight @ weight.T
        error = np.linalg.norm(grad - exact) / np.linalg.norm(exact)
        assert 1e-4 < error < 0.1  # INT8 did the arithmetic, and did it on the right graph

    def test_a_quantizer_that_takes_the_name_of_an_input(self, tmp_path: Path) -> None:
        weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        onnx.save(layered_graph(weight), tmp_path / "score.onnx")
        quantize_static(tmp_path / "score.onnx", tmp_path / "int8.onnx", Reader(np.ones((4, 3), np.float32)))
        with pytest.raises(LoadError, match="the quantizer gave the scale of the output grad the name of the input"):
            external_candidate(f"ort={tmp_path}/int8.onnx", bundle_of(tmp_path / "a.ebm"))

    def test_weights_beside_the_graph_are_a_part_of_it(self, tmp_path: Path) -> None:
        """Samples of the weights before are no samples of the weights now."""
        bundle, path = bundle_of(tmp_path / "a.ebm"), tmp_path / "own.onnx"
        prints = []
        for factor in (1.0, 3.0):
            graph = layered_graph(factor * np.ones((3, 8), np.float32))
            (tmp_path / "weights.bin").unlink(missing_ok=True)
            onnx.save(graph, path, save_as_external_data=True, location="weights.bin", size_threshold=64)
            candidate = external_candidate(f"own={path}", bundle)
            prints.append(candidate.fingerprint)
            assert candidate.bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
        assert prints[0][0] == prints[1][0]
        assert prints[0] != prints[1]

    @pytest.mark.parametrize("place", ["", "openvino:"])
    def test_weights_elsewhere_are_not_read(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "own").mkdir()
        graph = layered_graph(np.ones((3, 8), np.float32))
        onnx.save(
            graph, tmp_path / "own/own.onnx", save_as_external_data=True, location="weights.bin", size_threshold=64
        )
        (tmp_path / "own/weights.bin").rename(tmp_path / "weights.bin")
        graph = onnx.load(tmp_path / "own/own.onnx", load_external_data=False)
        for weight in graph.graph.initializer:
            for entry in weight.external_data:
                entry.value = entry.value.replace("weights.bin", "../weights.bin")
        (tmp_path / "own/own.onnx").write_bytes(graph.SerializeToString())
        with pytest.raises(LoadError, match="weights should be in its own folder"):
            external_candidate(f"own={place}{tmp_path}/own/own.onnx", bundle_of(tmp_path / "a.ebm"))

    def test_the_prologue_that_makes_its_features_is_a_part_of_it(self, tmp_path: Path) -> None:
        graph = quadratic_graph(cond=True)
        graph.graph.input[1].name = graph.graph.node[0].input[1] = "feature"
        onnx.save(graph, tmp_path / "own.onnx")
        found = []
        for factor in (1.0, 3.0):
            bundle = bundle_with_prologue(tmp_path / f"{factor}.ebm", factor)
            found.append(external_candidate(f"own={tmp_path}/own.onnx", bundle))
            assert found[-1].prologue is not None
            assert found[-1].fingerprint[-1] == found[-1].prologue.sha256
            assert found[-1].bytes == sum(
                path.stat().st_size for path in (tmp_path / "own.onnx", bundle.file_of(found[-1].prologue))
            )
            x = np.full((2, 3), 5, np.float32)
            with found[-1].open(threads=1) as ebm:
                np.testing.assert_allclose(ebm.score(x, centre=np.ones_like(x))[1], 5 - factor)
        assert found[0].fingerprint != found[1].fingerprint

    def test_the_prologue_may_be_openvinos(self, tmp_path: Path) -> None:
        """A bundle without ONNX files takes its own graph too, and that in INT8."""
        with writing_bundle(tmp_path / "a.ebm") as folder:
            graph = quadratic_graph(cond=True)
            graph.graph.input[1].name = graph.graph.node[0].input[1] = "feature"
            prologue = onnx.parser.parse_model("""<ir_version: 10, opset_import: ["" : 20]>
                prologue (float[B, 3] centre) => (float[B, 3] feature) { feature = Add(centre, centre) }""")
            entries = []
            for role, model in (("score", graph), ("prologue", prologue)):
                onnx.save(model, tmp_path / f"{role}.onnx")
                name = f"{role}.fp32.openvino.xml"
                openvino.save_model(openvino.convert_model(tmp_path / f"{role}.onnx"), folder / name)
                weights = f"{role}.fp32.openvino.bin"
                entries.append(artifact_entry(folder, name, target="openvino", role=role))
                entries[-1]["files"] = {weights: sha256_of(folder / weights)}
            entries[0]["prologue"], entries[1]["reads"] = entries[1]["path"], ["centre"]
            np.savez(folder / "golden.npz", allow_pickle=False, **golden_data(cond=True))
            write_manifest(folder, manifest_entries(entries, cond=True))
        bundle = Bundle(tmp_path / "a.ebm")
        candidate = external_candidate(f"own={bundle.path}/score.fp32.openvino.xml", bundle)
        assert candidate.prologue is not None and len(candidate.fingerprint) == 4
        x = np.full((2, 3), 5, np.float32)
        with candidate.open(threads=1) as ebm:
            np.testing.assert_allclose(ebm.score(x, centre=np.ones_like(x))[1], 3)

    def test_a_graph_of_the_whole_has_no_part_in_the_prologue(self, tmp_path: Path) -> None:
        onnx.save(quadratic_graph(cond=True), tmp_path / "own.onnx")
        candidate = external_candidate(f"own={tmp_path}/own.onnx", bundle_with_prologue(tmp_path / "a.ebm", 1.0))
        assert (candidate.prologue, len(candidate.fingerprint)) == (None, 1)

    @pytest.mark.parametrize("place", ["", "openvino:"])
    @pytest.mark.parametrize("quantized", [False, True])
    def test_a_graph_without_grad_scale(self, place: str, quantized: bool, tmp_path: Path) -> None:
        """What users of a quantizer hold: x in, energy and dE/dx out."""
        weight = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
        states = np.random.default_rng(0).standard_normal((64, 3)).astype(np.float32)
        onnx.save(plain(layered_graph(weight)), tmp_path / "score.onnx")
        path = tmp_path / "score.onnx"
        if quantized:  # with its defaults: the last operation too
            path = tmp_path / "int8.onnx"
            quantize_static(tmp_path / "score.onnx", path, Reader(states, scale=False))
        candidate = external_candidate(f"ort={place}{path}", bundle_of(tmp_path / "a.ebm"))
        assert candidate.plain
        assert candidate.note == f"a score graph made elsewhere, of dE/dx without grad_scale: {path.name}"
        exact = states @ weight @ weight.T
        with candidate.engine(threads=1) as engine:
            assert not engine.needs_scale
            scale = np.linspace(0.5, 4, 64, dtype=np.float32)
            answers = [engine.run({"x": states, "grad_scale": each})["grad"].copy() for each in (scale, scale / scale)]
        np.testing.assert_allclose(answers[0], answers[1] * scale[:, None], rtol=1e-6)
        with candidate.open(threads=1) as ebm:
            energy, grad = ebm.score(states)
        np.testing.assert_allclose(grad, answers[1], rtol=1e-6)
        error = np.linalg.norm(grad - exact) / np.linalg.norm(exact)
        assert 1e-4 < error < 0.1 if quantized else error < 1e-6
        wanted = 0.5 * ((states @ weight) ** 2).sum(axis=1)
        # Five steps of a grid over the energies: for its own rounding, and for that of what goes into the sum.
        np.testing.assert_allclose(energy, wanted, rtol=1e-5, atol=5 * wanted.max() / 255 if quantized else 0)

    def test_a_graph_without_grad_scale_that_takes_features(self, tmp_path: Path) -> None:
        graph = plain(quadratic_graph(cond=True))
        graph.graph.input[1].name = graph.graph.node[0].input[1] = "feature"
        onnx.save(graph, tmp_path / "own.onnx")
        candidate = external_candidate(f"own={tmp_path}/own.onnx", bundle_with_prologue(tmp_path / "a.ebm", 3.0))
        assert candidate.plain and candidate.prologue is not None
        x = np.full((2, 3), 5, np.float32)
        with candidate.open(threads=1) as ebm:
            np.testing.assert_allclose(ebm.score(x, centre=np.ones_like(x))[1], 2)
            assert np.isfinite(ebm.sample(4, seed=0, centre=np.ones((1, 3), np.float32))).all()

    @pytest.mark.parametrize("text", ["own.onnx", "=own.onnx", "name="])
    def test_another_form(self, text: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="--candidate: expected NAME=FILE.onnx or NAME=openvino:FILE.onnx"):
            external_candidate(text, bundle_of(tmp_path / "a.ebm"))

    def test_a_file_there_is_not(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match="--candidate own: there is no file .*gone.onnx"):
            external_candidate(f"own={tmp_path}/gone.onnx", bundle_of(tmp_path / "a.ebm"))


class TestSchedule:
    def test_its_precisions(self) -> None:
        assert precisions_in("int8") == ("int8",)
        assert precisions_in("int8:0-200,bf16:200-256") == ("int8", "bf16")

    def test_the_precision_after_some_steps(self) -> None:
        assert [precision_at("int8:0-20,bf16:20-30", step) for step in (0, 19, 20, 30)] == [
            "int8",
            "int8",
            "bf16",
            "bf16",
        ]
        assert precision_at("int8:0-20,bf16:20-", 25) == "bf16"
        assert precision_at("fp32", 7) == "fp32"

    def test_is_a_candidate_with_the_files_of_all_its_precisions(self, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm")
        schedule = "fp16:0-15,fp32:15-"
        (found,), _ = bundle_candidates([bundle], backends=["onnxruntime"], precisions=[schedule])
        assert found.name == f"{schedule} onnxruntime"
        by_precision = {entry.precision: entry for entry in bundle.artifacts if entry.target == "onnxruntime"}
        assert found.fingerprint == (by_precision["fp16"].sha256, by_precision["fp32"].sha256)
        with found.open(threads=1) as ebm:
            assert np.isfinite(ebm.sample(4, seed=0)).all()

    def test_that_the_bundle_has_for_a_precision_is_what_is_asked_for_by_its_name(self, tmp_path: Path) -> None:
        with writing_bundle(tmp_path / "a.ebm") as folder:
            entries = []
            for precision, schedule in (("fp32", ""), ("mixed", "mixed:0-10,fp32:10-")):
                name = f"score.{precision}.onnxruntime.onnx"
                onnx.save(quadratic_graph(), folder / name)
                entries.append(artifact_entry(folder, name, precision=precision, schedule=schedule))
            np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
            write_manifest(folder, manifest_entries(entries))
        (found,), _ = bundle_candidates([Bundle(tmp_path / "a.ebm")], precisions=["mixed"])
        assert (found.name, found.precision) == ("mixed onnxruntime", "mixed:0-10,fp32:10-")

    @pytest.mark.parametrize(
        "schedule,why",
        [
            ("fp16:0-20,fp32:20-", "reaches fp32 at step 20, and the chain has 20 steps: start fp32 earlier"),
            ("fp16:0-5,fp32:5-30", "covers 30 steps, and the chain has 20: run 30 steps, or write fp16:0-5,fp32:5-"),
        ],
    )
    def test_that_does_not_fit_the_chain(self, schedule: str, why: str, tmp_path: Path) -> None:
        bundle = bundle_of(tmp_path / "a.ebm")
        with pytest.raises(LoadError, match=f"--precision {schedule}: nothing here runs it: .*{why}"):
            bundle_candidates([bundle], precisions=[schedule])

    def test_another_form(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="expected PRECISION:FIRST-STOP"):
            bundle_candidates([bundle_of(tmp_path / "a.ebm")], precisions=["fp16:0"])
