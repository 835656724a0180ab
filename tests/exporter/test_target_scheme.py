"""Which form of INT8 suits the engine of a target."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ebm_export.calibration import int8_graphs
from ebm_export.calibration.gate_rules import GateRules
from ebm_export.calibration.quality_gate import QualityGate
from ebm_export.calibration.quantization.correct_score import correct_score
from ebm_export.exporter import target_scheme
from ebm_export.exporter.agreement import agrees
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import Conditions
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.int8 import write_int8
from ebm_export.exporter.manifest import model_spec
from ebm_export.exporter.precision import kept_in_float32
from ebm_export.exporter.target_scheme import SchemeSearch, plain_scheme
from ebm_export.runtime.backends.onnxruntime import OnnxRuntimeEngine
from ebm_export.runtime.errors import QualityGateError

from .calibrated_models import CONFIG, FEW, SHAPE, Residual
from .referee import score_graph

pytestmark = pytest.mark.usefixtures("fewer_states")


class Windows(nn.Module):
    """Convolutions over a signal, one with windows of four numbers that do not overlap, over a bowl."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.wide = nn.Conv1d(1, 32, 7, padding=3), nn.Conv1d(32, 32, 5, padding=2)
        self.windows, self.head = nn.Conv1d(32, 64, 4, 4), nn.Linear(64 * 16, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.silu(self.windows(F.silu(self.wide(F.silu(self.stem(x))))))
        return 8 * self.head(h.flatten(1)).squeeze(1) + 0.5 * x.square().sum((1, 2))


class TestScheme:
    @pytest.mark.parametrize(
        ("name", "bits", "overflows", "largest"),
        [
            ("openvino", None, True, 64),
            ("openvino", None, False, 127),
            ("openvino", 7, False, 64),
            ("openvino", 8, True, 127),
            ("onnx", None, True, 127),
            ("onnx", 7, True, 127),
        ],
    )
    def test_smaller_weights_where_products_overflow(
        self, name: str, bits: int | None, overflows: bool, largest: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(target_scheme, "saturates", lambda: overflows)
        assert plain_scheme(name, bits, "mse").largest_weight == largest

    def artifacts(
        self, folder: Path, told: list[str], rules: GateRules | None = None, weight_bits: int | None = None
    ) -> CalibratedArtifacts:
        energy = make_energy(Residual().eval(), torch.randn(4, *SHAPE), sampler=CONFIG)
        return CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, folder, rules, Conditions({}, {}, True), None, (1, 8, 8), True, None,
            lambda what, done, total: told.append(what), weight_bits,
        )  # fmt: skip

    def test_the_first_where_the_engine_is_right(self, tmp_path: Path) -> None:
        told: list[str] = []
        with self.artifacts(tmp_path, told) as made:
            for name in ("openvino", "onnxruntime", "onnx"):
                assert made.scheme(name).evens == ("forward", "gradient")
            assert made.scheme("onnx").fuses_sums and not made.scheme("openvino").fuses_sums
        assert not [what for what in told if "something else" in what]

    def test_what_the_choice_computed_is_not_computed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For two targets with one scheme the graph is corrected once, and each engine's score is asked once; a mixed artifact's graph has
        marks that the next INT8 one has not."""
        corrected, asked, honest = [], [], QualityGate.fidelity

        def counted(*given: Any, **more: Any) -> None:
            corrected.append(given)
            correct_score(*given, **more)

        def watched(self: QualityGate, engine: Any) -> Any:
            asked.append(engine)
            return honest(self, engine)

        monkeypatch.setattr(int8_graphs, "correct_score", counted)
        monkeypatch.setattr(QualityGate, "fidelity", watched)
        folder = tmp_path / "written"
        folder.mkdir()
        with self.artifacts(tmp_path, [], GateRules(smallest_difference=FEW), weight_bits=8) as made:
            written = []
            for count, name in enumerate(("onnxruntime", "openvino"), start=1):
                int8 = made.graphs.quantizer(made.scheme(name)).default
                made.write(name, folder, int8, "mixed", "fp16", wide=int8)
                written.append(write_int8(made, name, folder))
                assert made.latest is not None and not kept_in_float32(made.latest.graph)
                assert (len(corrected), len(asked)) == (1, count)
            assert made.scheme("onnxruntime") == made.scheme("openvino")
            gate = made.gate
            assert gate is not None
            for one in written:
                with made.open(one.artifact, folder) as engine:
                    assert one.gate is not None and one.gate.passed and one.gate.fidelity == gate.fidelity(engine)

    def test_an_engine_that_does_not_compute_its_graph(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One whose gradients are half too long where channels are evened out."""
        told: list[str] = []
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b".evened" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with self.artifacts(tmp_path, told) as made:
            assert made.scheme("onnxruntime").evens == ()
        assert told.count("onnxruntime computes something else than its INT8 graph: trying another form") == 2

    def test_a_layer_that_the_engine_gets_wrong_stays_in_float32(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One whose gradients are half too long where a certain layer is in INT8."""
        told: list[str] = []
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b"second/Conv.weight.dequantize" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with self.artifacts(tmp_path, told) as made:
            scheme = made.scheme("onnxruntime")
            assert scheme.wrong == ("second/Conv",) and scheme.evens == ("forward", "gradient")
            written = write_int8(made, "onnxruntime", tmp_path)
        assert "onnxruntime gets 1 of 6 layers wrong in INT8 and keeps them in float32: second/Conv" in told
        nodes = {node["name"]: node for node in written.layers}
        assert nodes["second/Conv"]["precision"] == "fp32" and nodes["first/Conv"]["precision"] == "int8"
        assert "computes something else" in nodes["second/Conv"]["reason"]

    def test_an_engine_that_gets_too_much_wrong(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One whose gradients are half too long with any layer in INT8."""
        run = OnnxRuntimeEngine.run

        def wrong(self: OnnxRuntimeEngine, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            answer = dict(run(self, inputs))
            if b".dequantize" in self.path.read_bytes():
                answer["grad"] = 1.5 * answer["grad"]
            return answer

        monkeypatch.setattr(OnnxRuntimeEngine, "run", wrong)
        with (
            self.artifacts(tmp_path, []) as made,
            pytest.raises(QualityGateError, match="something else than its INT8 graph in each of 3 forms"),
        ):
            made.scheme("onnxruntime")

    def test_windows_of_four_numbers_in_a_row(self, tmp_path: Path) -> None:
        """OpenVINO 2026.4.1 gets these convolutions wrong in INT8 on CPUs with AMX, if they are written as they are."""
        energy = make_energy(Windows().eval(), torch.randn(4, 1, 64), sampler=CONFIG)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, Conditions({}, {}, True), None, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            folder = tmp_path / "written"
            folder.mkdir()
            written = write_int8(made, "openvino", folder)
            assert made.latest is not None
            with made.open(written.artifact, folder) as engine:
                assert agrees(engine, made.latest, made.steps, made.states, batch=8)
            in_int8 = {node["name"] for node in written.layers if node["precision"] == "int8"}
            assert {"wide/Conv", "windows/Conv"} <= in_int8 and not made.scheme("openvino").wrong

    def test_the_first_that_passes_the_score_or_the_nearest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        largest = sys.float_info.max  # of a score that is not a number
        with self.artifacts(tmp_path, []) as made:
            for offs, wanted in (
                ((1.2, 0.9, 0.1), ("forward",)),
                ((1.3, 1.2, 1.4), ("forward",)),
                ((largest, 1.2, np.inf), ("forward",)),
                ((np.inf, largest, np.inf), ("forward",)),
                ((np.inf,) * 3, None),
            ):
                left = iter(offs)
                monkeypatch.setattr(SchemeSearch, "_score_of", lambda self, scheme: (next(left), None))  # noqa: B023
                made._found.clear()
                if wanted is None:
                    with pytest.raises(QualityGateError, match="something else than its INT8 graph in each of 3 forms"):
                        made.scheme("openvino")
                else:
                    assert made.scheme("openvino").evens == wanted
