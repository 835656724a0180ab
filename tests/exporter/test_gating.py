"""What an export judges."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebm_export.exporter.gating import gating_for


@pytest.mark.parametrize("name", ["m.ebm", "m[v2].ebm", "m?*.ebm"])
def test_logs_of_searches_that_ended_are_removed_and_no_others(tmp_path: Path, name: str) -> None:
    gating = gating_for(["mixed"], 1.25, smallest_difference=0.5, out=tmp_path / name)
    others = [tmp_path / "mv.ebm.search.onnx.jsonl", tmp_path / "m1.ebm.search.onnx.jsonl"]
    for log in [gating.log_of("onnx"), gating.log_of("openvino"), *others]:
        assert log is not None
        log.write_text("{}")
    gating.remove_logs()
    assert sorted(tmp_path.iterdir()) == sorted(others)
