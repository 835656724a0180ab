"""How well the energy tells data from what is no data."""

from __future__ import annotations

from typing import Any

import numpy as np

from .check import as_numbers
from .scientific import roc_auc_score

__all__ = ["ood_auroc"]


def ood_auroc(inside: Any, outside: Any) -> float:
    """Returns the chance that a sample from outside has a higher energy than one from inside (scikit-learn's AUROC).

    Args:
        inside: [N] energies of data that the model was trained for, N at least 1.
        outside: [M] energies of other data.

    Returns:
        0 to 1, 1 is best, 0.5 is guessing; equal energies count one half, so constant energies give 0.5.

    Raises:
        UsageError: another shape, no samples, or an energy that is not finite.
    """
    first, second = as_numbers("inside", inside), as_numbers("outside", outside)
    truth = np.concatenate([np.zeros(len(first)), np.ones(len(second))])
    return float(roc_auc_score(truth, np.concatenate([first, second])))
