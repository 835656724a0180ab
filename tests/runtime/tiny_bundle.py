"""Bundles small enough to be written by hand, whose energies have gradients that are known on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.file_hash import sha256_of

CODES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}


def quadratic_graph(cond: bool = False, curvature: float = 1.0) -> onnx.ModelProto:
    """E(x) = c/2 * |x - centre|^2 over x [B, 3], centre 0 or an input [B, 3]; dE/dx = c * (x - centre)."""
    node = helper.make_node
    difference = node("Sub", ["x", "centre"], ["d"]) if cond else node("Identity", ["x"], ["d"])
    nodes = [
        difference,
        node("Mul", ["d", "d"], ["square"]),
        node("ReduceSum", ["square", "axis"], ["sum"], keepdims=0),
        node("Mul", ["sum", "half"], ["energy"]),
        node("Unsqueeze", ["grad_scale", "axis"], ["scale"]),
        node("Mul", ["d", "scale"], ["scaled"]),
        node("Mul", ["scaled", "curvature"], ["grad"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", 3])]
    if cond:
        inputs.append(helper.make_tensor_value_info("centre", TensorProto.FLOAT, ["B", 3]))
    inputs.append(helper.make_tensor_value_info("grad_scale", TensorProto.FLOAT, ["B"]))
    outputs = [
        helper.make_tensor_value_info("energy", TensorProto.FLOAT, ["B"]),
        helper.make_tensor_value_info("grad", TensorProto.FLOAT, ["B", 3]),
    ]
    constants = [
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array(curvature / 2, np.float32), "half"),
        numpy_helper.from_array(np.array(curvature, np.float32), "curvature"),
    ]
    graph = helper.make_graph(nodes, "score", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def golden_data(cond: bool = False, stages: int = 4) -> dict[str, np.ndarray]:
    """Golden arrays of the quadratic energy, computed in float64."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((stages, 8, 3)).astype(np.float32)
    centre = rng.standard_normal((stages, 8, 3)).astype(np.float32) if cond else np.zeros_like(x)
    grad = x.astype(np.float64) - centre
    golden = {
        "x": x,
        "step": np.arange(stages) * 10,
        "grad_scale": rng.uniform(0.5, 2, (stages, 8)).astype(np.float32),
        "energy": 0.5 * (grad**2).sum(axis=2),
        "grad": grad,
        "reference_error": np.full((stages, 8), 1e-7),
        "reference_energy_error": np.full((stages, 8), 1e-7),
    }
    return golden | ({"cond.centre": centre} if cond else {})


def artifact_entry(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    """The manifest's entry of a file that was written."""
    entry = {
        "path": name,
        "target": "onnxruntime",
        "precision": "fp32",
        "role": "score",
        "sha256": sha256_of(folder / name),
        "files": {},
        "toolchain": {},
        "options": {},
        "status": "verified",
        "note": "",
    }
    return {**entry, **changes}


def manifest_entries(artifacts: list[dict[str, Any]], cond: bool = False, **changes: Any) -> dict[str, Any]:
    """The manifest of a bundle of the quadratic energy."""
    entries = {
        "schema_version": 1,
        "model": {
            "name": "quadratic",
            "x": {"shape": [3], "dtype": "float32"},
            "wrt": "x",
            "cond": [{"name": "centre", "dtype": "float32", "shape": [3]}] if cond else [],
            "range": {"x": [-3.0, 3.0]},
        },
        "sampler": {"steps": 20, "step_size": 0.1},
        "artifacts": artifacts,
        "verification": [],
        "created_with": {"ebm-export": "0.1.0"},
    }
    return {**entries, **changes}


def write_bundle(path: Path, cond: bool = False, data: np.ndarray | None = None, **changes: Any) -> Path:
    """Writes a whole bundle with one fp32 artifact for onnxruntime; `changes` go into the manifest."""
    with writing_bundle(path) as folder:
        onnx.save(quadratic_graph(cond), folder / "score.fp32.onnxruntime.onnx")
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data(cond))
        if data is not None:
            np.save(folder / "data.npy", data)
        entry = artifact_entry(folder, "score.fp32.onnxruntime.onnx")
        write_manifest(folder, manifest_entries([entry], cond, **changes))
    return path


def write_two_precisions(path: Path, coarse: float = 1.5) -> Path:
    """Writes a bundle of 0.5 * |x|^2 with an fp32 artifact and an int8 one whose curvature is coarse."""
    with writing_bundle(path) as folder:
        entries = []
        for precision, curvature in (("fp32", 1.0), ("int8", coarse)):
            name = f"score.{precision}.onnxruntime.onnx"
            onnx.save(quadratic_graph(curvature=curvature), folder / name)
            entries.append(artifact_entry(folder, name, precision=precision))
        np.savez(folder / "golden.npz", allow_pickle=False, **golden_data())
        write_manifest(folder, manifest_entries(entries))
    return path
