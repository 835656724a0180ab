"""Whether the settings of a call can be used with the engines that were loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .config import SamplerConfig
from .errors import UsageError
from .method import check_used, warm_up_steps
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
        _check_companions(settings, given)
        return
    if settings.sampler not in ("langevin", "mala"):
        raise UsageError(
            f"exact sampling corrects Langevin steps: expected sampler langevin or mala, got {settings.sampler!r}"
        )
    check_used("exact", given)
    _check_companions(settings, given)


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


def _check_companions(settings: SamplerConfig, given: Mapping[str, Any]) -> None:
    """Refuses a given setting that says how another one acts which is not there."""
    missing = {}
    if settings.grad_clip is None:
        missing["grad_clip_mode"] = "grad_clip: set grad_clip (--grad-clip)"
    if settings.bounds is None:
        missing["bounds_mode"] = "bounds: set bounds (--bounds)"
    if not warm_up_steps(settings):
        short = f"steps={settings.steps} has no warm-up unless warmup says one"
        why = short if settings.warmup is None else f"warmup={settings.warmup} is none"
        missing["target_accept"] = f"a warm-up, and {why}: set warmup (--warmup)"
    for name, what in missing.items():
        if given.get(name) is not None:
            raise UsageError(f"{name}: {given[name]!r} has no effect without {what} too, or leave it out")
