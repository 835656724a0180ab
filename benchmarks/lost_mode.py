"""What the gate says of samples that have lost a digit: a mode that lies beside others.

    ebm-export examples/digits/model.pt --target openvino --precision fp32 --out digits.ebm
    python benchmarks/lost_mode.py digits.ebm

Draws FP32 samples of the digits, labels them by the example's classifiers, and judges pairs of disjoint sets of them, of which the second has
lost one digit; then pairs that have lost none. Counted are the verdicts on rare modes: refused, open (more chains are drawn then) and passed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from ebm_export.calibration.gate import judge
from ebm_export.calibration.sample_set import SampleSet
from ebm_export.runtime import load

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
from judge import label


def main() -> None:
    """Draws, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--samples", type=int, default=4400)
    parser.add_argument("--splits", type=int, default=6)
    parser.add_argument("--chains", type=int, action="append", help="in each set; 800 and 1600 if left out")
    parser.add_argument("--digit", type=int, action="append", help="that is lost; each in turn, then none, if left out")
    options = parser.parse_args()
    with load(options.bundle, precision="fp32") as ebm:
        x = ebm.sample(options.samples, seed=0)
    digits, random = label(x), np.random.default_rng(0)
    for chains in options.chains or (800, 1600):
        for lost in options.digit or (*range(10), None):
            found: Counter[str] = Counter()
            for _ in range(options.splits):
                order = random.permutation(len(x))
                rest = order[chains:]
                kept = rest if lost is None else rest[digits[rest] != lost]
                sets = [SampleSet(x[own], np.zeros(len(own))) for own in (order[:chains], kept[:chains])]
                (verdict,) = judge(*sets, [], metrics=["rare modes"]).verdicts
                found[
                    "refused" if not verdict.passed and verdict.decided else "passed" if verdict.decided else "open"
                ] += 1
            share = f"{np.mean(digits == lost):.1%} of the samples" if lost is not None else ""
            print(f"{chains} chains, lost: {'none' if lost is None else lost}  {dict(found)}  {share}", flush=True)


if __name__ == "__main__":
    main()
