from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from ebm_export.calibration.metrics.check import as_numbers, as_rows, check_width
from ebm_export.runtime.errors import UsageError


def test_numbers_and_rows_become_float64() -> None:
    assert as_numbers("energy", [1, 2]).dtype == np.float64
    rows = as_rows("x", np.zeros((3, 2, 4), np.float32))
    assert rows.shape == (3, 8)
    assert rows.dtype == np.float64


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: as_numbers("energy", np.zeros((2, 1))), r"energy: expected one real number per sample.*\[2, 1\]"),
        (lambda: as_numbers("energy", ["a"]), "energy: expected one real number"),
        (lambda: as_numbers("energy", [0.0, np.nan]), "energy: expected finite numbers, got NaN .* in 1 of 2 samples"),
        (lambda: as_numbers("energy", [1.0], 2), "energy: expected at least 2 samples, got 1"),
        (lambda: as_rows("x", np.zeros(3)), r"x: expected real numbers of shape \[N, \*S\]"),
        (lambda: as_rows("x", np.zeros((0, 3))), r"x: expected real numbers"),
        (lambda: as_rows("x", [[0.0, np.inf], [0.0, 1.0]]), "x: expected finite numbers.* in 1 of 2"),
        (
            lambda: check_width(("reference", np.zeros((2, 3))), ("candidate", np.zeros((2, 4)))),
            "candidate: expected 3 numbers per sample as reference has, got 4",
        ),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


@pytest.mark.parametrize("package", ["scipy", "sklearn"])
def test_a_missing_package_is_named_with_its_extra(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ebm_export.runtime.errors import MissingBackend\n"
        "try: import ebm_export.calibration.gate\n"
        f"except MissingBackend as error: assert {package!r} in str(error) and 'ebm-export[calibration]' in str(error)\n"
        "else: raise SystemExit('imported')"
    )
    # None in sys.modules raises ModuleNotFoundError with the name of the package, as a missing one does.
    subprocess.run([sys.executable, "-c", code], check=True)
