"""What a device pays before its first sample: seconds, memory, and the size of what is installed.

    python benchmarks/first_sample.py BUNDLE --out result.json

Makes a virtual environment with this package's base alone (numpy and onnxruntime) and starts a process in it that imports the
runtime, loads the bundle on onnxruntime and draws one sample, several times. The time is from the start of the process to its end.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CODE = """
import sys
from ebm_export.runtime import load
with load(sys.argv[1], backend="onnxruntime") as ebm:
    ebm.sample(1, 0)
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
"""


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    root = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
        python = home / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
        install = [*pip, "--constraint", str(root / "constraints.txt"), str(root)]
        subprocess.run(install, check=True)
        packages = next((home / "lib").glob("python*/site-packages"))
        size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file() and not file.is_symlink())
        seconds, peaks = [], []
        for _ in range(options.rounds + 1):
            begun = time.perf_counter()
            told = subprocess.run(
                [str(python), "-c", CODE, str(options.bundle.resolve())],
                capture_output=True,
                text=True,
                check=True,
                cwd=folder,
            )
            seconds.append(time.perf_counter() - begun)
            peaks.append(int(told.stdout) / 1024)
    result = {
        "seconds": statistics.median(seconds[1:]),  # the first one compiles Python's files
        "peak_mb": max(peaks),
        "site_packages_mb": size / 1e6,
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
