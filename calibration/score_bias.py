"""Whether a score's gain and bias, over a whole trajectory, are small enough."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..runtime.errors import UsageError
from .metrics.score_fidelity import StageFidelity
from .verdict import MetricVerdict

__all__ = ["judge_score"]

_NORMAL = 1.959964  # 97.5 % point of the normal distribution
_WIDER = 2.0
"""The limit for each condition, in limits for all together."""


def judge_score(fidelity: Sequence[StageFidelity], limit: float) -> list[MetricVerdict]:
    """Judges the score directly: gain and bias along the trajectory, each at most a limit.

    A gradient that is 2 % too long cools or heats a warm chain by 2 %, but a chain far below its model's temperature
    ends almost where it would have ended. So samples may not show what another start, schedule or temperature would.

    Stages count in proportion to the steps taken before them: a chain forgets how it began, and how fast is not
    known here, so the weight grows evenly from 0 at the start. With weights w that sum to 1,

        size^2 = sum_k w_k (gain_k^2 - gain_error_k^2), not below 0,

    and the same with `bias_squared`, from which chance is taken out already. Nothing is cut at 0 before the sum: the mean of
    numbers that chance alone moves, cut so, would grow with the noise. A 2 % gain throughout has size 0.02, over the last half
    alone 0.017, over the last quarter alone 0.013. A constant error of 2 % may be part gain and part bias where it points
    along the gradient in part; the larger of the two is then at least 0.014. So any limit below that stops it, and 0.01
    leaves room for the standard error. Noise is not judged here, as samples show it.

    The same is asked of each condition of a conditional model, from `condition_gain_squared` and `condition_bias_squared`, with twice
    the limit: what a grid does to one observation does not average out, and one observation's samples, of which there are fewer, hide
    more. Errors that differ from condition to condition would not show in the mean at all.

    With too few states the errors are too large to say: then a verdict is not decided.

    Args:
        fidelity: one per stage; empty where nothing was measured.
        limit: largest size that passes, relative to rms(g).

    Returns:
        Verdicts "score gain" and "score bias", and "score gain by condition" and "score bias by condition" where there are conditions.
        Their `floor` is the limit and their own limit is 1. None for no stages.

    Raises:
        UsageError: the limit is not above 0.
    """
    if not limit > 0.0:
        raise UsageError(f"bias_limit: expected a number above 0, got {limit!r}; it is relative to rms of the gradient")
    if not fidelity:
        return []
    steps = np.array([stage.step for stage in fidelity], np.float64)
    weights = steps / steps.sum() if steps.sum() > 0.0 else np.full(len(steps), 1.0 / len(steps))
    gain, error, bias, bias_squared, bias_squared_error = (
        np.array([getattr(stage, name) for stage in fidelity])
        for name in ("gain", "gain_error", "bias", "bias_squared", "bias_squared_error")
    )
    # var(z^2) = 4 z^2 e^2 + 2 e^4 for a normal z with error e.
    gain_squared_error = np.sqrt(4.0 * np.square(gain * error) + 2.0 * error**4)
    verdicts = [
        _verdict("score gain", weights, gain, np.square(gain) - np.square(error), gain_squared_error, limit),
        _verdict("score bias", weights, bias, bias_squared, bias_squared_error, limit),
    ]
    if fidelity[0].condition_bias_squared is None:
        return verdicts
    for name in ("gain", "bias"):
        squares, errors = (
            np.array([getattr(stage, f"condition_{name}_{what}") for stage in fidelity], np.float64)
            for what in ("squared", "squared_error")
        )
        sizes = np.sqrt(np.maximum(squares, 0.0))
        verdicts.append(_verdict(f"score {name} by condition", weights, sizes, squares, errors, _WIDER * limit))
    return verdicts


def _verdict(
    metric: str, weights: np.ndarray, sizes: np.ndarray, squares: np.ndarray, errors: np.ndarray, limit: float
) -> MetricVerdict:
    """Args are [K] by stage: sizes to show, and their squares without what chance adds, with standard errors."""
    if not np.isfinite([sizes, squares, errors]).all():  # at a start, which has no weight, it is the end of a chain too
        nan = math.nan
        return MetricVerdict(metric, nan, limit, nan, nan, nan, 1.0, None, False, True, "the gradient is not finite")
    square = float(weights @ squares)
    spread = _NORMAL * math.sqrt(float(np.square(weights) @ np.square(errors)))
    size, low, high = (math.sqrt(max(0.0, part)) for part in (square, square - spread, max(0.0, square) + spread))
    passed = size <= limit
    worst = int(np.argmax(np.where(weights > 0.0, np.abs(sizes), 0.0)))
    return MetricVerdict(
        metric=metric,
        value=size,
        floor=limit,
        ratio=size / limit,
        low=low / limit,
        high=high / limit,
        limit=1.0,
        p_value=None,
        passed=passed,
        # Twice the limit must be out of reach of one that passes, the limit itself of one that fails.
        decided=high <= 2.0 * limit if passed else low > limit,
        note=f"largest at stage {worst}: {sizes[worst]:+.4f} of the gradient's rms",
    )
