"""States that later chains start from."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from ebm_export.runtime import LoadError, UsageError, replay_buffer
from ebm_export.runtime.replay_buffer import ReplayBuffer

FRESH = -np.ones((1000, 2), np.float32)


def filled(count: int = 10) -> ReplayBuffer:
    buffer = ReplayBuffer(10, (2,))
    buffer.put(np.arange(count, dtype=np.float32)[:, None].repeat(2, axis=1), np.full(count, -1))
    return buffer


def test_empty_gives_the_fresh_starts() -> None:
    starts, places = ReplayBuffer(10, (2,)).draw(FRESH, seed=0)
    np.testing.assert_array_equal(starts, FRESH)
    assert (places == -1).all()


def test_most_chains_go_on_and_a_share_starts_anew() -> None:
    starts, places = filled().draw(FRESH, seed=0, share=0.2)
    new = places == -1
    assert abs(new.mean() - 0.2) < 4 * np.sqrt(0.16 / 1000)
    np.testing.assert_array_equal(starts[new], FRESH[new])
    np.testing.assert_array_equal(starts[~new, 0], places[~new])
    counts = np.bincount(places[~new], minlength=10)
    assert (abs(counts - counts.mean()) < 4 * np.sqrt(counts.mean())).all()


def test_same_seed_same_picks() -> None:
    np.testing.assert_array_equal(filled().draw(FRESH, seed=5)[1], filled().draw(FRESH, seed=5)[1])
    assert not np.array_equal(filled().draw(FRESH, seed=5)[1], filled().draw(FRESH, seed=6)[1])


def test_a_place_that_there_is_not() -> None:
    """It would be another state's, the ring being round."""
    buffer = filled(5)
    with pytest.raises(UsageError, match="places: expected places of the 5 states that are kept, got 5"):
        buffer.put(np.zeros((2, 2), np.float32), np.array([0, 5]))
    assert buffer.states[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_ends_replace_what_they_came_from_and_new_ones_push_out_the_first() -> None:
    buffer = filled()
    buffer.put([[70, 70], [80, 80], [90, 90]], np.array([4, -1, -1]))
    np.testing.assert_array_equal(buffer.states[:, 0], [2, 3, 70, 5, 6, 7, 8, 9, 80, 90])


@pytest.mark.parametrize("capacity", [1, 7, 1000])
def test_turns_like_a_list_that_loses_its_first(capacity: int) -> None:
    rng = np.random.default_rng(0)
    buffer, expected = ReplayBuffer(capacity, ()), np.empty(0, np.float32)
    for turn in range(30):
        ends = rng.standard_normal(rng.integers(1, 12)).astype(np.float32)
        _, places = buffer.draw(np.zeros(len(ends)), seed=turn, share=0.5)
        assert places.max() < len(buffer) == len(expected)
        buffer.put(ends, places)
        expected[places[places >= 0]] = ends[places >= 0]
        expected = np.concatenate([expected, ends[places < 0]])[-capacity:]
        np.testing.assert_array_equal(buffer.states, expected)


def test_a_turn_does_not_copy_the_buffer() -> None:
    count, size = 1000, 10_000  # 40 MB
    buffer = ReplayBuffer(count, (size,))
    fresh = np.zeros((count, size), np.float32)
    buffer.put(fresh, np.full(count, -1))
    tracemalloc.start()
    for turn in range(3):
        starts, places = buffer.draw(fresh[:10], seed=turn, share=0.5)
        buffer.put(starts, places)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6  # ten states are 0.4 MB


def test_draws_are_copies() -> None:
    buffer = filled()
    starts, _ = buffer.draw(FRESH, seed=0)
    starts[:] = 99
    assert buffer.states.max() == 9 and FRESH.max() == -1


def test_survives_a_file(tmp_path: Path) -> None:
    filled().save(tmp_path / "buffer.npy")
    read = ReplayBuffer.read(tmp_path / "buffer.npy", capacity=4)
    np.testing.assert_array_equal(read.states, filled().states[-4:])
    assert read.capacity == 4


def test_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="capacity: expected a whole number of at least 1, got 0"):
        ReplayBuffer(0, (2,))
    with pytest.raises(UsageError, match="share: expected a number from 0 to 1, got 2"):
        filled().draw(FRESH, seed=0, share=2)
    with pytest.raises(UsageError, match=r"fresh: expected shape \[B, 2\], got \[3\]"):
        filled().draw([1, 2, 3], seed=0)
    with pytest.raises(UsageError, match="places: expected 1, one for each state, got 2"):
        filled().put([[1, 2]], np.array([1, 2]))
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(LoadError, match=r"text\.npy: expected a \.npy file of states"):
        ReplayBuffer.read(tmp_path / "text.npy", 3)
    (tmp_path / "damaged.npy").write_bytes(b"PK\x03\x04damaged")
    with pytest.raises(LoadError, match=r"damaged\.npy: expected a \.npy file of states"):
        ReplayBuffer.read(tmp_path / "damaged.npy", 3)
    np.save(tmp_path / "wide.npy", np.zeros((3, 2)))
    with pytest.raises(LoadError, match=r"expected float32 states \[M, \*S\], got float64 \[3, 2\]"):
        ReplayBuffer.read(tmp_path / "wide.npy", 3)


def test_a_save_that_fails_leaves_the_file_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled().save(tmp_path / "buffer.npy")
    before = (tmp_path / "buffer.npy").read_bytes()

    def full(file: BinaryIO, array: np.ndarray) -> None:
        file.write(before[: len(before) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(replay_buffer, "write_npy", full)
    with pytest.raises(OSError, match="No space left"):
        filled().save(tmp_path / "buffer.npy")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]
