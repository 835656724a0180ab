"""A low precision that was judged along the bundle's own chains, and may be far off along others."""

from __future__ import annotations

import logging

from .config import SamplerConfig

__all__ = ["Judged"]

_DECISIVE = ("sampler", "temperature", "noise", "anneal")
"""Settings that say where chains spend their time, and so where gradients are asked. On a cold chain they are smaller than any that a
low precision was calibrated on: that of a transformer was off by 2 % at T = 1, where it was judged, and by 53 % at T = 0.1."""

_LONGER = 4
"""Times the judged number of steps, from which on what a small bias adds up to is not known: the variance of a Gaussian with condition
10^4 was right in BF16 after the 1000 steps that were judged, in which it cannot be reached, and 25 for 100 after 20,000."""

_BY_ENERGY = ("mala", "hmc", "tempering")
"""Samplers that accept and reject by differences of energies. INT8 rounds these too: by 0.05 for the steps of a wide ResNet, at any
temperature. At T = 0.02 its MALA chains accepted 45 % of their steps, where FP32's accept 61 %, and ended at a mean energy of 7.2, not 5.5."""

_LOG = logging.getLogger("ebm_export")


class Judged:
    """Says once that a low precision is asked where nobody knows how good it is.

    Args:
        precision: the one that was calibrated and judged; "" where there is none.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision

    def warn_of(self, settings: SamplerConfig, own: SamplerConfig) -> None:
        """Looks at the settings of a call; `own` are the bundle's, with which it was judged."""
        changed = [name for name in _DECISIVE if getattr(settings, name) != getattr(own, name)]
        if settings.steps > _LONGER * own.steps:
            changed.append("steps")
        if not self._precision or not changed:
            return
        by_energy = (
            f". {settings.sampler} accepts by differences of energies, which are rounded as well: where that is as much as the temperature, "
            "chains hardly move"
        )
        _LOG.warning(
            "%s was calibrated and judged along chains with the bundle's own settings; with %s its samples may be far from those of "
            "fp32: export with these settings, or compare with fp32%s",
            self._precision,
            ", ".join(f"{name}={getattr(settings, name)!r}" for name in changed),
            by_energy if settings.sampler in _BY_ENERGY else "",
        )
        self._precision = ""
