from __future__ import annotations

import json
from pathlib import Path

import pytest

from ebm_export.calibration.layer_precisions import read_layers
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.bundle_writer import write_manifest, writing_bundle
from ebm_export.runtime.errors import LoadError
from tests.runtime.tiny_bundle import artifact_entry, manifest_entries, write_bundle


def bundle_with(path: Path, text: str | None) -> Bundle:
    bundle = Bundle(write_bundle(path))
    if text is not None:
        (path / "calibration.json").write_text(text)
    return bundle


def test_nodes_are_counted_by_precision(tmp_path: Path) -> None:
    nodes = [{"name": f"conv{index}", "op": "Conv", "precision": "int8"} for index in range(3)]
    nodes.insert(1, {"name": "head", "op": "MatMul", "module": "head.0", "precision": "fp32", "reason": "last layer"})
    said = {"artifacts": [{"path": "score.int8.onnx", "nodes": nodes}], "states": {}}
    (found,) = read_layers(bundle_with(tmp_path / "a.ebm", json.dumps(said)))
    assert (found.bundle, found.artifact) == ("a", "score.int8.onnx")
    assert list(found.counts.items()) == [("int8", 3), ("fp32", 1)]
    assert (found.nodes[1].module, found.nodes[1].reason, found.nodes[0].reason) == ("head.0", "last layer", "")


def test_a_layer_that_openvino_runs_in_something_else_counts_as_that(tmp_path: Path) -> None:
    nodes = [{"name": "a", "precision": "int8", "reason": "range 0 to 1"}]
    nodes.append({"name": "b", "precision": "int8", "reason": "range 0 to 1", "runs": "fp32"})
    said = {"artifacts": [{"path": "score.int8.openvino.xml", "nodes": nodes}], "states": {}}
    (found,) = read_layers(bundle_with(tmp_path / "a.ebm", json.dumps(said)))
    assert found.counts == {"int8": 1, "fp32": 1}
    assert found.nodes[1].precision == "fp32"
    assert found.nodes[1].reason == "int8 in the file, and OpenVINO ran it so at the export"


def test_a_plan_has_the_layers_of_its_graph_as_they_were_compiled(tmp_path: Path) -> None:
    """Its prologue's too; what the graph's calibration does not speak of is left out."""
    nodes = [{"name": name, "precision": "int8", "reason": "range 0 to 1"} for name in ("encoder", "a", "b", "folded")]
    said = {"artifacts": [{"path": "score.int8.onnx", "nodes": nodes}], "states": {}}
    compiled = {"prologue": {"encoder": "fp32"}, "score": {"a": "int8", "b": "fp16", "attention": "fp32"}}
    with writing_bundle(tmp_path / "a.ebm") as folder:
        entries = []
        for role in ("prologue", "score"):
            path = f"{role}.int8.tensorrt.plan"
            (folder / path).write_bytes(b"plan")
            entries.append(artifact_entry(folder, path, target="tensorrt") | {"role": role, "layers": compiled[role]})
        entries[1]["prologue"] = entries[0]["path"]
        write_manifest(folder, manifest_entries(entries))
        (folder / "calibration.json").write_text(json.dumps(said))
    graph, plan = read_layers(Bundle(tmp_path / "a.ebm"))
    assert graph.counts == {"int8": 4}
    assert plan.artifact == "score.int8.tensorrt.plan"
    assert [node.precision for node in plan.nodes] == ["fp32", "int8", "fp16", "int8"]
    assert plan.counts == {"int8": 2, "fp32": 1, "fp16": 1}
    assert plan.nodes[2].reason == "int8 in the file, and TensorRT compiled it so"


@pytest.mark.parametrize("text", [None, '{"artifacts": []}'])
def test_nothing_was_calibrated(text: str | None, tmp_path: Path) -> None:
    assert read_layers(bundle_with(tmp_path / "a.ebm", text)) == ()


@pytest.mark.parametrize("text", ["not json", "[]", "{}", '{"artifacts": [1]}', '{"artifacts": [{"nodes": [1]}]}'])
def test_another_form_is_an_error(text: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"calibration.json: expected .*export the model again"):
        read_layers(bundle_with(tmp_path / "a.ebm", text))
