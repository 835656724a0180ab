from __future__ import annotations

import dataclasses

from ebm_export.calibration.report import table

from ..made_comparison import gate, made_comparison, no_floor, ratio


def test_a_row_for_each_engine() -> None:
    rows = {row["engine"]: row for row in table(made_comparison())}
    assert [row["gate"] for row in rows.values()] == ["reference", "passes", "FAILS", "FAILS", "broke off", "FAILS"]
    assert rows["int8 openvino"] == {
        "engine": "int8 openvino",
        "gate": "passes",
        "worst ratio": "1.18 Stein",
        "95 % interval": "1.06 to 1.42",
        "ms per step (batch 8)": "0.6 (0.57 to 0.72)",
        "speed": "3.3x",
        "MiB": "0.763",
        "front": "yes",
        "mJ per sample": "200",
        "blocks accepted": "0.934 (0.921 to 0.946)",
    }
    assert rows["fp16 onnxruntime"]["worst ratio"] == "-" and rows["fp16 onnxruntime"]["speed"] == "-"
    assert rows["ort static"]["blocks accepted"] == "-"
    assert len({tuple(row) for row in rows.values()}) == 1  # the same columns in every row


def test_an_infinite_ratio_is_no_missing_one() -> None:
    found = made_comparison()
    engine = dataclasses.replace(found.engines[1], gate=gate(no_floor("modes", 0.2), ratio("energy", 3.0)))
    row = table(dataclasses.replace(found, engines=(found.first, engine)))[1]
    assert (row["gate"], row["worst ratio"], row["95 % interval"]) == ("FAILS", "∞ modes", "∞ to ∞")


def test_where_nobody_asked_for_exact_sampling_there_is_no_column() -> None:
    found = made_comparison()
    engines = tuple(dataclasses.replace(engine, exact=None) for engine in found.engines)
    assert not any("blocks accepted" in row for row in table(dataclasses.replace(found, engines=engines)))
