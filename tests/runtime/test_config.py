"""SamplerConfig: what it takes, what it refuses, and that it survives JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ebm_export.runtime import SamplerConfig, UsageError


def test_a_warm_up_stays_with_samplers_that_have_one() -> None:
    own = SamplerConfig(steps=200, step_size=0.1, sampler="mala", warmup=50)
    assert own.replace(sampler="langevin", steps=40).warmup is None
    assert own.replace(sampler="hmc").warmup == own.replace(steps=60).warmup == 50
    with pytest.raises(UsageError, match="warmup: expected fewer steps than the 40"):
        own.replace(steps=40)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number of at least 1, got 0"),
        ({"steps": 2.5}, "steps: expected a whole number of at least 1, got 2.5"),
        ({"steps": True}, "steps: expected a whole number"),
        ({"step_size": "fast"}, "step_size: expected a finite number, got 'fast'"),
        ({"step_size": []}, "step_size: expected a number or a list of at least one number, got an empty list"),
        ({"step_size": [0.1, float("nan")]}, r"step_size\[1\]: expected a finite number, got nan"),
        ({"noise": -1.0}, "noise: expected numbers of at least 0, got -1"),
        ({"temperature": None}, "temperature: expected a finite number, got None"),
        ({"grad_clip": 0.0}, "grad_clip: expected a number above 0, or none for no clipping, got 0"),
        ({"bounds": (1, -1)}, r"bounds: expected a pair \(low, high\) with low below high, got \(1.0, -1.0\)"),
        ({"bounds": (0, 1, 2)}, "with low below high"),
        ({"bounds": 1}, r"bounds: expected a pair \(low, high\), or none, got 1"),
        ({"grad_clip_mode": "size"}, "grad_clip_mode: expected one of value, norm, got 'size'"),
        ({"order": "noise"}, "order: expected one of drift-noise, noise-drift, got 'noise'"),
        ({"init": "zeros"}, "init: expected one of normal, uniform, data, got 'zeros'"),
        ({"sampler": "gibbs"}, "sampler: expected one of langevin, .*, optimize, got 'gibbs'"),
        ({"bounds_mode": "wrap"}, "bounds_mode: expected one of project, reflect, got 'wrap'"),
        ({"anneal": 0.5}, "anneal: expected a factor of at least 1, got 0.5"),
        ({"leapfrog": 0}, "leapfrog: expected a whole number of at least 1, got 0"),
        ({"friction": -1}, "friction: expected a number of at least 0, got -1"),
        ({"momentum": 1}, "momentum: expected a number from 0 to below 1, got 1"),
        ({"ladder": "1,2"}, r"ladder: expected numbers such as \(1, 2, 4, 8\), got the text '1,2'"),
        ({"ladder": (1,)}, r"ladder: expected at least two factors that rise from 1, .*, got \(1.0,\)"),
        ({"ladder": (2, 4)}, r"rise from 1, .*, got \(2.0, 4.0\)"),
        ({"ladder": (1, 4, 4)}, r"rise from 1, .*, got \(1.0, 4.0, 4.0\)"),
        ({"warmup": -1}, "warmup: expected a whole number of at least 0, got -1"),
        ({"steps": 5, "warmup": 5}, "warmup: expected fewer steps than the 5 in all, .*; got 5"),
        ({"target_accept": 1}, "target_accept: expected a number between 0 and 1, or none, got 1"),
        ({"block": 0}, "block: expected a whole number of at least 1, got 0"),
        ({"init": "uniform"}, "there are none: set bounds=.* .--bounds=LOW,HIGH"),
        ({"step_sizes": 1.0}, "'step_sizes' is not a sampler setting; did you mean 'step_size'?"),
        ({"qqq": 1.0}, "'qqq' is not a sampler setting; the settings are steps, step_size"),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SamplerConfig.from_dict(settings)


def test_replace_checks_again() -> None:
    with pytest.raises(UsageError, match="did you mean 'steps'"):
        SamplerConfig().replace(step=3)
    with pytest.raises(UsageError, match="steps: expected"):
        SamplerConfig().replace(steps=-3)
    assert SamplerConfig().replace(steps=3).steps == 3


def test_replace_reads_an_object_of_the_callers_each_time() -> None:
    """It may be equal to what it was, and hold other numbers."""

    class Ramp:
        def __init__(self) -> None:
            self.end = 1.0

        def __iter__(self) -> Iterator[float]:
            return iter((2.0, self.end))

    own, ramp = SamplerConfig(), Ramp()
    assert own.replace(step_size=ramp).step_size == (2.0, 1.0)
    ramp.end = 0.5
    assert own.replace(step_size=ramp).step_size == (2.0, 0.5)
    assert own.replace(step_size=(2.0, 0.25)).step_size == own.replace(step_size=[2.0, 0.25]).step_size == (2.0, 0.25)


def test_replace_refuses_what_is_only_equal_to_a_setting() -> None:
    own = SamplerConfig()
    assert own.replace(steps=1, bounds=(0, 1)).bounds == (0, 1)
    with pytest.raises(UsageError, match="steps: expected a whole number"):
        own.replace(steps=True, bounds=(0, 1))
    with pytest.raises(UsageError, match=r"bounds\[1\]: expected a finite number, got True"):
        own.replace(steps=1, bounds=(0, True))


def test_survives_json() -> None:
    config = SamplerConfig(
        steps=7, step_size=[1, 2.5], noise=0.01, grad_clip=0.03, bounds=(-1, 1), order="noise-drift", init="uniform"
    )
    assert SamplerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_takes_numpy_numbers() -> None:
    config = SamplerConfig(steps=np.int64(5), step_size=np.linspace(1, 2, 3), noise=np.float32(0.5))  # type: ignore[arg-type]
    assert (config.steps, config.step_size, config.noise) == (5, (1.0, 1.5, 2.0), 0.5)
    assert hash(config) == hash(SamplerConfig(steps=5, step_size=(1.0, 1.5, 2.0), noise=0.5))
