"""Where chains start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .chain_numbers import Chains, rows_at, shifted
from .config import SamplerConfig
from .errors import UsageError
from .kept import Kept
from .noise import NoiseSource, Stream

__all__ = ["Start", "check_start", "start_states"]


class Start:
    """Where the chains of one run start: at given states or at drawn ones, with the numbers that stay filled in.

    Args:
        config: settings; `init` and `bounds` are used.
        shape: shape S of one state.
        seed: as in `NoiseSource`.
        given: [n, *S] float32, states to start from, which are projected into the bounds; None draws them.
        data: [M, *S] float32, for init="data"; None where there are none.
        kept: numbers that stay; None where all may move.
        first: number of chain 0 in what is drawn.

    Attributes:
        shape: shape S of one state.
        data: [M, *S] float32, states that starts are picked from; None where they are not.
        drawn: whether starts follow from the settings and from `data`, and from nothing else that was given.
        free: [n, *S] or [1, *S] float32, 1 where a number may move, else 0; None where all may.
    """

    def __init__(
        self,
        config: SamplerConfig,
        shape: tuple[int, ...],
        seed: int,
        given: np.ndarray | None,
        data: np.ndarray | None,
        kept: Kept | None,
        first: int = 0,
    ) -> None:
        self.shape = shape
        self.data = data if given is None and config.init == "data" else None
        self.drawn = given is None and kept is None
        self.free = None if kept is None else kept.free
        self._config, self._seed, self._first = config, seed, first
        self._given, self._kept = given, kept

    def __call__(self, chains: Chains, attempt: int = 0) -> np.ndarray:
        """Returns the start states [len(chains), *S] float32 of these chains; those that are drawn differ by attempt."""
        if self._given is not None:
            position = _within(self._config.bounds, rows_at(self._given, chains))
        else:
            position = start_states(
                self._config, self.shape, shifted(chains, self._first), self._seed, self.data, attempt
            )
        return position if self._kept is None else self._kept.put(position, chains)


def _within(bounds: tuple[float, float] | None, position: np.ndarray) -> np.ndarray:
    """Returns positions projected into the bounds; the same array where they are there, which may be as large as the memory left.

    What is infinite stays so: a chain that starts there has diverged, and at a bound it would look well.
    """
    if bounds is None or (position.min() >= bounds[0] and position.max() <= bounds[1]):  # false for NaN
        return position
    return np.where(np.isinf(position), position, np.clip(position, *bounds))


def check_start(settings: SamplerConfig, overrides: Mapping[str, Any], *, given: bool, data: bool) -> None:
    """Refuses what a call says of where chains start, and what has no effect.

    Args:
        settings: of the call.
        overrides: those of them that the call itself names.
        given: whether it gives the states to start from (x0).
        data: whether it gives states to pick from.

    Raises:
        UsageError: something has none.
    """
    if given:
        for name, called in (("data", data), ("init", "init" in overrides)):
            if called:
                value = f"{overrides[name]!r} " if name in overrides else ""
                raise UsageError(
                    f"{name}: {value}has no effect beside x0, which says where chains start: leave one of them out"
                )
    elif data and settings.init != "data":
        raise UsageError(
            f'data: has no effect on chains that start by init={settings.init!r}: give init="data" (--init data) too, or leave it out'
        )


def start_states(
    config: SamplerConfig,
    shape: tuple[int, ...],
    chains: Chains,
    seed: int,
    data: np.ndarray | None = None,
    attempt: int = 0,
) -> np.ndarray:
    """Draws the states that chains start from; a chain's start depends on the seed and its own number alone.

    "normal" is N(0, I) projected into the bounds, "uniform" is uniform over the bounds, "data" picks one of the given
    states for each chain, with replacement, and projects it into the bounds.

    Args:
        config: settings; `init` and `bounds` are used.
        shape: shape of one state.
        chains: chain numbers.
        seed: as in `NoiseSource`.
        data: [M, *shape] float32, for init="data".
        attempt: as in `NoiseSource`.

    Returns:
        [len(chains), *shape] float32, a new array.

    Raises:
        UsageError: init is "data" and there are no states to pick from.
    """
    if config.init == "data":
        if data is None:
            raise UsageError(
                'init="data" starts chains from given states and there are none: pass data= an array '
                f"[M, {', '.join(map(str, shape))}], or another init (normal, uniform); on the command line export with "
                "--calibration-data FILE.npy, or give ebm-run sample --data FILE.npy"
            )
        # A float32 uniform is a multiple of 2**-24 below 1, so the product in float64 stays below M.
        fractions = NoiseSource(seed, Stream.DATA, attempt).uniform(0, chains, ())
        states = _within(config.bounds, data[(fractions.astype(np.float64) * len(data)).astype(np.int64)])
    elif config.init == "uniform":
        assert config.bounds is not None  # SamplerConfig refuses uniform without bounds
        low, high = config.bounds
        states = NoiseSource(seed, Stream.START, attempt).uniform(0, chains, shape)
        states *= high - low
        states += low
    else:
        states = NoiseSource(seed, Stream.START, attempt).normal(0, chains, shape)
    if config.bounds is not None and config.init != "data":
        np.clip(states, *config.bounds, out=states)
    return states
