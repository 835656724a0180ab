from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ebm_export.calibration.states import DATA_STEP, States, record_states
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.backends.function import FunctionEngine
from ebm_export.runtime.errors import DivergenceError

CONFIG = SamplerConfig(steps=40, step_size=0.1, noise=0.1)
ORDERS = ("drift-noise", "noise-drift")


def pulled(x: np.ndarray, centre: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """E = |x - centre|^2 / 2."""
    away = x if centre is None else x - centre
    return 0.5 * np.square(away).sum(1), away


def record(folder: Path, config: SamplerConfig = CONFIG, **options: Any) -> States:
    folder.mkdir()
    settings = {"count": 60, "stages": 5, "chains": 24, "seed": 3, **options}
    with FunctionEngine(pulled) as engine:
        return record_states(engine, config, (3,), folder, **settings)


def assert_same(one: States, other: States) -> None:
    for name in ("x", "grad_scale", "step", "chain", "large"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    np.testing.assert_equal(one.inputs(slice(None)), other.inputs(slice(None)))


class TestWhatIsKept:
    def test_every_stage_gives_as_many(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s")
        assert np.unique(states.step, return_counts=True)[0].tolist() == [0, 10, 20, 30, 40]
        assert np.unique(states.step, return_counts=True)[1].tolist() == [12] * 5

    def test_every_chain_gives_its_share(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s", count=72, stages=6)
        assert np.unique(states.chain, return_counts=True)[1].tolist() == [3] * 24

    def test_no_state_twice(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s", count=1000)  # more than there are
        assert len(states) == 5 * 24
        assert len(set(zip(states.step.tolist(), states.chain.tolist(), strict=True))) == len(states)

    def test_the_largest_gradients_of_a_stage_are_among_them(self, tmp_path: Path) -> None:
        """Of 64 states of a stage, the two with the largest gradients of the chains that are not kept anyway."""
        several = {"stages": 3, "chains": 200}
        states, whole = (
            record(tmp_path / "s", count=3 * 64, **several),
            record(tmp_path / "w", count=3 * 200, **several),
        )
        assert np.unique(states.step, return_counts=True)[1].tolist() == [64] * 3
        for stage, step in enumerate((0, 20, 40)):
            kept, all_there = (set(one.chain[one.step == step].tolist()) for one in (states, whole))
            assert len(kept) == 64 and len(all_there) == 200
            usual = {(64 * stage + k) % 200 for k in range(62)}
            there = whole.step == step
            sizes = dict(zip(whole.chain[there].tolist(), np.linalg.norm(whole.x[there], axis=1), strict=True))
            largest = set(sorted(all_there - usual, key=sizes.__getitem__)[-2:])
            assert kept - usual == largest
            assert set(states.chain[(states.step == step) & states.large].tolist()) == largest

    @pytest.mark.parametrize("sampler", ["mala", "hmc", "underdamped", "tempering"])
    def test_large_is_a_gradient_there_whatever_the_scale(self, tmp_path: Path, sampler: str) -> None:
        """Samplers that reject have a scale that does not change; their largest gradients are other chains' at each stage."""
        config = SamplerConfig.from_dict({"steps": 40, "step_size": 0.3, "sampler": sampler})
        states = record(tmp_path / "s", config, count=5 * 64, chains=200)
        sizes = np.linalg.norm(states.x, axis=1)
        for step in (20, 30, 40):
            there = states.step == step
            assert sizes[there & states.large].min() > np.quantile(sizes[there & ~states.large], 0.9)
        assert len(set(states.chain[states.large].tolist())) > 4  # of ten

    def test_short_chains_have_fewer_stages(self, tmp_path: Path) -> None:
        assert np.unique(record(tmp_path / "s", CONFIG.replace(steps=2)).step).tolist() == [0, 1, 2]

    @pytest.mark.parametrize("sampler", ["mala", "hmc", "tempering"])
    def test_states_are_those_of_the_chains(self, tmp_path: Path, sampler: str) -> None:
        """Neither proposals that were rejected nor the hot replicas."""
        config = SamplerConfig.from_dict({"steps": 40, "step_size": 0.3, "sampler": sampler})
        states = record(tmp_path / "s", config, count=400, chains=200, max_batch=60)
        late = states.x[states.step >= 20]
        assert 0.75 < np.square(late).mean() < 1.3  # 700 numbers with a variance of 1

    def test_states_move_along_the_chain(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s")
        sizes = [np.linalg.norm(states.x[states.step == step], axis=1).mean() for step in (0, 20, 40)]
        assert sizes[0] > 2 * sizes[1] > 2 * sizes[2]

    def test_arrays_are_mapped_files(self, tmp_path: Path) -> None:
        """And conditions, which may be images, are not written again for each state."""
        states = record(tmp_path / "s", cond={"centre": np.zeros((1, 3), np.float32)})
        for array in (states.x, states.grad_scale, states.step, states.chain, states.row):
            assert isinstance(array, np.memmap)
        assert sum(path.stat().st_size for path in (tmp_path / "s").iterdir()) < 60 * (12 + 28) + 5 * 256


@pytest.mark.parametrize("order", ORDERS)
class TestReproducible:
    def test_same_seed_same_states(self, tmp_path: Path, order: str) -> None:
        config = CONFIG.replace(order=order)
        assert_same(record(tmp_path / "a", config), record(tmp_path / "b", config))
        assert (record(tmp_path / "c", config, seed=4).x != record(tmp_path / "d", config).x).all()

    @pytest.mark.parametrize("max_batch", [1, 5, 12, 23])
    def test_batches_change_nothing(self, tmp_path: Path, order: str, max_batch: int) -> None:
        config = CONFIG.replace(order=order)
        options = {
            "cond": {"centre": np.linspace(-1, 1, 21, dtype=np.float32).reshape(7, 3)},
            "data": np.random.default_rng(0).standard_normal((9, 3)).astype(np.float32),
            "count": 5 * 64, "chains": 80,  # so that there are largest gradients
        }  # fmt: skip
        whole = record(tmp_path / "a", config, **options)
        assert_same(record(tmp_path / "b", config, max_batch=max_batch, **options), whole)

    def test_no_call_is_larger_than_a_batch(self, tmp_path: Path, order: str) -> None:
        sizes: list[int] = []

        def watched(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            sizes.append(len(x))
            return pulled(x)

        data = np.ones((30, 3), np.float32)
        record_states(
            FunctionEngine(watched),
            CONFIG.replace(order=order),
            (3,),
            tmp_path,
            chains=24,
            seed=0,
            max_batch=5,
            data=data,
        )
        assert max(sizes) == 5

    def test_scales_are_those_of_the_gradients_there(self, tmp_path: Path, order: str) -> None:
        """The running scale follows the rms of the gradient; the first is found at the state itself."""
        states = record(tmp_path / "s", CONFIG.replace(order=order))
        sizes = states.grad_scale * np.sqrt(np.square(states.x).mean(1))
        assert sizes[states.step == 0] == pytest.approx(1, rel=1e-5)
        assert np.median(sizes) == pytest.approx(1, rel=0.3)
        assert (sizes[states.step == 40] != 1).all()


@pytest.mark.parametrize("given", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [2, 4])
def test_each_condition_has_its_part_of_each_share(tmp_path: Path, given: int, count: int) -> None:
    """By the number of the chain alone, every second or fourth chain would be one condition's, or one of a few's."""
    cond = {"centre": np.linspace(-1, 1, 3 * given, dtype=np.float32).reshape(given, 3)}
    states = record(tmp_path / "s", cond=cond, count=5 * 96, chains=96)
    shares = states.share(count)
    for row in range(given):
        parts = np.bincount(shares[states.row == row], minlength=count)
        assert parts.tolist() == [5 * 96 // given // count] * count
    assert all(len(set(shares[states.chain == chain].tolist())) == 1 for chain in range(96))


def test_noise_drift_keeps_the_noised_point(tmp_path: Path) -> None:
    """One step of size one takes a quadratic to its minimum, so only the noised point is anywhere else."""
    states = record(tmp_path / "s", SamplerConfig(steps=4, step_size=1.0, noise=0.3, order="noise-drift"))
    assert (np.abs(states.x).max(1) > 0.01).all()


@pytest.mark.parametrize("order", ORDERS)
def test_conditions_follow_their_chain(tmp_path: Path, order: str) -> None:
    centres = np.arange(21, dtype=np.float32).reshape(7, 3)
    states = record(tmp_path / "s", CONFIG.replace(order=order, steps=200), cond={"centre": centres})
    given = states.inputs(slice(None))["centre"]
    np.testing.assert_array_equal(given, centres[states.chain % 7])
    ends = states.step == 200
    assert np.abs(states.x[ends] - given[ends]).max() < 1.5


class TestData:
    DATA = np.linspace(1, 2, 300).reshape(100, 3)  # float64

    def test_is_added_behind_with_scales_of_its_own(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s", data=self.DATA)
        real = states.step == DATA_STEP
        assert np.flatnonzero(real).tolist() == list(range(60, 75))  # a quarter of 60
        np.testing.assert_array_equal(states.x[real][[0, -1]], self.DATA[[0, -1]].astype(np.float32))
        sizes = states.grad_scale[real] * np.sqrt(np.square(states.x[real]).mean(1))
        assert sizes == pytest.approx(1, rel=1e-5)
        assert states.chain[real].tolist() == list(range(24, 39))

    def test_leaves_the_chains_alone(self, tmp_path: Path) -> None:
        alone = record(tmp_path / "a")
        assert_same(record(tmp_path / "b", data=self.DATA).part(np.arange(60)), alone)

    def test_only_the_rows_that_were_named_are_taken(self, tmp_path: Path) -> None:
        rows, centres = np.arange(1, 100, 2), np.zeros((1, 3), np.float32)
        owned = self.DATA.astype(np.float32)[rows]
        states = record(
            tmp_path / "s", data=self.DATA, data_rows=rows, cond={"centre": centres}, data_cond={"centre": owned}
        )
        assert states.x[60].tolist() == self.DATA[1].astype(np.float32).tolist()
        np.testing.assert_array_equal(states.inputs(slice(60, None))["centre"], states.x[60:])

    def test_memory_does_not_grow_with_its_rows(self, tmp_path: Path) -> None:
        """A file that is mapped is read a batch at a time."""
        shape = (64, 64)
        used = {}
        for length in (8, 200):
            folder = tmp_path / str(length)
            folder.mkdir()
            np.save(folder / "data.npy", np.ones((length, *shape), np.float32))
            data = np.load(folder / "data.npy", mmap_mode="r")
            engine = FunctionEngine(lambda x: (x.sum((1, 2)), x))
            tracemalloc.start()
            try:
                states = record_states(
                    engine, CONFIG.replace(steps=2), shape, folder, count=800, chains=8, seed=0, max_batch=4, data=data
                )
                used[length] = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert np.count_nonzero(states.step == DATA_STEP) == length
        assert used[200] < used[8] + 10 * data[0].nbytes

    def test_few_are_taken_once(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s", data=self.DATA[:4])
        np.testing.assert_array_equal(states.x[60:], self.DATA[:4].astype(np.float32))

    @pytest.mark.parametrize("order", ORDERS)
    def test_goes_with_its_own_conditions(self, tmp_path: Path, order: str) -> None:
        centres = -np.ones((7, 3), np.float32)
        config, owned = CONFIG.replace(order=order), self.DATA.astype(np.float32) + 1
        states = record(
            tmp_path / "s", config, data=self.DATA, cond={"centre": centres}, data_cond={"centre": owned}, max_batch=7
        )
        real = states.step == DATA_STEP
        given = states.inputs(slice(None))
        assert real.sum() == 15
        np.testing.assert_allclose(given["centre"][real] - states.x[real], 1, rtol=1e-6)
        assert (given["centre"][~real] == -1).all()
        assert states.grad_scale[real] == pytest.approx(1, rel=1e-5)  # that of the gradient at the pair
        alone = record(tmp_path / "a", config, cond={"centre": centres})
        assert_same(states.part(np.arange(60)), alone)

    def test_without_conditions_of_its_own_goes_on_in_turns(self, tmp_path: Path) -> None:
        centres = np.arange(21, dtype=np.float32).reshape(7, 3)
        states = record(tmp_path / "s", data=self.DATA, cond={"centre": centres})
        np.testing.assert_array_equal(states.inputs(slice(None))["centre"], centres[states.chain % 7])

    def test_starts_chains_where_the_settings_say_so(self, tmp_path: Path) -> None:
        start = np.full((1, 3), 5, np.float32)
        states = record(tmp_path / "s", CONFIG.replace(init="data"), start=start)
        assert (states.x[states.step == 0] == 5).all()


class TestReading:
    def test_batches_hold_every_state_in_order(self, tmp_path: Path) -> None:
        centres = np.arange(21, dtype=np.float32).reshape(7, 3)
        states = record(tmp_path / "s", cond={"centre": centres})
        batches = list(states.batches(16))
        assert [len(batch["x"]) for batch in batches] == [16, 16, 16, 12]
        given = centres[states.chain % 7]
        for name, array in (("x", states.x), ("grad_scale", states.grad_scale), ("centre", given)):
            np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), array)
        assert all(array.flags.c_contiguous for batch in batches for array in batch.values())

    def test_a_part_is_in_memory(self, tmp_path: Path) -> None:
        states = record(tmp_path / "s", cond={"centre": np.arange(21, dtype=np.float32).reshape(7, 3)})
        part = states.part(np.array([3, 50]))
        assert not isinstance(part.x, np.memmap)
        np.testing.assert_array_equal(part.step, [0, 40])
        np.testing.assert_equal(part.inputs(slice(None)), states.inputs(np.array([3, 50])))


def test_progress_counts_chain_steps(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    record(tmp_path / "s", max_batch=10, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (24 * 40, 24 * 40)


def test_divergence_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DivergenceError):
        record(tmp_path / "s", SamplerConfig(steps=200, step_size=1e3))
