"""Exports the digits model to every target and precision, then draws from it with the runtime.

What `make demo` runs. Everything is written to the folder `demo`: the bundles, a thousand samples, and pictures.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TARGETS = ("onnx", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("fp32", "fp16", "bf16")


def run(command: str, *arguments: str) -> None:
    """Shows a command as one would type it, and runs the one beside this Python."""
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    subprocess.run([str(Path(sys.executable).parent / command), *arguments], check=True)


def picture(samples: np.ndarray, path: Path, columns: int = 20, rows: int = 5, scale: int = 5) -> None:
    """Tiles the first samples [N, 1, 8, 8] in [-1, 1] into one PNG."""
    tiles = np.pad(samples[: rows * columns, 0], ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    grid = tiles.reshape(rows, columns, 10, 10).swapaxes(1, 2).reshape(rows * 10, columns * 10)
    grey = np.round((1 - grid) * 127.5).clip(0, 255).astype(np.uint8)  # dark strokes on white paper
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grey).resize((columns * 10 * scale, rows * 10 * scale), Image.Resampling.NEAREST).save(path)


def main() -> None:
    """Runs the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "demo", help="folder to write to")
    parser.add_argument("--samples", type=int, default=1000, help="number of samples to draw and judge")
    options = parser.parse_args()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    bundle, drawn, image = out / "digits.ebm", out / "samples.npy", out / "samples.png"

    flags = [flag for target in TARGETS for flag in ("--target", target)]
    flags += [flag for precision in PRECISIONS for flag in ("--precision", precision)]
    # The gate is shown further down, where it judges INT8; here it would take a minute.
    run("ebm-export", str(HERE / "model.pt"), *flags, "--no-gate", "--out", str(bundle))
    run("ebm-run", "verify", str(bundle))
    # A process without torch: ebm-run imports numpy and the engine.
    run("ebm-run", "sample", str(bundle), "-n", str(options.samples), "--out", str(drawn))

    picture(np.load(drawn), image)
    judge = HERE / "judge.py"
    print(f"\n$ python {judge.relative_to(ROOT)} {drawn}", flush=True)
    subprocess.run([sys.executable, str(judge), str(drawn)], check=True)
    print(f"\nthe first samples, as drawn: {image}")

    # INT8, kept only if its samples pass the quality gate; few chains, so that a demo stays short.
    quantized, side = out / "digits-int8.ebm", out / "fp32-int8.png"
    gate = ("--precision", "fp32", "--precision", "int8", "--smallest-difference", "0.3")
    run("ebm-export", str(HERE / "model.pt"), "--target", "openvino", *gate, "--out", str(quantized))
    sets = []
    for precision in ("fp32", "int8"):
        file = out / f"{precision}.npy"
        run("ebm-run", "sample", str(quantized), "-n", "50", "--precision", precision, "--out", str(file))
        sets.append(np.load(file))
    rows = [half[10 * row : 10 * row + 10] for row in range(5) for half in sets]
    picture(np.concatenate(rows), side)
    print(f"\nthe same noise in FP32, left, and INT8, right: {side}")


if __name__ == "__main__":
    main()
