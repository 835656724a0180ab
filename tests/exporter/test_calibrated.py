"""What calibrated artifacts are made with."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from ebm_export.calibration.quantization.score_error import gradients
from ebm_export.exporter.calibrated import CalibratedArtifacts
from ebm_export.exporter.conditions import split_conditions
from ebm_export.exporter.energy import make_energy
from ebm_export.exporter.manifest import model_spec

from .calibrated_models import CONFIG, IMAGES, Seeing
from .referee import score_graph

pytestmark = pytest.mark.usefixtures("fewer_states")


class TestStates:
    def test_the_states_have_its_features_once_for_each_condition(self, tmp_path: Path) -> None:
        energy = make_energy(Seeing().eval(), torch.zeros(4, 4), cond={"image": IMAGES})
        split = split_conditions(energy)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, split, None, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            # the layer's share, and the bowl's
            assert [len(rows) for rows in made.states.conditions.values()] == [20, 20]
            assert {value.name for value in made.steps.graph.inputs} == {"x", "grad_scale", *made.states.conditions}
            whole = dataclasses.replace(made.states, conditions=split.calibration)
            np.testing.assert_allclose(gradients(made.steps, made.states), gradients(made.model, whole), rtol=1e-4)

    def test_real_data_is_seen_under_its_own_condition(self, tmp_path: Path) -> None:
        """For x at what the encoder sees the bowl is flat, which it is under no other image."""
        model = Seeing().eval()
        energy = make_energy(model, torch.zeros(4, 4), cond={"image": IMAGES})
        with torch.no_grad():
            seen = model.encoder(IMAGES).numpy()
        split = split_conditions(energy, seen)
        with CalibratedArtifacts(
            score_graph(energy), model_spec(energy), CONFIG, tmp_path, None, split, seen, (1, 8, 8), True, None,
            lambda what, done, total: None,
        ) as made:  # fmt: skip
            real = made.states.part(np.flatnonzero(made.states.step < 0))
            assert len(real) == 20  # those whose image is not kept back for the gate
            features = [real.inputs(slice(None))[name] for name in real.conditions]
            apart = min(np.abs(value - real.x).max() for value in features if value.shape == real.x.shape)
            assert apart < 1e-5
