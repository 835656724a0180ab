"""Results as JSON can hold them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["json_values"]


def json_values(value: Any) -> Any:
    """Returns a copy of nested dictionaries and sequences in which numpy's numbers are Python's, and NaN and infinity None.

    JSON has no word for these two. Python writes NaN and Infinity all the same, and other readers then refuse the whole text.
    """
    if isinstance(value, dict):
        return {str(name): json_values(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [json_values(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
