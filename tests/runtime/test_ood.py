"""Out-of-distribution scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, UsageError
from ebm_export.runtime.manifest import ModelSpec, TensorSpec
from ebm_export.runtime.ood import ood_scores

X = np.array([[0, 0], [3, 4]], np.float32)
BOWL = Ebm(
    FunctionEngine(lambda x: (0.5 * (x * x).sum(axis=1), x)), ModelSpec("bowl", TensorSpec("x", (2,), "float32"))
)


def test_energy_and_gradient() -> None:
    np.testing.assert_allclose(ood_scores(BOWL, X), [0, 12.5])
    np.testing.assert_allclose(ood_scores(BOWL, X, "gradient"), [0, 5])


def test_too_low_an_energy_is_not_typical_either() -> None:
    np.testing.assert_allclose(ood_scores(BOWL, X, "typicality", reference=[9, 11]), [10, 2.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "likelihood"}, "kind: expected one of energy, gradient, typicality, got 'likelihood'"),
        ({"kind": "typicality"}, "reference: expected energies .* got none with kind='typicality'"),
        ({"reference": [1]}, "and nothing elsewhere, got some with kind='energy'"),
        ({"kind": "typicality", "reference": []}, r"reference: expected finite energies \[M\], M at least 1"),
    ],
)
def test_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ood_scores(BOWL, X, **options)
