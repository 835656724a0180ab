"""How many chains the gate needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..runtime.errors import UsageError

__all__ = ["ChainPlan", "fitted_plan", "plan_chains", "pool_factor"]

# P(chi2_1 > 9 + 1) = 0.0016: chance that one metric of an engine without fault is over the gate; see `plan_chains`.
_ROOM = 9.0
# The jackknife over sets needs a few: three of 2 n chains.
_FEWEST_SETS = 6
_FEWEST_CHAINS = 128  # from which modes and neighbours can be counted
_SURE = 1.645  # the normal's 95 % point


@dataclass(frozen=True)
class ChainPlan:
    """How many chains to draw, and what they can show."""

    subset: int
    """n, chains in each of the sets that are compared."""
    energy_subset: int
    """2 n, chains in each of the sets whose energies are compared."""
    pool: int
    """N, chains to draw from FP32 and from the candidate each."""
    gate: float
    """Largest ratio to the seed noise floor that passes."""
    smallest_difference: float
    """Shift of the mean, in standard deviations, that raises the ratio to the gate: caught half of the time."""
    sure_difference: float
    """Shift that is caught 95 times in 100."""
    false_failure: float
    """Chance that an engine without fault is over the gate, for one metric and before more chains are drawn."""


def plan_chains(gate: float = 1.25, smallest_difference: float = 0.1) -> ChainPlan:
    """Finds the number of chains from the smallest difference that should be caught.

    Two sets of n independent chains of one distribution with standard deviation 1 have means that differ by a number of
    mean square 2/n: that is the floor. Where the candidate's mean is off by d, the mean square becomes 2/n + d^2, so

        ratio^2 = 1 + n d^2 / 2,    which is gate^2 at    n = 2 (gate^2 - 1) / d^2.

    Distances are estimated from pools of N = k n chains (`noise_floor`). What stays random is the difference of the
    two pools' own means, (d + sqrt(2/N) z) with z ~ N(0, 1); with the spread inside the pools counted without bias,

        ratio^2 = 1 - 1/k + (n/2) (d + sqrt(2/N) z)^2.

    The energies are compared by the Wasserstein distance, which sees the shape of both histograms besides their means and
    so has a higher floor. Simulated for normal energies, gates from 1.05 to 2 and n of 100 and 300, a shift of d brings its
    ratio to the gate at 1.9 to 2.2 times the n above (heavier tails, t with 5 degrees of freedom: 2.0 to 2.1; the skewed
    gamma distribution of shape 4: 1.7 to 1.8; of shape 1, as in two dimensions: 1.0 to 1.5). So energies are compared in sets of 2 n chains.

    For d = 0 the ratio is over gate^2 where z^2 > k (gate^2 - 1) + 1. With k = 9 / (gate^2 - 1), rounded up, that is z^2 > 10,
    which happens once in 600 times whatever the gate is; for eight metrics at most once in 75 times (strongly skewed energies somewhat more often, as 2 n is then more than they
    need). Then N = 18 / d^2:
    1800 chains for d = 0.1, whatever the gate is.

    Args:
        gate: above 1.
        smallest_difference: d, in standard deviations, above 0.

    Raises:
        UsageError: an argument is out of range.
    """
    if not 1.0 < gate < math.inf:
        raise UsageError(f"gate: expected a number above 1, got {gate!r}; at 1 every engine fails half of the time")
    if not 0.0 < smallest_difference < math.inf:
        raise UsageError(
            f"smallest_difference: expected a number above 0, got {smallest_difference!r}; "
            "it is in standard deviations of the energy"
        )
    pool = _subset(gate, smallest_difference) * pool_factor(gate)
    return fitted_plan(gate, smallest_difference, max(pool, _FEWEST_CHAINS))


def _subset(gate: float, smallest_difference: float) -> int:
    """n of `plan_chains`, at least two chains: one has neither a spread nor a neighbour."""
    return max(2, math.ceil(2.0 * (gate**2 - 1.0) / smallest_difference**2))


def pool_factor(gate: float) -> int:
    """Returns k, the pool's size over the subset's, that leaves one metric a chance of 0.0016 to fail; at least 6."""
    return max(_FEWEST_SETS, math.ceil(_ROOM / (gate**2 - 1.0)))


def fitted_plan(gate: float, smallest_difference: float, pool: int) -> ChainPlan:
    """Returns what pools of a given size can show.

    Args:
        gate: above 1.
        smallest_difference: d that is wanted; a larger pool than that needs leaves n as it is.
        pool: chains in each pool.

    Raises:
        UsageError: the pool is too small to hold `pool_factor` sets of two chains.
    """
    factor = pool_factor(gate)
    if pool < 2 * factor:
        raise UsageError(
            f"chains: expected at least {2 * factor} in each pool for a gate of {gate:g}, got {pool}; draw more"
        )
    subset = min(_subset(gate, smallest_difference), pool // factor)
    over = gate**2 - 1.0 + subset / pool
    return ChainPlan(
        subset=subset,
        energy_subset=2 * subset,
        pool=pool,
        gate=gate,
        smallest_difference=math.sqrt(2.0 * (gate**2 - 1.0) / subset),
        sure_difference=math.sqrt(2.0 * over / subset) + _SURE * math.sqrt(2.0 / pool),
        false_failure=math.erfc(math.sqrt(over * pool / subset / 2.0)),
    )
