"""Where chains start."""

from __future__ import annotations

import numpy as np

from .config import SamplerConfig
from .errors import UsageError
from .noise import NoiseSource, Stream

__all__ = ["start_states"]


def start_states(
    config: SamplerConfig,
    shape: tuple[int, ...],
    chains: range,
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
                f"[M, {', '.join(map(str, shape))}], or another init (normal, uniform)"
            )
        # A float32 uniform is a multiple of 2**-24 below 1, so the product in float64 stays below M.
        fractions = NoiseSource(seed, Stream.DATA, attempt).uniform(0, chains, ())
        states = data[(fractions.astype(np.float64) * len(data)).astype(np.int64)]
    elif config.init == "uniform":
        assert config.bounds is not None  # SamplerConfig refuses uniform without bounds
        low, high = config.bounds
        states = NoiseSource(seed, Stream.START, attempt).uniform(0, chains, shape)
        states *= high - low
        states += low
    else:
        states = NoiseSource(seed, Stream.START, attempt).normal(0, chains, shape)
    if config.bounds is not None:
        np.clip(states, *config.bounds, out=states)
    return states
