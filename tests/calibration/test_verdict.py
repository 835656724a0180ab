from __future__ import annotations

import json
import math

import pytest

from ebm_export.calibration.metrics.score_fidelity import StageFidelity
from ebm_export.calibration.verdict import GateResult, MetricVerdict


def result(**changes) -> GateResult:
    verdict = MetricVerdict("energy", 0.5, 0.0, math.inf, 1.0, math.inf, 1.25, None, False, True, "inf")
    stage = StageFidelity(1, 10, 0.9, 0.8, 0.01, 0.001, math.nan, 0.0, 0.1, 0.1, 64, 0.0, 0.0)
    values = {
        "passed": False,
        "decided": True,
        "verdicts": (verdict,),
        "fidelity": (stage,),
        "chains": 100,
        "subset": 6,
        "smallest_difference": 0.4,
        "gate": 1.25,
        "reason": "energy",
    }
    return GateResult(**{**values, **changes})


def test_goes_through_strict_json_and_back() -> None:
    text = json.dumps(result().to_dict(), allow_nan=False)
    back = GateResult.from_dict(json.loads(text))
    assert back.verdicts == result().verdicts
    assert math.isnan(back.fidelity[0].bias)
    assert back.verdicts[0].note == "inf"
    assert back.to_dict() == result().to_dict()


def test_an_unknown_entry_is_refused() -> None:
    with pytest.raises(TypeError, match="colour"):
        GateResult.from_dict({**result().to_dict(), "colour": 1})
