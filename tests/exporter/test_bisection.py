"""The search for the first wrong operation of a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from ebm_export.exporter.bisection import bisect, values_in_float64
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.passes import optimize
from ebm_export.exporter.score_graph import ScoreGraph
from ebm_export.exporter.trace import trace
from tests.calibration.quantization.graphs import run


def well(x: torch.Tensor) -> torch.Tensor:
    """Its gradient is a difference of two large numbers, which is next to nothing beside x = 1."""
    return (torch.exp(x) - torch.e * x).sum(1)


@pytest.fixture(scope="module")
def made() -> tuple[ScoreGraph, ir.Model]:
    traced = trace(make_energy(well, torch.zeros(2, 3)))
    model = lower(traced, "well")
    optimize(model)
    return traced, model


def inputs(traced: ScoreGraph) -> dict[str, np.ndarray]:
    x = np.full((traced.batch, 3), 3.0, np.float32)
    x[0] = 1.000001
    return {"x": x, "grad_scale": np.ones(traced.batch, np.float32)}


def test_what_is_left_of_a_gradient_at_a_minimum_is_no_difference(made) -> None:
    traced, model = made
    states = inputs(traced)
    assert bisect(model, traced, states, lambda piece: run(piece, states)["grad"], 1e-3) is None


def test_a_wrong_operation_is_found_all_the_same(made) -> None:
    traced, model = made
    states = inputs(traced)

    def wrong(piece: ir.Model) -> np.ndarray:
        for node in piece.graph:
            if node.op_type == "Exp":
                scaled = ir.node("Neg", [node.outputs[0]])
                ir.convenience.replace_all_uses_with(node.outputs[0], scaled.outputs[0])
                scaled.replace_input_with(0, node.outputs[0])
                piece.graph.insert_after(node, scaled)
        return run(piece, states)["grad"]

    found = bisect(model, traced, states, wrong, 1e-3)
    assert found is not None and "aten.exp" in found.origin
    assert found.relative_error == pytest.approx(2.0, rel=1e-3)


@pytest.mark.parametrize(
    "rows",
    [lambda x: torch.full((x.shape[0], 3), 0.3), lambda x: torch.arange(3).expand(x.shape[0], 3) / 7],
    ids=["full", "quotient"],
)
def test_numbers_that_are_made_in_float32_go_with_those_of_float64(rows) -> None:
    """As many as the batch has samples, so that no constant is made of them."""
    weight = torch.randn(3, 3, generator=torch.Generator().manual_seed(0))

    def energy(x: torch.Tensor) -> torch.Tensor:
        return ((rows(x) @ weight) * x.sin()).sum(1)

    traced = trace(make_energy(energy, torch.zeros(2, 3)))
    states = inputs(traced)
    values, (made, _) = values_in_float64(traced, states), next(iter(reversed(traced.graph.nodes))).args[0]
    np.testing.assert_allclose(values[made.name], energy(torch.from_numpy(states["x"])), rtol=1e-5)
