"""Judge samples with a classifier trained on the real digits, and look for memorised training images.

    python judge.py samples.npy            # table
    python judge.py samples.npy --json     # the same numbers for a machine

The judge is fixed before any sample is seen: its settings come from its own held-out accuracy on real digits.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from data import load_split
from sklearn.calibration import CalibratedClassifierCV
from sklearn.svm import SVC

__all__ = ["judge", "reference_figures"]

CONFIDENT = 0.8  # a sample counts when the probability of its most likely digit is above this
NOISE_SEED = 0
NOISE_COUNT = 1000


@functools.cache
def _classifier() -> CalibratedClassifierCV:
    """Support vector machine on the training digits; temperature scaling, cross-fitted, makes its scores probabilities."""
    train_x, train_y, _, _ = load_split()
    machine = SVC(C=10.0, gamma="scale", random_state=0)
    return CalibratedClassifierCV(machine, method="temperature", cv=5, ensemble=True).fit(_flat(train_x), train_y)


def _flat(images: np.ndarray) -> np.ndarray:
    """Images [N, 1, 8, 8] as rows [N, 64] float64, clipped to the range that an image has."""
    return np.clip(images.reshape(len(images), -1).astype(np.float64), -1, 1)


def _nearest(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distance [N] from each of rows [N, 64] to the nearest of others [M, 64]."""
    squared = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T
    return np.sqrt(np.maximum(squared.min(1), 0))


def _quartiles(values: np.ndarray) -> list[float]:
    """The 5%, 25%, 50%, 75% and 95% points of values [N]."""
    return [round(float(q), 4) for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95])]


def _confidence(images: np.ndarray) -> np.ndarray:
    """Probabilities [N, 10] that the judge gives to images [N, 1, 8, 8]."""
    return _classifier().predict_proba(_flat(images))


@functools.cache
def reference_figures() -> dict[str, Any]:
    """What the judge says of things whose answer is known: held-out real digits and pure noise.

    Returns:
        accuracy: share of held-out digits named rightly. calibration_error: expected calibration error over ten bins of
        confidence, 0 is best. real_confident, noise_confident: share with a confidence above 0.8 among held-out digits and
        among uniform noise over [-1, 1]. real_nearest: quantiles of the distance from a held-out digit to the training set.
    """
    train_x, _, held_x, held_y = load_split()
    probability = _confidence(held_x)
    top, right = probability.max(1), probability.argmax(1) == held_y
    bins = np.minimum((top * 10).astype(int), 9)
    error = sum(abs(top[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    noise = np.random.default_rng(NOISE_SEED).uniform(-1, 1, (NOISE_COUNT, 1, 8, 8))
    return {
        "accuracy": float(right.mean()),
        "calibration_error": float(error),
        "real_confident": float((top > CONFIDENT).mean()),
        "noise_confident": float((_confidence(noise).max(1) > CONFIDENT).mean()),
        "real_nearest": _quartiles(_nearest(_flat(held_x), _flat(train_x))),
    }


def judge(samples: np.ndarray) -> dict[str, Any]:
    """Judge a batch of samples; all of them count, none is left out.

    Args:
        samples: [N, 1, 8, 8] float, any range; clipped to [-1, 1] here as a picture would be.

    Returns:
        samples: N. confident: share classified with a confidence above 0.8, higher is better. digits: share of each digit
        among the confident ones, ten numbers. nearest: quantiles (5, 25, 50, 75, 95%) of the distance to the training set;
        far below real_nearest would mean memorised images, far above it images unlike any digit. reference: see
        `reference_figures`. non_finite samples count as not confident.
    """
    if samples.ndim != 4 or samples.shape[1:] != (1, 8, 8) or len(samples) == 0:
        raise ValueError(f"samples: expected an array [N, 1, 8, 8] with N > 0, got {samples.dtype} {samples.shape}")
    finite = np.isfinite(samples).all((1, 2, 3))
    kept = samples[finite]
    probability = _confidence(kept)
    confident = probability.max(1) > CONFIDENT
    counts = np.bincount(probability.argmax(1)[confident], minlength=10)
    train_x = load_split()[0]
    return {
        "samples": len(samples),
        "non_finite": int((~finite).sum()),
        "confident": float(confident.sum() / len(samples)),
        "digits": [round(float(c), 4) for c in counts / max(counts.sum(), 1)],
        "nearest": _quartiles(_nearest(_flat(kept), _flat(train_x))),
        "reference": reference_figures(),
    }


def main() -> None:
    """Read the samples named on the command line and print what the judge says."""
    parser = argparse.ArgumentParser(description="Judge digit samples with a classifier trained on real digits.")
    parser.add_argument("samples", type=Path, help=".npy file, [N, 1, 8, 8] float32")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    arguments = parser.parse_args()
    verdict = judge(np.load(arguments.samples))
    if arguments.json:
        print(json.dumps(verdict))
        return
    reference = verdict["reference"]
    print(
        f"judge: accuracy {reference['accuracy']:.3f} on held-out digits, calibration error {reference['calibration_error']:.3f}"
    )
    print(
        f"confident (> {CONFIDENT}): samples {verdict['confident']:.3f}   held-out real digits {reference['real_confident']:.3f}   "
        f"noise {reference['noise_confident']:.3f}"
    )
    print("digit      " + "".join(f"{digit:>7}" for digit in range(10)))
    print("share      " + "".join(f"{share:7.3f}" for share in verdict["digits"]))
    print("distance to the nearest training image (5, 25, 50, 75, 95%)")
    print("  samples     " + "".join(f"{q:7.2f}" for q in verdict["nearest"]))
    print("  held-out    " + "".join(f"{q:7.2f}" for q in reference["real_nearest"]))


if __name__ == "__main__":
    main()
