"""Compares INT8 as ebm-export makes it with what the default quantizers of onnxruntime and NNCF make of the same graph.

    pip install nncf
    python benchmarks/quantizers.py examples/digits/model.pt --out quantizers

All run on OpenVINO with the runtime's own sampler and go through the comparison of `ebm-compare`: the report with
every number stands in the folder, quantizers.json has the table. Each quantizer is called with its defaults, and calibrated
on noise from the start distribution, as people do, and on states along the model's own chains. Each gets the gradient in
two forms: scaled, which is the score graph of the bundle, and plain, which is dE/dx itself, as any other export gives it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino
import openvino.opset13 as ops
from onnx import TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from ebm_export.calibration.command import run_compare
from ebm_export.calibration.compare_options import CompareOptions
from ebm_export.calibration.conditions import conditions_for
from ebm_export.calibration.states import record_states
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.gating import gating_for
from ebm_export.exporter.load import load_model
from ebm_export.runtime import load
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.engine import Engine
from ebm_export.runtime.gradient_scale import ScaledScore
from ebm_export.runtime.start import start_states

ROOT = Path(__file__).parents[1]
STATES = 300
"""Calibration states: what NNCF takes of a data set if it is not told otherwise."""
SEED = 7  # of the calibration states; the comparison draws with 0, 1 and 2

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Form:
    """How a quantizer is used.

    Attributes:
        quantizer: a key of `QUANTIZERS`.
        states: "noise" or "trajectory".
        gradient: "plain" or "scaled".
    """

    quantizer: str
    states: str
    gradient: str

    @property
    def name(self) -> str:
        """Names it in the report."""
        return f"{self.quantizer} {self.states} {self.gradient}"


class Reader(CalibrationDataReader):
    """Gives onnxruntime's quantizer one state at a time."""

    def __init__(self, states: list[Inputs]) -> None:
        self._left: Iterator[Inputs] = iter(states)

    def get_next(self) -> Inputs | None:
        """The next state, or None at the end."""
        return next(self._left, None)


def by_onnxruntime(graph: Path, out: Path, states: list[Inputs], gradient: str) -> Path:
    """onnxruntime's static quantization with its defaults, after the preparation that it asks for.

    It calls the scale of a value V "V_scale", which for `grad` is the name of an input: so `grad` has another name meanwhile.
    """
    prepared, path = out.with_suffix(".prepared.onnx"), out.with_suffix(".onnx")
    onnx.save(renamed(onnx.load(graph), "grad", "dx"), path)
    quant_pre_process(str(path), str(prepared))
    quantize_static(str(prepared), str(path), Reader(states))
    model = renamed(onnx.load(path), "dx", "grad")
    onnx.save(hold_scale(model) if gradient == "plain" else model, path)
    return path


def by_nncf(graph: Path, out: Path, states: list[Inputs], gradient: str) -> Path:
    """NNCF's post-training quantization with its defaults, of the graph as OpenVINO reads it."""
    import nncf

    path = out.with_suffix(".xml")
    model = nncf.quantize(openvino.Core().read_model(graph), nncf.Dataset(states))
    if gradient == "plain":
        hold_openvino_scale(model)
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


QUANTIZERS: dict[str, Callable[[Path, Path, list[Inputs], str], Path]] = {
    "onnxruntime": by_onnxruntime,
    "nncf": by_nncf,
}


def main() -> None:
    """Exports, quantizes, compares, and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model",
        type=Path,
        nargs="?",
        default=ROOT / "examples/digits/model.pt",
        help="archive of save_energy, or a bundle with fp32 and int8 for openvino and fp32 for onnx",
    )
    parser.add_argument("--out", type=Path, default=Path("quantizers"), help="folder to write to")
    parser.add_argument(
        "--smallest-difference",
        type=float,
        default=0.2,
        help="shift of the energy that should be seen, in its standard deviations: 18 / D^2 chains of each",
    )
    parser.add_argument("--gradient", choices=("plain", "scaled"), help="only this form of the gradient")
    parser.add_argument("--threads", type=int, help="threads of one engine call")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    bundle = options.model if options.model.is_dir() else exported(options.model, options.out, "openvino")
    onnx_bundle = bundle
    if not (bundle / "score.fp32.onnx").is_file():
        if options.model.is_dir():
            parser.error(f"{bundle} holds no score.fp32.onnx; export it with --target onnx too, or give the model file")
        onnx_bundle = exported(options.model, options.out, "onnx")
    left_out = {}
    if importlib.util.find_spec("nncf") is None:
        left_out["nncf"] = "it is not installed: pip install nncf"
        print(f"nncf is left out: {left_out['nncf']}", file=sys.stderr)
    forms = [
        Form(quantizer, states, gradient)
        for quantizer in QUANTIZERS
        if quantizer not in left_out
        for gradient in ("plain", "scaled")
        if options.gradient in (None, gradient)
        for states in ("noise", "trajectory")
    ]
    files = quantize(forms, Bundle(bundle), onnx_bundle / "score.fp32.onnx", options.out, options.threads)
    report, _ = run_compare(
        CompareOptions(
            bundles=[bundle],
            backends=["openvino"],
            precisions=[name for name in ("fp32", "int8") if (bundle / f"score.{name}.openvino.xml").is_file()],
            candidates=[f"{form.name}=openvino:{path}" for form, path in files.items()],
            smallest_difference=options.smallest_difference,
            extra_rounds=0,
            threads=options.threads,
            batches=(8,),
        ),
        options.out,
        tell,
    )
    rows = [row(engine) for engine in report["engines"]]
    found = {
        "model": str(options.model),
        "chains": report["plan"]["pool"],
        "calibration states": STATES,
        "left out": left_out,
        "device": report["device"],
        "toolchain": report["toolchain"],
        "rows": rows,
    }
    (options.out / "quantizers.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print_table(rows)


def exported(model: Path, out: Path, target: str) -> Path:
    """Exports a model in FP32 and, for OpenVINO, in INT8, judged by the gate as `ebm-export` does; FP32 alone if it fails."""
    path = out / f"{model.stem}.{target}.ebm"
    precisions = ["fp32", "int8"] if target == "openvino" else ["fp32"]
    gating = gating_for(precisions, 1.25, smallest_difference=0.15, out=path)
    report = export_energy(
        load_model(model), out=path, targets=[target], precisions=precisions, gating=gating, force=True, progress=tell
    )
    if report.failure is not None:
        print(report.failure, file=sys.stderr)
    return path


def quantize(forms: list[Form], bundle: Bundle, graph: Path, out: Path, threads: int | None) -> dict[Form, Path]:
    """Writes a quantized graph for each form."""
    files = {}
    with load(bundle.path, backend="openvino", precision="fp32", threads=threads) as ebm:
        states = {
            (kind, gradient): calibration_states(bundle, ebm.engine, kind, gradient)
            for kind, gradient in dict.fromkeys((form.states, form.gradient) for form in forms)
        }
    for form in forms:
        print(f"quantizing: {form.name}", file=sys.stderr)
        path = out / form.name.replace(" ", "_")
        files[form] = QUANTIZERS[form.quantizer](graph, path, states[form.states, form.gradient], form.gradient)
    return files


def calibration_states(bundle: Bundle, engine: Engine, kind: str, gradient: str) -> list[Inputs]:
    """The score graph's inputs at single states, with the gradient scale that chains have there, or one."""
    config, shape, rows = bundle.sampler, bundle.model.x.shape, conditions_for(bundle, STATES)
    if kind == "noise":
        x = start_states(config, shape, range(STATES), SEED, bundle.data())
        score = ScaledScore(engine, rows)
        score(x)
        inputs: Inputs = {"x": x, "grad_scale": np.asarray(score.scale), **rows}
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = record_states(
                engine, config, shape, Path(folder), count=STATES, chains=STATES, seed=SEED, cond=rows, start=bundle.data()
            )  # fmt: skip
            inputs = found.inputs(np.arange(len(found)))
    if gradient == "plain":
        inputs["grad_scale"] = np.ones_like(inputs["grad_scale"])
    return [{name: array[row : row + 1] for name, array in inputs.items()} for row in range(len(inputs["x"]))]


def hold_scale(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gives a quantized graph a gradient scale of one inside and multiplies its gradient by the one asked for, in place.

    The scale then does nothing for the layers, as if the graph had no such input, and the graph is a score graph still. `ebm-compare`
    takes graphs without this input as well; but both forms should differ in the gradient alone, and with constant ones in its place
    OpenVINO 2026.4.1 computes another gradient than onnxruntime does of one of these files.
    """
    graph = model.graph
    for old, new in (("grad_scale", "held.scale"), ("grad", "held.grad")):
        renamed(model, old, new)
    for value in (*graph.input, *graph.output):
        value.name = {"held.scale": "grad_scale", "held.grad": "grad"}.get(value.name, value.name)
    grad = next(output for output in graph.output if output.name == "grad")
    each = [-1, *[1] * (len(grad.type.tensor_type.shape.dim) - 1)]
    graph.initializer.extend(
        [
            helper.make_tensor("held.zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("held.one", TensorProto.FLOAT, [], [1.0]),
            helper.make_tensor("held.each", TensorProto.INT64, [len(each)], each),
        ]
    )
    first = [
        helper.make_node("Mul", ["grad_scale", "held.zero"], ["held.nothing"], name="held.nothing"),
        helper.make_node("Add", ["held.nothing", "held.one"], ["held.scale"], name="held.scale"),
    ]
    last = [
        helper.make_node("Reshape", ["grad_scale", "held.each"], ["held.factor"], name="held.factor"),
        helper.make_node("Mul", ["held.grad", "held.factor"], ["grad"], name="held.product"),
    ]
    nodes = [*first, *graph.node, *last]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


def hold_openvino_scale(model: openvino.Model) -> None:
    """As `hold_scale`, for OpenVINO's form of a graph."""
    scale = model.input("grad_scale")
    readers = list(scale.get_target_inputs())
    one = ops.add(ops.multiply(scale, ops.constant(np.float32(0))), ops.constant(np.float32(1)))
    for reader in readers:
        reader.replace_source_output(one.output(0))
    out = model.output("grad")
    held = out.get_node().input_value(0)
    each = ops.constant(np.array([-1] + [1] * (len(out.get_partial_shape()) - 1)))
    product = ops.multiply(held, ops.reshape(scale, each, special_zero=False))
    held.set_names({"held.grad"})
    product.output(0).set_names({"grad"})
    out.get_node().input(0).replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()


def renamed(model: onnx.ModelProto, old: str, new: str) -> onnx.ModelProto:
    """Gives a value another name wherever it stands, in place."""
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.name == old:
            value.name = new
    return model


def row(engine: dict[str, Any]) -> dict[str, Any]:
    """A line of the table from an engine's entry in report.json."""
    if engine["gate"] is None:
        return {"engine": engine["name"], "passed": False, "failure": engine["failure"]}
    verdicts = {verdict["metric"]: verdict for verdict in engine["gate"]["verdicts"]}
    limit = engine["gate"]["gate"]
    ratios = [verdict for verdict in verdicts.values() if verdict["limit"] == limit]
    # An infinite ratio is null in JSON.
    worst = max(ratios, key=lambda verdict: np.inf if verdict["ratio"] is None else verdict["ratio"], default=None)
    stages = engine["fidelity"]
    return {
        "engine": engine["name"],
        "passed": engine["passed"],
        "largest ratio": None if worst is None else worst["ratio"],
        "metric": None if worst is None else worst["metric"],
        "ratios": {verdict["metric"]: verdict["ratio"] for verdict in ratios},
        "score gain": verdicts["score gain"]["value"] if "score gain" in verdicts else None,
        "score bias": verdicts["score bias"]["value"] if "score bias" in verdicts else None,
        "stages": stages,
        "ms per step": engine["latency"][0]["median"] if engine["latency"] else None,
        "times as fast as FP32": engine["speed"],
        "reason": engine["gate"]["reason"],
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows as Markdown."""
    print("| engine | gate | largest ratio | gain, bias, noise at the start | at the end | times as fast as FP32 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for entry in rows:
        if "failure" in entry:
            print(f"| {entry['engine']} | failed | {entry['failure']} | | | |")
            continue
        ratio = "-" if entry["largest ratio"] is None else f"{entry['largest ratio']:.2f} ({entry['metric']})"
        start, end = (said(entry["stages"][part]) for part in (slice(0, 1), slice(-1, None)))
        speed = "-" if entry["times as fast as FP32"] is None else f"{entry['times as fast as FP32']:.2f}"
        gate = "passed" if entry["passed"] else "failed"
        print(f"| {entry['engine']} | {gate} | {ratio} | {start} | {end} | {speed} |")


def said(stages: list[dict[str, Any]]) -> str:
    """Gain, bias and noise of a stage in percent; "-" for none, as for FP32 itself."""
    return "; ".join(", ".join(percent(stage[name]) for name in ("gain", "bias", "noise")) for stage in stages) or "-"


def percent(number: float | None) -> str:
    """A share as text; what is not finite is null in report.json."""
    return "not finite" if number is None else f"{number:.1%}"


_told = {"what": "", "at": 0.0}


def tell(what: str, done: int, total: int) -> None:
    """Prints what is being done, and how far it is, now and then."""
    now = time.monotonic()
    if what != _told["what"] or now - float(_told["at"]) > 20:
        print(f"{what}: {done} of {total}" if total else what, file=sys.stderr)
        _told.update(what=what, at=now)


if __name__ == "__main__":
    main()
