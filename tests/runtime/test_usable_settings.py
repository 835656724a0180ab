"""Settings and states of a call that would have no effect: used or refused, never ignored."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import Ebm, FunctionEngine, SamplerConfig, UsageError
from ebm_export.runtime.best_of import best_of
from ebm_export.runtime.manifest import ModelSpec, TensorSpec

X = np.ones((2, 3), np.float32)


def ebm(exact: bool = False, **settings: Any) -> Ebm:
    def bowl() -> FunctionEngine:
        return FunctionEngine(lambda x: (0.5 * (x * x).sum(axis=1), x))

    config = SamplerConfig.from_dict({"steps": 16, "step_size": 0.1, **settings})
    model = ModelSpec("bowl", TensorSpec("x", (3,), "float32"))
    return Ebm(
        bowl(), model, config, exact=bowl() if exact else None, data=X if settings.get("init") == "data" else None
    )


TOO_SHORT = "steps=16 has no warm-up unless warmup says one: set warmup (--warmup) too, or leave it out"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"grad_clip_mode": "norm"},
            "grad_clip_mode: 'norm' has no effect without grad_clip: set grad_clip (--grad-clip) too, or leave it out",
        ),
        ({"grad_clip_mode": "value", "sampler": "mala"}, "grad_clip_mode: 'value' has no effect without grad_clip"),
        (
            {"bounds_mode": "reflect"},
            "bounds_mode: 'reflect' has no effect without bounds: set bounds (--bounds) too, or leave it out",
        ),
        ({"bounds_mode": "project", "sampler": "optimize"}, "bounds_mode: 'project' has no effect without bounds"),
        *(
            ({"target_accept": 0.9, "sampler": sampler}, f"target_accept: 0.9 has no effect without a warm-up, and {TOO_SHORT}")
            for sampler in ("mala", "hmc", "tempering")
        ),
        (
            {"target_accept": 0.9, "sampler": "mala", "steps": 100, "warmup": 0},
            "target_accept: 0.9 has no effect without a warm-up, and warmup=0 is none: set warmup (--warmup) too, or leave it out",
        ),
    ],
)  # fmt: skip
class TestSettings:
    def test_is_refused_in_a_call(self, given: dict[str, Any], said: str) -> None:
        own = ebm()
        for ask in (
            lambda: own.sample(2, **given),
            lambda: own.refine(X, **given),
            lambda: own.stream(2, **given),
            lambda: own.warm(2, **given),
            lambda: best_of(own, 1, 2, **given),
        ):
            with pytest.raises(UsageError, match=re.escape(said)):
                ask()

    def test_but_not_as_the_bundles_own(self, given: dict[str, Any], said: str) -> None:
        assert ebm(**given).sample(2).shape == (2, 3)
        assert ebm().sample(2, config=ebm(**given).sampler).shape == (2, 3)


def test_exact_sampling_has_a_target_too() -> None:
    with pytest.raises(UsageError, match="target_accept: 0.9 has no effect without a warm-up"):
        ebm(exact=True).sample(2, target_accept=0.9)


@pytest.mark.parametrize(
    "given",
    [
        {"grad_clip_mode": "norm", "grad_clip": 1.0},
        {"bounds_mode": "reflect", "bounds": (-1, 1)},
        {"target_accept": 0.9, "sampler": "mala", "steps": 20},
        {"target_accept": 0.9, "sampler": "mala", "warmup": 2},
    ],
)
def test_what_has_an_effect_is_taken(given: dict[str, Any]) -> None:
    assert ebm().sample(2, **given).shape == (2, 3)
    last = dict(list(given.items())[1:])
    assert ebm(**last).sample(2, **{next(iter(given)): next(iter(given.values()))}).shape == (2, 3)


class TestStates:
    """Where chains start is said once."""

    @pytest.mark.parametrize(
        ("own", "given", "said"),
        [
            (
                {},
                {"data": X},
                "data: has no effect on chains that start by init='normal': give init=\"data\" (--init data) too, or leave it out",
            ),
            ({"init": "data"}, {"data": X, "init": "normal"}, "data: has no effect on chains that start by init='normal'"),
            ({}, {"data": X, "x0": X}, "data: has no effect beside x0, which says where chains start: leave one of them out"),
            ({"init": "data"}, {"data": X, "x0": X}, "data: has no effect beside x0"),
            ({}, {"init": "data", "x0": X}, "init: 'data' has no effect beside x0, which says where chains start"),
            ({}, {"init": "normal", "x0": X}, "init: 'normal' has no effect beside x0"),
        ],
    )  # fmt: skip
    def test_are_refused(self, own: dict[str, Any], given: dict[str, Any], said: str) -> None:
        for ask in (lambda: ebm(**own).sample(2, **given), lambda: ebm(**own).stream(2, **given)):
            with pytest.raises(UsageError, match=re.escape(said)):
                ask()

    def test_but_not_the_bundles_own(self) -> None:
        still = {"init": "data", "steps": 1, "step_size": 0.0}
        np.testing.assert_array_equal(ebm(**still).sample(2, data=2 * X), 2 * X)
        np.testing.assert_array_equal(ebm(**still).refine(3 * X), 3 * X)
