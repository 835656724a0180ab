"""A long run of the command that is killed with kill -9 again and again, beside the same one that nobody kills.

    python benchmarks/long_run.py --out long_run.json
    python benchmarks/long_run.py --chains 256 --steps 100000 --kills 5

A perceptron on two numbers, many chains, several steps in a call, states to a .npy file on the way, a checkpoint every ten seconds. First
the run that nobody kills. Then the one that is killed at moments that are drawn evenly from the time that the first took, and
begun again by the same words each time. Resident memory is read once a second, from /proc. Exit code 1 where a bit differs.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sampler_cases import Mlp

from ebm_export.exporter import export
from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.device import describe_device, toolchain

CODE = "from ebm_export.entry import ebm_run; ebm_run()"
SETTLED = 0.1
"""Share of a run after which its memory is looked at for growth: by then everything has been done once."""


class Process:
    """The command, from its beginning to its end or its kill.

    Args:
        words: what is typed after `ebm-run`.
        folder: in which.

    Attributes:
        begun: `time.time()` of its beginning.
        stepping: the same of its first step; None before.
        memory: pairs of a time and resident bytes, once a second from the first step on.
    """

    def __init__(self, words: list[str], folder: Path) -> None:
        self.begun = time.time()
        self.stepping: float | None = None
        self.memory: list[tuple[float, int]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", CODE, *words],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        """Passes on what the command says of its progress."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line == "sampling\n":
                self.stepping = time.time()
            sys.stderr.write(line)

    def run(self, until: float) -> bool:
        """Waits for its end, or kills it at a `time.time()`; returns whether it was killed.

        Raises:
            CalledProcessError: it failed.
        """
        while self._process.poll() is None:
            left = until - time.time()
            if left <= 0:
                self._process.kill()
                self._process.wait()
                break
            try:
                self._process.wait(min(1.0, left))
            except subprocess.TimeoutExpired:
                if self.stepping is not None:
                    self._look()
        self._reader.join()
        code = self._process.returncode
        if code not in (0, -signal.SIGKILL):
            raise subprocess.CalledProcessError(code, self._process.args)
        return code != 0

    def _look(self) -> None:
        try:
            lines = Path(f"/proc/{self._process.pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:  # it ended just now
            return
        found = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
        if found:
            self.memory.append((time.time(), 1024 * found[0]))


def whole(words: list[str], folder: Path, steps: int) -> dict[str, Any]:
    """Runs the command once, and returns its time, rate and memory."""
    process = Process(words, folder)
    process.run(float("inf"))
    ended = time.time()
    assert process.stepping is not None
    return {
        "seconds": ended - process.begun,
        "steps per second": steps / (ended - process.stepping),
        **growth(process.memory),
    }


def growth(memory: list[tuple[float, int]]) -> dict[str, float]:
    """Memory of a process at the first and last look, and from five minutes on the slope of the line through all after it has settled."""
    if len(memory) < 3:
        return {}
    times, sizes = (np.array(column, np.float64) for column in zip(*memory, strict=True))
    late = times >= times[0] + SETTLED * (times[-1] - times[0])
    hours = (times[late] - times[0]) / 3600
    slope = np.polyfit(hours, sizes[late] / 1024, 1)[0] if times[-1] - times[0] >= 300 else np.nan
    found = {
        "MiB at the start": sizes[0] / 2**20,
        "MiB when settled": sizes[late][0] / 2**20,
        "MiB at the end": sizes[-1] / 2**20,
        "KiB per hour": round(float(slope), 1) or 0.0,  # and not -0.0
    }
    return {name: value for name, value in found.items() if np.isfinite(value)}


def killed(words: list[str], folder: Path, seconds: float, kills: int) -> dict[str, Any]:
    """Runs the command to its end with kills on the way.

    Args:
        words: what is typed after `ebm-run`.
        folder: in which.
        seconds: that the run takes without a kill, from which their moments are drawn.
        kills: number of them.
    """
    chance = random.Random(0)
    begun = time.time()
    moments = sorted(begun + chance.uniform(0, seconds) for _ in range(kills))
    checkpoint = folder / "run.ckpt"
    starting, again, counts, sizes, peaks = 0.0, 0.0, {"stepping": 0, "saving": 0}, [], []
    for number, moment in enumerate([*moments, float("inf")], 1):
        process = Process(words, folder)
        if not process.run(moment):
            break
        now = time.time()
        starting += (process.stepping or now) - process.begun
        print(f"kill {number} of {kills}, after {now - begun:.0f} s", file=sys.stderr)
        counts["saving"] += any(folder.glob("run.ckpt.*.partial"))
        if process.stepping is not None:
            counts["stepping"] += 1
            saved = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
            again += now - max(saved, process.stepping)
        if checkpoint.exists():
            sizes.append(checkpoint.stat().st_size)
        peaks += [size for _, size in process.memory]
    peaks += [size for _, size in process.memory]
    return {
        "seconds": time.time() - begun,
        "kills": number - 1,
        "kills while steps were taken": counts["stepping"],
        "kills while a checkpoint was written": counts["saving"],
        "seconds of work done again": again,
        "seconds of starting again": starting,
        "MiB at most": max(peaks, default=0) / 2**20,
        "bytes of the checkpoint": max(sizes, default=0),
    }


def main() -> None:
    """Runs, compares, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--every", type=int, default=100, help="steps between two rows of the file of states")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--width", type=int, default=16, help="of both hidden layers")
    parser.add_argument("--fuse", type=int, default=16, help="steps in one call")
    parser.add_argument("--backend", choices=("openvino", "onnxruntime"), default="openvino")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--folder", type=Path, help="an empty one on the disk that is to be written to; a temporary one if left out"
    )
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made).resolve()  # commands run in other folders
        bundle = export(
            Mlp(options.width).eval(),
            torch.rand(2, 2),
            out=folder / "mlp.ebm",
            targets=[options.backend],
            sampler=SamplerConfig(step_size=0.01, bounds=(-4, 4)),
            fuse=options.fuse,
        )
        given = {"-n": options.chains, "--steps": options.steps, "--every": options.every, "--threads": options.threads}
        files = ("--out", "samples.npy", "--states", "states.npy", "--checkpoint", "run.ckpt")
        words = ["sample", str(bundle), "--fuse", *files, *(str(word) for pair in given.items() for word in pair)]
        one, other = folder / "whole", folder / "killed"
        one.mkdir()
        other.mkdir()
        undisturbed = whole(words, one, options.steps)
        print(json.dumps(undisturbed), file=sys.stderr)
        disturbed = killed(words, other, undisturbed["seconds"], options.kills)
        names = ("samples.npy", "states.npy")
        result: dict[str, Any] = {
            **{name: value for name, value in vars(options).items() if name not in ("out", "folder")},
            "undisturbed": undisturbed,
            "killed": disturbed,
            "bytes": {name: (one / name).stat().st_size for name in names},
            "same bits": {name: filecmp.cmp(one / name, other / name, shallow=False) for name in names},
            "left behind": sorted(file.name for file in other.iterdir() if file.name not in names),
        }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        result = {"device": describe_device(), "toolchain": toolchain(), **result}
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(result["same bits"].values()) else 1)


if __name__ == "__main__":
    main()
