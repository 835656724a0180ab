"""Judge samples with classifiers trained on the real digits, and look for memorised training images.

    python judge.py samples.npy            # table
    python judge.py samples.npy --json     # the same numbers for a machine

Two classifiers of different kinds, a support vector machine and a forest, each made into probabilities by temperature scaling,
and the mean of both, which is the judge. The machine alone is the better reader of real digits, but it is also sure of one in
three images of pure noise; the forest is not. What the judge says of noise, of a Gaussian with the digits' mean and covariance and
of digits laid over each other is printed beside what it says of the samples, as the share that a poor model would get.
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
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.svm import SVC

__all__ = ["judge", "label", "reference_figures"]

CONFIDENT = 0.8  # a sample counts when the probability of its most likely digit is above this
DECOYS = 1000  # images of each kind that are no digits
DECOY_SEED = 0
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def _flat(images: np.ndarray) -> np.ndarray:
    """Images [N, 1, 8, 8] as rows [N, 64] float64, clipped to the range that an image has."""
    return np.clip(images.reshape(len(images), -1).astype(np.float64), -1, 1)


@functools.cache
def _classifiers() -> dict[str, CalibratedClassifierCV]:
    """Both classifiers, fitted to the training digits; each temperature is found on folds its classifier has not seen."""
    train_x, train_y, _, _ = load_split()
    plain = {
        "machine": SVC(C=10.0, gamma="scale"),
        "forest": ExtraTreesClassifier(300, random_state=0),
    }
    return {
        name: CalibratedClassifierCV(model, method="temperature", cv=5).fit(_flat(train_x), train_y)
        for name, model in plain.items()
    }


def _probabilities(rows: np.ndarray) -> dict[str, np.ndarray]:
    """Probabilities [N, 10] of the digits for rows [N, 64], by each classifier and by "judge", their mean."""
    found = {name: model.predict_proba(rows) for name, model in _classifiers().items()}
    found["judge"] = np.mean(list(found.values()), axis=0)
    return found


def _confident(probability: np.ndarray) -> float:
    """Share of rows of probability [N, 10] whose largest entry is above CONFIDENT."""
    return float((probability.max(1) > CONFIDENT).mean())


def _calibration_error(probability: np.ndarray, label: np.ndarray) -> float:
    """Expected calibration error: |mean confidence - accuracy| over ten bins of confidence, weighted by their sizes.

    In [0, 1], lower is better. With 360 images a perfectly calibrated classifier still shows about 0.01.
    """
    top, right = probability.max(1), probability.argmax(1) == label
    bins = np.minimum((top * 10).astype(int), 9)
    return float(
        sum(abs(top[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins))
    )


def _nearest(rows: np.ndarray, others: np.ndarray) -> list[float]:
    """QUANTILES of the Euclidean distances from rows [N, 64] to the nearest of others [M, 64]; pixels span -1..1."""
    squared = (rows**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * rows @ others.T
    return [round(float(q), 4) for q in np.quantile(np.sqrt(np.maximum(squared.min(1), 0)), QUANTILES)]


def _decoys() -> dict[str, np.ndarray]:
    """Images that are no digits, rows [DECOYS, 64] of each kind."""
    train_x, train_y, _, _ = load_split()
    real, rng = _flat(train_x), np.random.default_rng(DECOY_SEED)
    pairs = rng.integers(len(real), size=(20 * DECOYS, 2))
    first, second = pairs[train_y[pairs[:, 0]] != train_y[pairs[:, 1]]][:DECOYS].T
    return {
        "noise": rng.uniform(-1, 1, (DECOYS, 64)),
        "gaussian": np.clip(rng.multivariate_normal(real.mean(0), np.cov(real.T), DECOYS), -1, 1),
        "blends": (real[first] + real[second]) / 2,
    }


@functools.cache
def reference_figures() -> dict[str, Any]:
    """What the judge says of images whose nature is known.

    Returns:
        accuracy and calibration_error: on the 360 held-out digits, by classifier. confident: share above 0.8 by kind of image
        (real: the held-out digits; noise: uniform; gaussian: mean and covariance of the digits; blends: the mean of
        two different digits) and by classifier. nearest: quantiles of the distance from a held-out digit to the training set.
    """
    train_x, _, held_x, held_y = load_split()
    kinds = {"real": _flat(held_x)} | _decoys()
    by_kind = {kind: _probabilities(rows) for kind, rows in kinds.items()}
    real = by_kind["real"]
    return {
        "accuracy": {name: float((p.argmax(1) == held_y).mean()) for name, p in real.items()},
        "calibration_error": {name: round(_calibration_error(p, held_y), 4) for name, p in real.items()},
        "confident": {kind: {name: _confident(p) for name, p in found.items()} for kind, found in by_kind.items()},
        "nearest": _nearest(kinds["real"], _flat(train_x)),
    }


def label(samples: np.ndarray) -> np.ndarray:
    """Returns [N] int, the likeliest digit of each sample [N, 1, 8, 8], by the mean of both classifiers."""
    return np.asarray(_probabilities(_flat(samples))["judge"].argmax(1))


def judge(samples: np.ndarray) -> dict[str, Any]:
    """Judge a batch of samples; all of them count, none is left out.

    Args:
        samples: [N, 1, 8, 8] float, any range; clipped to [-1, 1] here as a picture would be.

    Returns:
        samples: N. confident: share with a confidence above 0.8 by classifier, "judge" being the one to quote; higher is
        better, and `reference` says what real digits get. digits: share of each digit among the confident ones, ten numbers.
        nearest: quantiles (5, 25, 50, 75, 95%) of the distance to the training set; far below those in
        `reference` would mean memorised images, far above them images unlike any digit. reference: see `reference_figures`.

    Raises:
        ValueError: the array has another shape, is empty, or holds a value that is not finite.
    """
    if samples.ndim != 4 or samples.shape[1:] != (1, 8, 8) or len(samples) == 0:
        raise ValueError(f"samples: expected an array [N, 1, 8, 8] with N > 0, got {samples.dtype} {samples.shape}")
    lost = int((~np.isfinite(samples)).any((1, 2, 3)).sum())
    if lost:
        raise ValueError(
            f"samples: {lost} of {len(samples)} hold NaN or infinity: the chain diverged, lower its step size"
        )
    rows = _flat(samples)
    found = _probabilities(rows)
    sure = found["judge"].max(1) > CONFIDENT
    counts = np.bincount(found["judge"].argmax(1)[sure], minlength=10)
    return {
        "samples": len(samples),
        "confident": {name: _confident(p) for name, p in found.items()},
        "digits": [round(float(c), 4) for c in counts / max(int(counts.sum()), 1)],
        "nearest": _nearest(rows, _flat(load_split()[0])),
        "reference": reference_figures(),
    }


def _table(verdict: dict[str, Any]) -> str:
    """The figures of `judge` as lines for a reader."""
    reference = verdict["reference"]
    names = list(verdict["confident"])
    lines = [f"{'':34}" + "".join(f"{name:>9}" for name in names)]
    rows = [("accuracy on held-out digits", reference["accuracy"])]
    rows += [("calibration error", reference["calibration_error"])]
    rows += [(f"confident > {CONFIDENT}: {verdict['samples']} samples", verdict["confident"])]
    rows += [(f"confident > {CONFIDENT}: {kind}", found) for kind, found in reference["confident"].items()]
    lines += [f"{title:34}" + "".join(f"{found[name]:9.3f}" for name in names) for title, found in rows]
    lines += ["", f"{'digit':34}" + "".join(f"{digit:>7}" for digit in range(10))]
    lines += [f"{'share of the confident samples':34}" + "".join(f"{share:7.3f}" for share in verdict["digits"])]
    lines += ["", f"{'nearest training image':34}" + "".join(f"{q:>7.0%}" for q in QUANTILES)]
    for title, found in (("samples", verdict["nearest"]), ("held-out digits", reference["nearest"])):
        lines += [f"{title:34}" + "".join(f"{distance:7.2f}" for distance in found)]
    return "\n".join(lines)


def main() -> None:
    """Read the samples named on the command line and print what the judge says."""
    parser = argparse.ArgumentParser(description="Judge digit samples with classifiers trained on real digits.")
    parser.add_argument("samples", type=Path, help=".npy file, [N, 1, 8, 8] float32")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object")
    arguments = parser.parse_args()
    verdict = judge(np.load(arguments.samples, allow_pickle=False))
    print(json.dumps(verdict) if arguments.json else _table(verdict))


if __name__ == "__main__":
    main()
