"""A low precision that was judged along the bundle's own chains, and may be far off along others."""

from __future__ import annotations

import logging

from .config import SamplerConfig
from .schedule import distinct, temperature_schedule

__all__ = ["Judged"]

_DECISIVE = ("sampler", "temperature", "noise", "anneal", "grad_clip", "grad_clip_mode")
"""Settings that say where chains spend their time, and so where gradients are asked. On a cold chain they are smaller than any that a
low precision was calibrated on: that of a transformer was off by 2 % at T = 1, where it was judged, and by 53 % at T = 0.1. What a step
reads beyond a limit was judged by nobody."""

_LONGER = 4
"""Times the judged number of steps, from which on what a small bias adds up to is not known: the variance of a Gaussian with condition
10^4 was right in BF16 after the 1000 steps that were judged, in which it cannot be reached, and 25 for 100 after 20,000."""

_BY_ENERGY = ("mala", "hmc", "tempering")
"""Samplers that accept and reject by differences of energies. INT8 rounds these too: by 0.05 for the steps of a wide ResNet, at any
temperature. At T = 0.02 its MALA chains accepted 45 % of their steps, where FP32's accept 61 %, and ended at a mean energy of 7.2, not 5.5."""

_SMALL = 0.5
"""Of the temperature, up to which rounded energies change nothing that shows. Measured with MALA and HMC on a Gaussian of 64 dimensions, whose
energy got an error of its own at each place: with one of half the temperature, means of the energy and rates of acceptance were those of
none within 5 %; of MALA's, with as much as the temperature, 1.3 times as high and 0.48, not 0.67, after 300 steps."""

_LOG = logging.getLogger("ebm_export")


class Judged:
    """Says once that a low precision is asked where nobody knows how good it is.

    Args:
        precision: the one that was calibrated and judged; "" where there is none.
        energy_rounding: by how much it rounds differences of energies, see `manifest.Artifact`; None where nobody knows.
    """

    def __init__(self, precision: str, energy_rounding: float | None = None) -> None:
        self._precision = precision
        self._energy_rounding = energy_rounding

    def warn_of(self, settings: SamplerConfig, own: SamplerConfig, beside: str = "") -> None:
        """Looks at the settings of a call.

        Args:
            settings: of the call.
            own: the bundle's, with which it was judged.
            beside: the name of the energy that this one is a part of, whose chains go where its own do not; "" where it is alone.
        """
        if not self._precision:
            return
        changed = [name for name in _DECISIVE if getattr(settings, name) != getattr(own, name)]
        if settings.steps > _LONGER * own.steps:
            changed.append("steps")
        others = [f"in the {beside}"] if beside else []
        if changed:
            others.append("with " + ", ".join(f"{name}={getattr(settings, name)!r}" for name in changed))
        if not others:
            return
        _LOG.warning(
            "%s was calibrated and judged along chains of its own energy with the bundle's own settings; %s its samples may be far from "
            "those of fp32: %scompare with fp32%s",
            self._precision,
            " and ".join(others),
            "" if beside else "export with these settings, or ",
            self._of_energies(settings),
        )
        self._precision = ""

    def _of_energies(self, settings: SamplerConfig) -> str:
        """What rounded energies do to a sampler that accepts by them; "" where that is nothing."""
        if settings.sampler not in _BY_ENERGY:
            return ""
        said = f". {settings.sampler} accepts by differences of energies, which are rounded as well"
        if self._energy_rounding is None:
            return f"{said}: where that is as much as the temperature, chains hardly move"
        temperature = float(distinct(temperature_schedule(settings)).max())
        if self._energy_rounding <= _SMALL * temperature:
            return ""
        return (
            f"{said}, by {self._energy_rounding:.2g} at the bundle's own samples, and the temperature is {temperature:.3g}: chains hardly move, "
            "and their energies stay too high; the samplers langevin and underdamped do not ask for the energy"
        )
