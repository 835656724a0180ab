"""What the classifiers say of FP32's digits and of INT8's, seed by seed.

    python examples/digits/seed_by_seed.py digits.ebm

The bundle holds both precisions. Samples of each seed are judged as judge.py does. What is to be read is whether the precisions
differ by more than the seeds of one of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from judge import judge

from ebm_export.runtime import load

PRECISIONS = ("fp32", "int8")
TITLES = {"judge": "judge, the mean of both", "machine": "support vector machine alone", "forest": "forest alone"}


def verdicts(bundle: Path, *, seeds: int, samples: int, backend: str) -> dict[str, list[dict[str, Any]]]:
    """What `judge.judge` says of each precision's samples, one entry for each of the seeds from 0."""
    found = {}
    for precision in PRECISIONS:
        with load(bundle, backend=backend, precision=precision) as ebm:
            found[precision] = [judge(ebm.sample(samples, seed=seed)) for seed in range(seeds)]
    return found


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """A row for each classifier's share of confident samples, and one for the rarest digit's share of these."""
    rows = {
        title: [", ".join(f"{one['confident'][name]:.3f}" for one in each) for each in found.values()]
        for name, title in TITLES.items()
    }
    rows["the rarest digit"] = [
        ", ".join(f"{100 * min(one['digits']):.1f}" for one in each) + " %" for each in found.values()
    ]
    lines = [["", *(name.upper() for name in found)], ["---"] * (1 + len(found))]
    lines += [[title, *cells] for title, cells in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Draws, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", default="openvino")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000, help="for each seed and precision")
    parser.add_argument("--json", action="store_true", help="print all that the judge says as one JSON object")
    options = parser.parse_args()
    found = verdicts(options.bundle, seeds=options.seeds, samples=options.samples, backend=options.backend)
    print(json.dumps(found) if options.json else table(found))


if __name__ == "__main__":
    main()
