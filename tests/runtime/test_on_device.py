"""Which chains stay on the engine's device."""

from __future__ import annotations

from ebm_export.runtime import SamplerConfig
from ebm_export.runtime.cuda.settings import loop_settings
from ebm_export.runtime.on_device import hindrance


def test_more_steps_than_the_loop_there_can_count() -> None:
    most = SamplerConfig(steps=2**31 - 1)
    assert hindrance(most) is None
    assert loop_settings(most, rows=1, size=1).steps == most.steps
    more = most.replace(steps=2**31)
    assert hindrance(more) == "the loop there counts up to 2147483647 steps, and the chains have 2147483648"
