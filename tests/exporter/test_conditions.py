"""Where low precisions are calibrated and judged."""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebm_export.calibration.quality_gate import QualityGate
from ebm_export.exporter.archive import read_archive, save_energy
from ebm_export.exporter.conditions import ENOUGH, split_conditions
from ebm_export.exporter.energy import Energy, make_energy
from ebm_export.exporter.export import export_energy
from ebm_export.exporter.gating import gating_for
from ebm_export.exporter.golden import CHAINS, fresh_conditions
from ebm_export.exporter.input_spec import InputSpec
from ebm_export.exporter.load import load_model
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.bundle import Bundle
from ebm_export.runtime.errors import EbmExportError

from .models_to_load import ConditionalEnergy, LevelEnergy, MlpEnergy

X = torch.zeros(4, 2)


def observations(count: int) -> torch.Tensor:
    return torch.arange(3.0 * count).reshape(count, 3)


@pytest.mark.parametrize("count", [ENOUGH, ENOUGH + 1, 100])
def test_many_are_shared_out(count: int) -> None:
    obs = observations(count)
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": obs}))
    for half, wanted in ((found.calibration["obs"], obs[::2]), (found.judged["obs"], obs[1::2])):
        assert sorted(half[:, 0]) == wanted[:, 0].tolist()
        assert (np.diff(half[:, 0]) < 0).any(), "the first of them are from all over"


def test_few_serve_for_both_with_others_like_them() -> None:
    obs = observations(ENOUGH - 1)
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": obs}))
    np.testing.assert_array_equal(found.calibration["obs"], obs)
    assert found.judged is found.calibration
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": obs[:4]}))
    assert found.judged["obs"].shape == (CHAINS, 3)
    np.testing.assert_array_equal(found.judged["obs"][:4], obs[:4])
    assert len(np.unique(found.judged["obs"], axis=0)) == CHAINS


def test_equal_rows_count_once() -> None:
    """Engines compared at one observation alone could ignore it."""
    for obs in (observations(1), observations(1).expand(30, -1)):
        found = split_conditions(make_energy(ConditionalEnergy(), torch.zeros(8, 2), cond={"obs": obs}))
        assert len(np.unique(found.judged["obs"], axis=0)) == CHAINS
        np.testing.assert_array_equal(found.judged["obs"][0], obs[0])


@pytest.mark.parametrize("given", [[0.25], [0.1, 0.9], [-0.25]])
def test_others_like_them_stay_in_their_range(given: list[float]) -> None:
    """Noise of a fixed size made a noise level of 0.25 negative at every second copy, where the model took its logarithm."""
    found = split_conditions(make_energy(labelled, torch.zeros(8, 2), cond={"label": torch.tensor(given)})).judged
    sizes = found["label"] / np.sign(given[0])
    low, high = (0.125, 0.375) if len(given) == 1 else (np.float32(0.1), np.float32(0.9))
    assert ((sizes >= low) & (sizes <= high)).all()
    assert len(np.unique(sizes)) > len(given), "engines compared at one condition alone could ignore it"


def test_others_like_a_mask_have_its_infinities() -> None:
    """They were NaN throughout."""
    mask = torch.tensor([[0.0, -torch.inf, 1.0]])
    found = fresh_conditions(make_energy(pulled, torch.zeros(8, 2), cond={"obs": mask}), CHAINS, 0)["obs"]
    np.testing.assert_array_equal(found[:, 1], -np.inf)
    assert np.isfinite(found[:, [0, 2]]).all()


def test_a_single_noise_level_is_exported(tmp_path: Path) -> None:
    energy = make_energy(
        LevelEnergy(), X, cond={"sigma": torch.tensor([0.25])}, sampler=SamplerConfig(steps=4, step_size=0.01)
    )
    save_energy(energy.module, tmp_path / "m.pt2", X, cond={"sigma": torch.tensor([0.25])})
    for model in (energy, read_archive(tmp_path / "m.pt2")):
        out = tmp_path / f"{model.sampler is None}.ebm"
        assert export_energy(model, out=out, targets=["onnxruntime"], precisions=["fp32"]).failure is None


@pytest.mark.parametrize("sampler", [None, SamplerConfig(steps=4, step_size=0.01)])
def test_what_is_made_up_is_named_where_energies_are_not_finite(tmp_path: Path, sampler: SamplerConfig | None) -> None:
    """The sampler's settings, and the start, were blamed for it."""
    torch.save(LevelEnergy().state_dict(), tmp_path / "m.pt")
    options: dict[str, Any] = {"factory": f"{LevelEnergy.__module__}:LevelEnergy", "shape": (2,)}
    made_up = load_model(tmp_path / "m.pt", cond={"sigma": InputSpec((4,))}, **options)
    made_up.sampler = sampler
    with pytest.raises(EbmExportError, match=r"it is 'sigma', made up of a shape alone .* --cond sigma=FILE\.npy"):
        export_energy(made_up, out=tmp_path / "m.ebm", targets=["onnxruntime"], precisions=["fp32"])
    real = load_model(tmp_path / "m.pt", cond={"sigma": torch.tensor([[-0.5], [0.5]])}, **options)
    with pytest.raises(EbmExportError, match="not finite") as refused:
        export_energy(real, out=tmp_path / "m.ebm", targets=["onnxruntime"], precisions=["fp32"])
    assert "made up" not in str(refused.value)


def labelled(x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    return (x.square().sum(1) - label.reshape(-1)).abs()


def pulled(x: torch.Tensor, obs: torch.Tensor) -> torch.Tensor:
    return (x - obs[:, :2].to(x.dtype)).square().sum(1)


@pytest.mark.parametrize(
    "label", [torch.arange(20), torch.arange(20)[:, None], torch.arange(40) % 20, torch.arange(4) == 1]
)
def test_labels_serve_for_both(label: torch.Tensor) -> None:
    """Half of the classes would never have been calibrated, and the other half never judged."""
    found = split_conditions(make_energy(labelled, X, cond={"label": label}))
    assert found.judged is found.calibration and found.stand_for_use
    assert set(found.judged["label"].reshape(-1).tolist()) >= set(label.reshape(-1).tolist())


def test_the_first_of_many_labels_are_from_all_over() -> None:
    first = split_conditions(make_energy(labelled, X, cond={"label": torch.arange(100)})).judged["label"][:64]
    assert len(set(first.tolist())) == 64 and first.max() > 90 and np.mean(first >= 50) > 0.3


def test_a_label_goes_with_its_own_data() -> None:
    label = torch.arange(100) % 10
    data = np.repeat(label.numpy()[:, None], 2, axis=1).astype(np.float32)
    found = split_conditions(make_energy(labelled, X, cond={"label": label}), data)
    assert found.data is not None and len(found.data.x) == 100
    np.testing.assert_array_equal(found.data.x[:, 0], found.data.conditions["label"])


def test_only_data_of_the_calibrations_own_observations_is_taken() -> None:
    obs = observations(50)
    for times in (1, 2):
        data = obs[:, :2].repeat(times, 1).numpy()
        energy = make_energy(ConditionalEnergy(), X, cond={"obs": obs.repeat(times, *[1] * (obs.ndim - 1))})
        found = split_conditions(energy, data)
        assert found.data is not None
        paired = found.data.conditions["obs"]
        assert found.data.x is data  # half of it is no copy: it may be a file that is mapped
        np.testing.assert_array_equal(found.data.x[found.data.rows], paired[:, :2])
        assert sorted(paired[:, 0]) == sorted(times * found.calibration["obs"][:, 0].tolist())
        assert not set(paired[:, 0]) & set(found.judged["obs"][:, 0])


def test_rows_that_fill_a_larger_batch_belong_to_no_data() -> None:
    label, data = torch.arange(10), np.arange(20, dtype=np.float32).reshape(10, 2)
    energy = make_energy(labelled, torch.zeros(16, 2), cond={"label": label})
    found = split_conditions(energy, data).data
    assert found is not None
    np.testing.assert_array_equal(found.x, data)
    np.testing.assert_array_equal(found.conditions["label"], label)
    filled = split_conditions(energy, np.zeros((16, 2), np.float32)).data
    assert filled is not None and filled.conditions == {}, "16 rows of data, and 10 labels"


def test_data_belongs_to_the_rows_that_were_named() -> None:
    def energy_of(x: torch.Tensor, label: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        return (x.sum(1) - label).abs() + z.square().sum(1)

    label, data = torch.arange(20) % 4, np.arange(40, dtype=np.float32).reshape(20, 2)
    energy = make_energy(energy_of, X, cond={"label": torch.zeros(50, dtype=torch.long), "z": observations(50)})
    energy.observe({"label": label})
    assert len(energy.observations["label"]) == 50 and energy.given_rows == 20
    found = split_conditions(energy, data).data
    assert found is not None and sorted(found.conditions) == ["label", "z"]
    rows = (found.x[found.rows, 0] / 2).astype(int)  # which of the data is calibrated on
    assert len(rows) == 10 and set(rows) < set(range(20))
    np.testing.assert_array_equal(found.conditions["label"], label[rows])
    np.testing.assert_array_equal(found.conditions["z"], observations(50)[rows])
    whole = split_conditions(energy, np.zeros((50, 2), np.float32)).data
    assert whole is not None and whole.conditions == {}


def test_a_single_condition_belongs_to_all_data() -> None:
    data = np.zeros((30, 2), np.float32)
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": observations(1)}), data).data
    assert found is not None
    np.testing.assert_array_equal(found.conditions["obs"], observations(1).expand(30, -1))


def test_an_archive_keeps_how_many_rows_were_given(tmp_path: Path) -> None:
    save_energy(labelled, tmp_path / "a.pt2", torch.zeros(16, 2), cond={"label": torch.arange(10)})
    energy = read_archive(tmp_path / "a.pt2")
    assert energy.given_rows == 10 and len(energy.observations["label"]) == 16


@pytest.mark.parametrize("count", [1, 3])
def test_a_plain_archive_was_given_the_rows_that_it_has(tmp_path: Path, count: int) -> None:
    """Of a batch of one a second is made up, which belongs to no data."""
    inputs = (observations(count), X[:1].expand(count, -1).clone())
    torch.export.save(torch.export.export(ConditionalEnergy().eval(), inputs, strict=False), tmp_path / "a.pt2")
    energy = read_archive(tmp_path / "a.pt2", wrt="action")
    assert (energy.given_rows, len(energy.observations["obs"])) == (count, max(2, count))
    data = np.zeros((30, 2), np.float32)
    found = split_conditions(energy, data).data
    assert found is not None and len(found.x) == 30
    if count == 1:
        np.testing.assert_array_equal(found.conditions["obs"], observations(1).expand(30, -1))
    else:
        assert found.conditions == {}, "nobody said which of three"


class TestSeen:
    """What the manifest says of the numbers that the export saw."""

    @staticmethod
    def of(energy: Energy, path: Path) -> list[float] | None:
        """The range in the manifest of the one conditioning input."""
        energy.sampler = SamplerConfig(steps=4, step_size=0.01)
        export_energy(energy, out=path, targets=["onnxruntime"], precisions=["fp32"])
        (entry,) = json.loads((path / "manifest.json").read_text())["model"]["cond"]
        (spec,) = Bundle(path).model.cond
        seen: list[float] | None = entry.get("range")
        assert spec.range == (None if seen is None else tuple(seen))
        return seen

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
    def test_all_given_rows_count(self, tmp_path: Path, dtype: torch.dtype) -> None:
        """More than x has, whose example is a part of them."""
        obs = torch.linspace(-0.25, 1, 60).reshape(20, 3).to(dtype).requires_grad_()
        assert self.of(make_energy(pulled, X, cond={"obs": obs}), tmp_path / "m.ebm") == [-0.25, 1.0]

    def test_masks_have_an_infinite_end(self, tmp_path: Path) -> None:
        obs = torch.linspace(-0.25, 1, 60).reshape(20, 3)
        obs[1::2, 0] = -torch.inf
        energy = make_energy(
            lambda x, obs: (x - obs.exp()[:, :2]).square().sum(1), torch.zeros(20, 2), cond={"obs": obs}
        )
        assert self.of(energy, tmp_path / "m.ebm") == [-0.25, 1.0]

    def test_whole_numbers_have_limits(self, tmp_path: Path) -> None:
        assert self.of(make_energy(labelled, X, cond={"label": torch.arange(4)}), tmp_path / "m.ebm") is None

    def test_a_shape_says_nothing(self, tmp_path: Path) -> None:
        torch.save(ConditionalEnergy().state_dict(), tmp_path / "m.pt")
        factory = f"{ConditionalEnergy.__module__}:ConditionalEnergy"
        options: dict[str, Any] = {"factory": factory, "shape": (2,), "wrt": "action"}
        made_up = load_model(tmp_path / "m.pt", cond={"obs": InputSpec((3,))}, **options)
        assert self.of(made_up, tmp_path / "made-up.ebm") is None
        real = load_model(tmp_path / "m.pt", cond={"obs": torch.full((1, 3), 0.5)}, **options)
        assert self.of(real, tmp_path / "real.ebm") == [0.5, 0.5]

    def test_an_archive_has_the_rows_that_it_was_given(self, tmp_path: Path) -> None:
        """Without the noisy copies that fill the smallest batch; other rows take their place."""
        obs = torch.full((1, 3), 0.5)
        save_energy(ConditionalEnergy(), tmp_path / "a.pt2", X[:1], cond={"obs": obs}, wrt="action")
        assert len(read_archive(tmp_path / "a.pt2").observations["obs"]) == 2
        assert self.of(read_archive(tmp_path / "a.pt2"), tmp_path / "own.ebm") == [0.5, 0.5]
        other = load_model(tmp_path / "a.pt2", cond={"obs": torch.tensor([[0.0, 1.0, 2.0]])})
        assert self.of(other, tmp_path / "other.ebm") == [0.0, 2.0]

    def test_a_plain_archive_has_its_example(self, tmp_path: Path) -> None:
        program = torch.export.export(ConditionalEnergy(), (torch.zeros(1, 3), torch.zeros(1, 2)))
        torch.export.save(program, tmp_path / "with.pt2")
        assert self.of(load_model(tmp_path / "with.pt2", wrt="action"), tmp_path / "with.ebm") == [0.0, 0.0]
        program.example_inputs = None
        torch.export.save(program, tmp_path / "without.pt2")
        assert self.of(load_model(tmp_path / "without.pt2", wrt="action"), tmp_path / "without.ebm") is None


@pytest.mark.parametrize(
    ("count", "said"), [(20, ""), (30, "calibrating on 30 rows of data under 20 rows of label in turns")]
)
def test_an_export_says_that_data_is_not_paired(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, said: str
) -> None:
    energy = make_energy(labelled, X, cond={"label": torch.arange(20)}, sampler=SamplerConfig(steps=4, step_size=0.01))
    settings = {"out": tmp_path / "b.ebm", "targets": ["onnxruntime"], "data": np.ones((count, 2), np.float32)}
    with caplog.at_level(logging.WARNING, "ebm_export"):
        export_energy(energy, precisions=["fp32"], **settings)
        assert not caplog.text, "nothing is calibrated"
        with contextlib.suppress(EbmExportError):  # what INT8 makes of it is not asked here
            export_energy(energy, precisions=["int8"], force=True, **settings)
    assert said in caplog.text and ("calibrating on" in caplog.text) == bool(said)


@pytest.mark.parametrize("count", [1, 49, 51])
def test_other_numbers_of_data_and_observations_are_no_pairs(count: int) -> None:
    data = np.zeros((count, 2), np.float32)
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": observations(50)}), data)
    assert found.data is not None and found.data.conditions == {} and found.data.x is data


@pytest.mark.parametrize("count,enough", [(ENOUGH - 1, False), (ENOUGH, True)])
def test_what_stands_for_use(count: int, enough: bool) -> None:
    assert (
        split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": observations(count)})).stand_for_use == enough
    )
    image = (torch.arange(count)[:, None] + torch.arange(3)).to(torch.uint8)  # whole numbers, and no labels
    found = split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": image}))
    assert found.stand_for_use == enough and (found.judged is found.calibration) != enough


@pytest.mark.parametrize("labels", [[3], [3, 700]])
def test_some_labels_say_nothing_of_the_others(labels: list[int]) -> None:
    assert not split_conditions(make_energy(labelled, X, cond={"label": torch.tensor(labels)})).stand_for_use


def test_pairs_stay_together() -> None:
    def energy_of(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (x + a[:, :2] + b[:, None]).sum(1)

    obs = observations(40)
    found = split_conditions(make_energy(energy_of, X, cond={"a": obs, "b": 10 * obs[:, 0]}))
    for half in (found.calibration, found.judged):
        np.testing.assert_array_equal(10 * half["a"][:, 0], half["b"])


def test_rows_may_require_a_gradient() -> None:
    obs = observations(20).requires_grad_()
    assert len(split_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": obs})).judged["obs"]) == 10


def test_a_model_without_conditions_has_none() -> None:
    assert split_conditions(make_energy(MlpEnergy(), torch.zeros(3, 4))) == ({}, {}, False, None)
    data = np.zeros((3, 4), np.float32)
    assert split_conditions(make_energy(MlpEnergy(), torch.zeros(3, 4)), data).data == (data, {}, None)


def test_engines_are_compared_at_observations_from_all_over() -> None:
    obs = observations(100)
    found = fresh_conditions(make_energy(ConditionalEnergy(), X, cond={"obs": obs}), CHAINS, 0)
    np.testing.assert_array_equal(found["obs"], obs[[0, 14, 28, 42, 57, 71, 85, 99]])


@pytest.mark.parametrize("count", [4, 40])
def test_an_export_judges_there_and_says_where_they_are_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    obs, judged = torch.randn(count, 3), []
    init = QualityGate.__init__

    def watched(self: QualityGate, *args: object, **options: dict[str, np.ndarray]) -> None:
        judged.append(options["cond"]["obs"])
        init(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(QualityGate, "__init__", watched)
    with caplog.at_level(logging.WARNING, "ebm_export"):
        energy = make_energy(ConditionalEnergy(), X, cond={"obs": obs}, sampler=SamplerConfig(steps=4, step_size=0.01))
        path, precisions = tmp_path / "b.ebm", ["fp32", "bf16"]
        gating = gating_for(precisions, 3.0, smallest_difference=1.0, out=path, all_low=True)
        export_energy(energy, out=path, targets=["openvino"], precisions=precisions, gating=gating)
    assert len(judged) == 1
    golden = Bundle(path).golden()["cond.obs"][0]
    if count < ENOUGH:
        np.testing.assert_array_equal(judged[0], golden)
        assert "samples are judged at 4 rows of obs and noisy copies: give rows as they come in use, 16" in caplog.text
    else:
        assert sorted(judged[0][:, 0]) == sorted(obs[1::2, 0].tolist())
        np.testing.assert_array_equal(golden, obs[np.linspace(0, count - 1, CHAINS).round().astype(int)])
        assert "noisy copies" not in caplog.text
