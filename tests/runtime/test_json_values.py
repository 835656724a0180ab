"""Results as JSON can hold them."""

from __future__ import annotations

import json
import math

import numpy as np

from ebm_export.runtime.json_values import json_values


def test_numbers_that_json_does_not_have_are_null() -> None:
    said = {"a": [1.5, math.nan, (math.inf, -math.inf)], "b": {"c": np.float32(np.nan), "d": np.float64(0.5)}}
    assert json_values(said) == {"a": [1.5, None, [None, None]], "b": {"c": None, "d": 0.5}}


def test_everything_else_stays() -> None:
    said = {"text": "nan", "none": None, "flag": True, "whole": np.int64(3), "empty": []}
    assert json.dumps(json_values(said), allow_nan=False) == (
        '{"text": "nan", "none": null, "flag": true, "whole": 3, "empty": []}'
    )
