"""Times convolutions with few output channels on OpenVINO, as one and as the three that an export writes for one.

    python benchmarks/few_outputs.py

In float32, in turns, with one thread. In all times is a relu, and what puts x into the layout that convolutions want.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ebm_export.exporter.passes.few_outputs import SplitFewOutputs
from ebm_export.runtime.backends.openvino import OpenVinoEngine

CASES = [  # batch, channels, outputs, window, pixels along each side
    (8, 128, 3, 3, 32),
    (64, 32, 1, 3, 8),
    (1, 128, 3, 3, 128),
    (8, 64, 1, 5, 28),
]


def model_of(channels: int, outputs: int, window: int) -> ir.Model:
    """y = Conv(relu(x))."""
    pads, generator = [window // 2] * 4, np.random.default_rng(0)
    text = f"g (float[B, {channels}, H, W] x) => (float[B, {outputs}, H, W] y) {{ a = Relu(x) y = Conv<pads = {pads}>(a, k) }}"
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    weights = generator.standard_normal((outputs, channels, window, window)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "k"))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def times(models: dict[str, ir.Model], x: np.ndarray, rounds: int) -> dict[str, float]:
    """Median milliseconds of a call."""
    found: dict[str, list[float]] = {name: [] for name in models}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = {}
        for name, model in models.items():
            path = Path(folder) / f"{name}.onnx"
            onnx.save(ir.to_proto(model), path)
            engines[name] = stack.enter_context(OpenVinoEngine(path, precision="fp32", threads=1))
        for number in range(rounds + 3):
            for name, engine in engines.items():
                engine.run({"x": x})  # so that each finds its own data in the caches
                begun = time.perf_counter()
                engine.run({"x": x})
                if number >= 3:
                    found[name].append(1e3 * (time.perf_counter() - begun))
    return {name: statistics.median(each) for name, each in found.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    options = parser.parse_args()
    print(
        "| batch, channels, outputs, window, pixels | one, ms | three, ms | times as fast |\n| --- | ---: | ---: | ---: |"
    )
    for batch, channels, outputs, window, pixels in CASES:
        x = np.random.default_rng(1).standard_normal((batch, channels, pixels, pixels)).astype(np.float32)
        parts = model_of(channels, outputs, window)
        assert SplitFewOutputs()(parts).modified
        found = times({"one": model_of(channels, outputs, window), "three": parts}, x, options.rounds)
        print(
            f"| {batch}, {channels}, {outputs}, {window}x{window}, {pixels}x{pixels} | {found['one']:.2f} | {found['three']:.2f} "
            f"| {found['one'] / found['three']:.2f} |"
        )


if __name__ == "__main__":
    main()
