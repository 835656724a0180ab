"""Whether the settings of a call can be used with the engines that were loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .config import SamplerConfig
from .errors import UsageError
from .method import check_used
from .precision_schedule import Span, check_steps

__all__ = ["check_settings", "check_temperature"]


def check_settings(settings: SamplerConfig, given: Mapping[str, Any], spans: Sequence[Span], *, exact: bool) -> None:
    """Refuses settings that cannot be used here, and given ones that would have no effect.

    Args:
        settings: of the call.
        given: those of them that the call itself names.
        spans: of a precision schedule; empty where one engine takes all steps.
        exact: whether samples follow an exact engine.

    Raises:
        UsageError: a setting is one of those.
    """
    if spans:
        check_steps(spans, settings.steps)
    check_temperature(settings, given)
    if not exact:
        check_used(settings.sampler, given)
        return
    if settings.sampler not in ("langevin", "mala"):
        raise UsageError(
            f"exact sampling corrects Langevin steps: expected sampler langevin or mala, got {settings.sampler!r}"
        )
    check_used("exact", given)


def check_temperature(settings: SamplerConfig, given: Mapping[str, Any]) -> None:
    """Refuses a temperature that is given where the noise says it already.

    Args:
        settings: that the chains run with.
        given: those of them that were named for these chains, not taken over from a bundle, an archive or a file.

    Raises:
        UsageError: the temperature would have no effect.
    """
    if "temperature" in given and settings.noise is not None and settings.sampler != "optimize":
        raise UsageError(
            f"temperature={given['temperature']!r} has no effect while noise={settings.noise!r} is set, which with the "
            "step size says the temperature: set noise=None as well (--noise none)"
        )
