"""Target tensorrt: a real plan for every precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebm_export.exporter.targets.tensorrt import available, write
from ebm_export.runtime import tensorrt_library
from ebm_export.runtime.errors import MissingBackend
from ebm_export.runtime.tensorrt_library import fingerprint

BATCH = (1, 4, 8)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_builds_a_plan(tmp_path: Path, score_graph: Any, precision: str) -> None:
    steps: list[tuple[str, int, int]] = []
    entry = write(
        score_graph(precision),
        tmp_path,
        precision=precision,
        batch=BATCH,
        progress=lambda *step: steps.append(step),
    )
    assert entry["path"] == f"score.{precision}.tensorrt.plan"
    assert (tmp_path / entry["path"]).stat().st_size > 1000
    assert (entry["status"], entry["options"]) == ("built, not run", {"batch": list(BATCH)})
    assert entry["toolchain"][fingerprint().library] == fingerprint().version
    assert steps


def test_available(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, score_graph: Any) -> None:
    assert available() is None
    monkeypatch.setattr(tensorrt_library, "_MODULES", ("a_package_nobody_has",))
    assert "target 'tensorrt' cannot be written: neither" in str(available())
    with pytest.raises(MissingBackend, match=r"ebm-export\[tensorrt-rtx\]"):
        write(score_graph("fp32"), tmp_path, precision="fp32", batch=BATCH)
    assert not list(tmp_path.iterdir())
