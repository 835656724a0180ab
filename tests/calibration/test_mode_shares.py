from __future__ import annotations

import dataclasses
import tracemalloc

import numpy as np
import pytest

from ebm_export.calibration.mode_shares import mode_shares
from ebm_export.calibration.sample_set import SampleSet

CENTRES = np.array([[0, 0], [10, 0], [0, 10]], np.float32)


def drawn(counts: tuple[int, int, int], seed: int) -> SampleSet:
    generator = np.random.default_rng(seed)
    x = np.repeat(CENTRES, counts, axis=0) + 0.3 * generator.standard_normal((sum(counts), 2), dtype=np.float32)
    return SampleSet(x, np.zeros(len(x)))


def test_shares_rare_and_lost_modes() -> None:
    sets = {"same": drawn((600, 340, 60), 1), "loses": drawn((620, 380, 0), 2)}
    found = mode_shares(drawn((600, 340, 60), 0), sets)
    assert found is not None
    shares, middles = found
    assert shares.reference == (0.6, 0.34, 0.06)
    assert shares.share == {"same": (0.6, 0.34, 0.06), "loses": (0.62, 0.38, 0.0)}
    assert shares.rare == (2,)
    assert shares.lost == {"same": (), "loses": (2,)}
    # The nearest of 60 samples or more to the middle of a cloud of width 0.3.
    np.testing.assert_allclose(middles, CENTRES, atol=0.15)


def test_chance_loses_no_mode() -> None:
    """A third fewer of the 60 of the rarest mode: p is about 0.02, no rare sight among three modes of several engines."""
    found = mode_shares(drawn((600, 340, 60), 0), {"unlucky": drawn((620, 342, 38), 1)})
    assert found is not None
    assert found[0].loss_p_value["unlucky"][2] < 0.05 / 3
    assert found[0].lost["unlucky"] == ()


def test_a_mode_that_only_an_engine_has() -> None:
    found = mode_shares(drawn((600, 400, 0), 0), {"invents": drawn((500, 350, 150), 1)})
    assert found is not None
    assert sorted(found[0].share["invents"]) == [0.15, 0.35, 0.5]
    assert sorted(found[0].reference) == [0.0, 0.4, 0.6]
    assert np.isfinite(found[1]).all()


def test_features_are_what_counts_where_there_are_some() -> None:
    samples = drawn((300, 300, 300), 0)
    by_first = SampleSet(samples.x, samples.energy, features=samples.x[:, :1])
    found = mode_shares(by_first, {"same": by_first})
    assert found is not None
    assert len(found[0].reference) == 2
    assert found[1].shape == (2, 2)


def test_one_mode_is_none_to_tell_apart() -> None:
    assert mode_shares(drawn((500, 0, 0), 0), {}) is None


def test_classes_are_the_modes_where_samples_have_labels() -> None:
    """Two clouds are one class, a third is another, and the class between them is nobody's."""

    def labelled(counts: tuple[int, int, int], seed: int) -> SampleSet:
        samples = drawn(counts, seed)
        return dataclasses.replace(samples, labels=np.repeat([0, 0, 2], counts))

    found = mode_shares(labelled((500, 400, 100), 0), {"loses": labelled((600, 390, 10), 1)})
    assert found is not None
    shares, middles = found
    assert shares.classes and shares.reference == (0.9, 0.0, 0.1)
    assert shares.share == {"loses": (0.99, 0.0, 0.01)}
    assert shares.lost == {"loses": (2,)}
    np.testing.assert_allclose(middles[2], CENTRES[2], atol=0.15)
    assert not mode_shares(drawn((500, 400, 100), 0), {"loses": labelled((600, 390, 10), 1)})[0].classes  # type: ignore[index]


def test_of_many_classes_some_of_each_kind_are_shown() -> None:
    """399 classes: a large one, one that an engine lost, and many of one to four samples; half of all numbers are nobody's."""
    counts = np.zeros(400, int)
    counts[::2] = np.arange(200) % 4 + 1
    counts[10], counts[20] = 300, 60
    labels = np.repeat(np.arange(400), counts)
    generator = np.random.default_rng(0)
    x = (labels[:, None] + 0.1 * generator.standard_normal((len(labels), 2))).astype(np.float32)
    samples = SampleSet(x, np.zeros(len(x)), labels=labels)
    other = dataclasses.replace(samples, labels=np.where(labels == 20, 10, labels))
    found = mode_shares(samples, {"loses": other})
    assert found is not None
    shares, middles = found
    assert len(shares.reference) == 399 and shares.lost == {"loses": (20,)}
    assert len(shares.shown) == len(middles) == 48 and shares.shown == tuple(sorted(set(shares.shown)))
    assert {10, 20} < set(shares.shown) and set(shares.shown) & set(shares.rare)
    assert all(counts[mode] for mode in shares.shown)
    np.testing.assert_array_equal(np.round(middles[:, 0]), shares.shown)


def test_no_copy_of_all_samples_is_made_for_each_class() -> None:
    labels = np.arange(2000) % 1000
    samples = SampleSet(np.zeros((2000, 4000), np.float32), np.zeros(2000), labels=labels)
    tracemalloc.start()
    assert mode_shares(samples, {"same": samples}) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * samples.x.nbytes


@pytest.mark.parametrize("number", [np.inf, np.nan, 1e30])
@pytest.mark.parametrize("where", ["x", "features"])
def test_samples_that_diverged_take_no_mode_from_the_others(number: float, where: str) -> None:
    sound, lost = drawn((600, 340, 60), 1), drawn((600, 340, 60), 2).x
    rows = lost.copy()
    rows[:3] = number
    broken = SampleSet(
        rows if where == "x" else lost, np.zeros(len(lost)), features=rows if where == "features" else lost
    )
    reference = drawn((600, 340, 60), 0)
    reference = dataclasses.replace(reference, features=reference.x)
    sets = {"sound": dataclasses.replace(sound, features=sound.x), "broken": broken}
    assert mode_shares(reference, sets) is not None
    np.testing.assert_equal(mode_shares(reference, sets), mode_shares(reference, {"sound": sets["sound"]}))
