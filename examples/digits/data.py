"""The real digits and the one split that training and judging share."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

__all__ = ["load_split"]

SPLIT_SEED = 0
HELD_OUT_FRACTION = 0.2
DARKEST = 16.0  # scikit-learn stores 0..16, the number of inked pixels in a 4x4 block of the original scan


def load_split() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read the digits and split them, the same way on every machine and every ten classes alike.

    Neither the energy model nor the judge ever sees the held-out part, so it can stand for "new real digits".

    Returns:
        train images [1437, 1, 8, 8] float32 in [-1, 1], train labels [1437] int64,
        held-out images [360, 1, 8, 8] float32 in [-1, 1], held-out labels [360] int64.
    """
    digits = load_digits()
    images = (digits.images[:, None] / (DARKEST / 2) - 1).astype(np.float32)  # [1797, 1, 8, 8]
    train_x, held_x, train_y, held_y = train_test_split(
        images, digits.target, test_size=HELD_OUT_FRACTION, stratify=digits.target, random_state=SPLIT_SEED
    )
    return train_x, train_y, held_x, held_y
