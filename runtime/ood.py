"""How far samples are from what the energy was trained on.

Every score is higher for samples that are less like the training data:

    energy      E(x)                         Liu et al., "Energy-based out-of-distribution detection", NeurIPS 2020
    gradient    ||dE/dx(x)||_2               Grathwohl et al., "Your classifier is secretly an energy based model", ICLR 2020:
                                             their "approximate mass", with the sign turned; low in a mode
    typicality  |E(x) - mean of E over data| Nalisnick et al., "Detecting out-of-distribution inputs to deep generative models
                                             using typicality", 2019: an energy that is too low is suspicious as well
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

from .arguments import check_choice
from .ebm import Ebm
from .errors import UsageError
from .row_norms import square_sums

__all__ = ["Kind", "check_reference", "ood_scores", "scores_of"]

Kind = Literal["energy", "gradient", "typicality"]
"""Which of the scores at the top of this file."""


def ood_scores(
    ebm: Ebm,
    x: Any,
    /,
    kind: Kind = "energy",
    *,
    reference: Any = None,
    **cond: Any,
) -> np.ndarray:
    """Scores samples; higher is further out of the distribution.

    Args:
        ebm: the energy.
        x: [B, *S].
        kind: see `Kind`.
        reference: "typicality": [M] energies of data that is in the distribution, as `Ebm.score` gives them.
        **cond: conditioning arrays by name, as in `Ebm.score`.

    Returns:
        [B] float64; infinite where the energy or gradient is NaN, as for a state that is not finite: NaN is above no threshold.

    Raises:
        UsageError: an argument has a wrong name, type, shape or value.
    """
    check_reference(kind, reference)
    return scores_of(kind, *ebm.score(x, **cond), reference)


def check_reference(kind: Kind, reference: Any) -> None:
    """Raises a UsageError where there is no such kind, or the energies of known data are missing, of no use, or none.

    Args:
        kind: as in `ood_scores`.
        reference: as there; None where left out.
    """
    check_choice("kind", kind, get_args(Kind))
    if (reference is None) == (kind == "typicality"):
        raise UsageError(
            "reference: expected energies [M] of data in the distribution with kind='typicality', and nothing elsewhere, "
            f"got {'none' if reference is None else 'some'} with kind={kind!r}"
        )
    if reference is None:
        return
    typical = np.asarray(reference, dtype=np.float64)
    if typical.ndim != 1 or not typical.size or not np.isfinite(typical).all():
        raise UsageError(f"reference: expected finite energies [M], M at least 1, got an array {list(typical.shape)}")


def scores_of(kind: Kind, energy: np.ndarray, grad: np.ndarray, reference: Any = None) -> np.ndarray:
    """Returns what `ood_scores` does, of energies [B] and gradients [B, *S] that are known; the other arguments are checked already."""
    if kind == "energy":
        scores = energy.astype(np.float64)
    elif kind == "gradient":
        scores = np.sqrt(square_sums(grad))
    else:
        scores = np.abs(energy - np.asarray(reference, dtype=np.float64).mean())
    return np.where(np.isnan(scores), np.inf, scores)
