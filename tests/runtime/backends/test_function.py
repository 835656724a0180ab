"""The engine made of a Python function."""

from __future__ import annotations

import numpy as np

from ebm_export.runtime import FunctionEngine


def test_scales_the_gradient_and_returns_float32() -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    engine = FunctionEngine(lambda x, shift: (x.sum((1, 2), dtype=np.float64), np.ones(x.shape) + shift[:, :, None]))
    with engine:
        answer = engine.run({"x": x, "shift": np.ones((2, 1), np.float32), "grad_scale": np.array([2, 3], np.float32)})
    np.testing.assert_array_equal(answer["energy"], [6, 22])
    np.testing.assert_array_equal(answer["grad"][:, 0, 0], [4, 6])
    assert answer["energy"].dtype == answer["grad"].dtype == np.float32
