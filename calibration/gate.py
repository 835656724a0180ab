"""The gate: an engine passes when its samples are as close to FP32 samples as FP32 samples are to each other."""

from __future__ import annotations

from .chain_plan import ChainPlan, plan_chains
from .verdict import GateResult, MetricVerdict

__all__ = ["ChainPlan", "GateResult", "MetricVerdict", "plan_chains"]
