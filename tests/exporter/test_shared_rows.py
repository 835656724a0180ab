"""Features that come as one row where all samples share a condition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from openvino import opset13
from torch import nn

from ebm_export.exporter import export
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.passes.graph import dims
from ebm_export.exporter.shared_rows import led_by_batch, led_by_one_row, may_be_one_row
from ebm_export.exporter.split import split
from ebm_export.runtime import SamplerConfig, load
from ebm_export.runtime.backends import openvino as openvino_backend
from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.backends.openvino_rows import join_rows
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.split_engine import SplitEngine

from .calibrated_models import FEW, pictures
from .referee import score_graph, session

CONFIG = SamplerConfig(steps=8, step_size=0.05, temperature=0.2)
IMAGES = pictures(6, 3)


class Looking(nn.Module):
    """A state that attends to the places of an image, is scaled by what is seen there, and is judged beside it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.embed = nn.Conv2d(3, 12, 3, 4, 1), nn.Linear(4, 12)
        self.attend = nn.MultiheadAttention(12, 3, batch_first=True)
        self.scale, self.judge = nn.Linear(12, 12), nn.Sequential(nn.Linear(24, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        places = self.see(image).flatten(2).transpose(1, 2)
        seen = places.mean(1)
        query = self.embed(x).unsqueeze(1)
        found = (query + self.attend(query, places, places, need_weights=False)[0]).squeeze(1)
        found = found * torch.sigmoid(self.scale(seen))
        return self.judge(torch.cat([found, seen], 1)).squeeze(1) + 0.5 * x.square().sum(1)


class Joined(nn.Module):
    """What is seen is one more token in a row with x's, which nothing repeats."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see, self.mix = nn.Linear(6, 4), nn.Conv1d(4, 4, 2)

    def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([x, torch.tanh(self.see(goal))], 2)
        return torch.tanh(self.mix(tokens)).sum((1, 2))


class Asking(nn.Module):
    """A state that asks the places of an image by one head: products with one matrix for all states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.see = nn.Sequential(nn.Conv2d(3, 32, 4, 4), nn.ReLU(), nn.Conv2d(32, 32, 1))
        self.query, self.key, self.value = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.judge = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        places = self.see(image).flatten(2).transpose(1, 2)
        query = self.query(x)
        shares = torch.einsum("bd,bkd->bk", query, self.key(places)).div(32**0.5).softmax(1)
        seen = torch.bmm(shares.unsqueeze(1), self.value(places)).squeeze(1)
        return 5 * self.judge(query + seen).squeeze(1) + 0.5 * x.square().sum(1)


class Powered(nn.Module):
    """A generalised normal distribution whose exponent is seen, at most 3."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        exponent = (5 + self.see(image).squeeze(1)).clamp(1.5, 3)
        return x.square().sum(1).add(1e-4).sqrt().pow(exponent) / exponent


class Windows(nn.Module):
    """A product of x with windows of what is seen."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.see = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
        return F.pad(torch.tanh(self.see(goal)), (1, 1)).unfold(1, 4, 1).mul(x[:, None]).sum((1, 2)).sin()


def halves_of(module: nn.Module, **cond: torch.Tensor) -> tuple[ir.Model, list[str]]:
    found = split(score_graph(make_energy(module.eval(), torch.randn(3, 4), cond=cond)))
    assert found is not None
    return found.score, [value.name or "" for value in found.prologue.graph.outputs]


class TestGraph:
    def test_what_broadcasts_may_be_one_row(self) -> None:
        score, features = halves_of(Looking(), image=IMAGES[:3])
        assert len(features) > 3
        assert may_be_one_row(score.graph, features) == features

    def test_what_is_laid_beside_x_has_a_row_for_each_sample(self) -> None:
        score, features = halves_of(Joined(), goal=torch.randn(3, 6))
        assert len(features) == 1
        assert may_be_one_row(score.graph, features) == []

    def test_one_matrix_has_a_row_for_each_sample_where_rows_are_joined(self) -> None:
        score, features = halves_of(Asking(), image=IMAGES[:3])
        assert may_be_one_row(score.graph, features) == features
        assert len(may_be_one_row(score.graph, features, joins_rows=True)) < len(features)
        score, features = halves_of(Looking(), image=IMAGES[:3])  # of three heads
        assert may_be_one_row(score.graph, features, joins_rows=True) == features

    def test_one_row_gives_what_equal_rows_give(self) -> None:
        """Marked, by onnxruntime, which lays out memory by the names of sizes."""
        for module, cond in ((Looking(), {"image": IMAGES[:3]}), (Windows(), {"goal": torch.randn(3, 6)})):
            score, features = halves_of(module, **cond)
            names = may_be_one_row(score.graph, features)
            assert names
            marked = led_by_one_row(score, names)
            given = {value.name: value for value in marked.graph.inputs}
            assert {(dims(given[name]) or ())[0] for name in names} == {"conditions"}
            generator = np.random.default_rng(0)
            one = {
                name: generator.standard_normal((1, *(dims(given[name]) or ())[1:])).astype(np.float32)
                for name in names
            }
            x, scale = generator.standard_normal((5, 4)).astype(np.float32), np.ones(5, np.float32)
            opened = session(marked)
            answers = [
                opened.run(["energy", "grad"], {"x": x, "grad_scale": scale, **rows})
                for rows in (one, {name: np.repeat(array, 5, axis=0) for name, array in one.items()})
            ]
            for found, expected in zip(*answers, strict=True):
                np.testing.assert_array_equal(found, expected)

    def test_marks_are_taken_off_again(self) -> None:
        score, features = halves_of(Looking(), image=IMAGES[:3])
        before = ir.to_proto(score).SerializeToString(deterministic=True)
        marked = led_by_one_row(score, features)
        assert ir.to_proto(score).SerializeToString(deterministic=True) == before
        assert ir.to_proto(led_by_batch(marked, features)).SerializeToString(deterministic=True) == before


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(
        Looking().eval(), torch.zeros(4, 4), cond={"image": IMAGES}, sampler=CONFIG, fuse=4, gate=None,
        smallest_difference=FEW, targets=["onnx", "onnxruntime", "openvino"], precisions=["fp32", "bf16", "int8"],
        out=tmp_path_factory.mktemp("shared") / "looking.ebm",
    )  # fmt: skip


class TestBundle:
    def test_the_manifest_names_them(self, bundle: Path) -> None:
        shared = {(a.target, a.precision, a.role): a.shared for a in Bundle(bundle).artifacts if a.prologue}
        assert {key for key, names in shared.items() if names} == {
            (target, precision, "score")
            for target in ("onnxruntime", "openvino")
            for precision in ("fp32", "bf16", "int8")
        }
        for file in bundle.glob("score.*.onnx"):
            inputs = onnx.load(file, load_external_data=False).graph.input
            sizes = {port.type.tensor_type.shape.dim[0].dim_param for port in inputs}
            assert sizes == ({"B", "conditions"} if "onnxruntime" in file.name else {"B"}), file

    @pytest.mark.parametrize("fused", [False, True])
    @pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    def test_samples_are_those_of_a_condition_for_each(
        self, bundle: Path, backend: str, precision: str, fused: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To the bit, whatever the others of a batch are given. The engine is given one row, or one for each."""
        given: list[set[int]] = []
        prepare = SplitEngine.prepare

        def seen(self: SplitEngine, cond: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            prepared = prepare(self, cond)
            given.append({len(array) for array in prepared.values()})
            return prepared

        monkeypatch.setattr(SplitEngine, "prepare", seen)
        images = IMAGES.numpy()
        start = np.random.default_rng(0).standard_normal((13, 4)).astype(np.float32)
        with load(bundle, backend=backend, precision=precision, fuse=fused) as ebm:
            shared = ebm.refine(start, seed=2, image=images[1:2])
            assert given == [{1}]
            several = ebm.refine(start, seed=2, image=images[[1] * 12 + [2]])
            assert given == [{1}, {13}]
            np.testing.assert_array_equal(shared[:12], several[:12])
            assert not np.array_equal(shared[12], several[12])
            np.testing.assert_array_equal(ebm.refine(start, seed=2, image=images[[1] * 12 + [2]], max_batch=5), several)
            assert given[2:] == [{1}, {1}, {3}]

    @pytest.mark.parametrize("model", [Asking, Powered])
    def test_energies_and_gradients_are_those_of_a_condition_for_each(
        self, model: type[nn.Module], tmp_path: Path
    ) -> None:
        path = export(
            model().eval(), torch.zeros(4, 4), cond={"image": IMAGES}, sampler=CONFIG,
            targets=["onnxruntime", "openvino"], out=tmp_path / "net.ebm",
        )  # fmt: skip
        x, images = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32), IMAGES.numpy()
        for backend in ("onnxruntime", "openvino"):
            with load(path, backend=backend) as ebm:
                for shared, several in zip(
                    ebm.score(x, image=images[1:2]), ebm.score(x, image=images[[1] * 499 + [2]]), strict=True
                ):
                    np.testing.assert_array_equal(shared[:499], several[:499])

    @pytest.mark.parametrize("same", [True, False])
    def test_rows_are_joined_where_that_keeps_the_bits(
        self, bundle: Path, same: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, image = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32), IMAGES.numpy()[1:2]

        def gradients() -> np.ndarray:
            with load(bundle, backend="openvino", precision="fp32") as ebm:
                return ebm.score(x, image=image)[1]

        asked: list[bool] = []

        def joined(model: Any) -> bool:
            asked.append(join_rows(model))
            rows = [
                shape[0]
                for operation in model.get_ordered_ops()
                if operation.get_type_name() == "MatMul" and len(shape := operation.input_value(0).get_shape()) == 4
            ]
            assert not asked[-1] or rows == [
                1,
                1,
                1,
                1,
            ]  # those of the gradient, which take keys and values the other way round, too
            if asked[-1] and not same:
                place = next(result for result in model.get_results() if "grad" in result.output(0).get_names())
                value = place.input_value(0)
                place.input(0).replace_source_output(opset13.multiply(value, np.float32(1 + 2**-23)).output(0))
            return asked[-1]

        with monkeypatch.context() as patch:
            patch.setattr("ebm_export.runtime.backends.openvino.join_rows", lambda model: False)
            expected = gradients()
        agreed: list[bool] = []
        agree = openvino_backend._agree
        monkeypatch.setattr(openvino_backend, "join_rows", joined)
        monkeypatch.setattr(openvino_backend, "_agree", lambda *both: agreed.append(agree(*both)) or agreed[-1])
        np.testing.assert_array_equal(gradients(), expected)
        assert any(asked) and agreed == [same]

    @pytest.mark.parametrize("fused", [False, True])
    def test_warm_readies_both_forms(self, bundle: Path, fused: bool) -> None:
        with load(bundle, backend="openvino", precision="fp32", fuse=fused) as ebm:
            ebm._fitting = 4  # so that batches are of 4, 3 and, with a deadline, 7
            ebm.warm(7)
            engines = [part for engine in ebm._engines for part in engine.parts]
            if fused:
                for choice in (ebm._fused, ebm._telling):
                    assert choice._fused is not None
                    engines.append(choice._fused.engine)
            compiled = []
            for part in engines:
                assert isinstance(part, OpenVinoEngine)
                compiled.append(part._bound)
            before = [set(shapes) for shapes in compiled]
            start, images = np.zeros((7, 4), np.float32), IMAGES.numpy()
            ebm.refine(start, image=images[:1])
            ebm.refine(start, image=images[[0, 1, 2, 3, 4, 5, 0]])
            for several in (images[:1], images[[0, 1, 2, 3, 4, 5, 0]]):
                ebm.refine(start, image=several, deadline_ms=1e4)
            assert [set(shapes) for shapes in compiled] == before
