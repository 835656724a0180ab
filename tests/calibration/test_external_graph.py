from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from ebm_export.calibration.external_graph import backend_for, check_graph
from ebm_export.runtime.errors import LoadError, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from tests.runtime.tiny_bundle import quadratic_graph

MODEL = ModelSpec("quadratic", TensorSpec("x", (3,), "float32"))
CONDITIONED = ModelSpec("quadratic", TensorSpec("x", (3,), "float32"), cond=(TensorSpec("centre", (3,), "float32"),))
BACKENDS = ["onnxruntime", "openvino"]


def saved(graph: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "graph.onnx"
    onnx.save(graph, path)
    return path


@pytest.mark.parametrize("backend", BACKENDS)
class TestCheckGraph:
    @pytest.mark.parametrize("cond", [False, True])
    def test_a_score_graph_passes(self, backend: str, cond: bool, tmp_path: Path) -> None:
        check_graph(saved(quadratic_graph(cond), tmp_path), backend, CONDITIONED if cond else MODEL)

    def test_a_missing_input(self, backend: str, tmp_path: Path) -> None:
        path = saved(quadratic_graph(), tmp_path)
        with pytest.raises(UsageError, match="no input 'centre', it has x, grad_scale; quantize the bundle's own"):
            check_graph(path, backend, CONDITIONED)

    def test_an_unknown_input(self, backend: str, tmp_path: Path) -> None:
        path = saved(quadratic_graph(cond=True), tmp_path)
        with pytest.raises(UsageError, match="has an input 'centre' that the bundle's score graph has not"):
            check_graph(path, backend, MODEL)

    def test_a_graph_of_the_gradient_itself(self, backend: str, tmp_path: Path) -> None:
        graph = quadratic_graph()
        assert graph.graph.input.pop().name == "grad_scale"
        graph.graph.initializer.append(onnx.helper.make_tensor("grad_scale", onnx.TensorProto.FLOAT, [1], [1.0]))
        assert check_graph(saved(graph, tmp_path), backend, MODEL) == {"x"}

    def test_a_missing_output(self, backend: str, tmp_path: Path) -> None:
        graph = quadratic_graph()
        del graph.graph.output[1]
        with pytest.raises(UsageError, match="no output 'grad', it has energy"):
            check_graph(saved(graph, tmp_path), backend, MODEL)

    def test_another_shape(self, backend: str, tmp_path: Path) -> None:
        model = ModelSpec("larger", TensorSpec("x", (4,), "float32"))
        with pytest.raises(UsageError, match=r"input 'x' should be \[B, 4\], it is \[B, 3\]; the graph is of another"):
            check_graph(saved(quadratic_graph(), tmp_path), backend, model)

    def test_another_type(self, backend: str, tmp_path: Path) -> None:
        model = ModelSpec("labels", MODEL.x, cond=(TensorSpec("centre", (3,), "int64"),))
        with pytest.raises(UsageError, match="input 'centre' should be int64, it is float32"):
            check_graph(saved(quadratic_graph(cond=True), tmp_path), backend, model)

    def test_a_fixed_batch(self, backend: str, tmp_path: Path) -> None:
        graph = quadratic_graph()
        for port in graph.graph.input:
            port.type.tensor_type.shape.dim[0].dim_value = 8
        with pytest.raises(UsageError, match="input 'x' has a fixed batch of 8; keep the batch dimension symbolic"):
            check_graph(saved(graph, tmp_path), backend, MODEL)

    def test_no_graph_at_all(self, backend: str, tmp_path: Path) -> None:
        path = tmp_path / "graph.onnx"
        path.write_bytes(b"not a graph")
        with pytest.raises(LoadError, match="cannot (load|read) .*graph.onnx"):
            check_graph(path, backend, MODEL)


class TestBackendFor:
    def test_the_ending_says_which(self) -> None:
        assert backend_for(Path("a.onnx"), None) == "onnxruntime"
        assert backend_for(Path("a.onnx"), "openvino") == "openvino"
        assert backend_for(Path("a.xml"), None) == "openvino"

    def test_another_ending(self) -> None:
        with pytest.raises(UsageError, match=r"model.pt: expected an .onnx file, or an .xml file of OpenVINO"):
            backend_for(Path("model.pt"), None)

    def test_a_backend_that_cannot_read_it(self) -> None:
        with pytest.raises(UsageError, match=r"a .xml file runs on openvino, not on onnxruntime"):
            backend_for(Path("a.xml"), "onnxruntime")
