"""The table of what the gate does not judge by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..comparison import Comparison, EngineResult
from ..exact_acceptance import ExactAcceptance
from .scale import format_number

__all__ = ["beside_the_gate", "blocks_accepted"]


class _Column(NamedTuple):
    name: str
    text: str
    """What it is, for a reader."""
    value: Callable[[EngineResult], float | str | None]


def blocks_accepted(found: ExactAcceptance) -> str:
    """Returns the acceptance of blocks with its 95 % interval."""
    low, high = format_number(found.low), format_number(found.high)
    return f"{format_number(found.block_acceptance)} ({low} to {high})"


def beside_the_gate(comparison: Comparison, css: dict[str, str]) -> dict[str, Any] | None:
    """Returns text, columns, rows and words of the table; None where nothing was found."""
    columns = [
        column
        for column in (*_manifold(comparison), *_frechet(comparison), *_mixing(comparison), *_exact(comparison))
        if any(column.value(engine) is not None for engine in comparison.engines)
    ]
    too_wide = next((engine.figures.too_wide for engine in comparison.engines if engine.figures), None)
    if not columns and too_wide is None and not comparison.not_exact:
        return None
    rows = [
        {
            "name": engine.name,
            "css": css[engine.name],
            "values": [_said(column.value(engine)) for column in columns],
        }
        for engine in comparison.engines
        if any(column.value(engine) is not None for column in columns)
    ]
    sentences = []
    if columns:
        sentences.append(
            "None of these passes or fails an engine. Read each beside the row of "
            f"{comparison.reference}, whose samples of two seeds are compared there: what differs by as little as chance does says nothing."
        )
    if too_wide is not None:
        sentences.append(
            f"Precision, recall, density and coverage are left out: samples are compared by {too_wide} numbers each, and the gate's own "
            "density and coverage are above. With --features FILE they are counted among that network's features."
        )
    if comparison.not_exact:
        sentences.append(f"No acceptance of exact sampling for {'; for '.join(comparison.not_exact)}.")
    words = [(column.name, column.text) for column in columns]
    return {"text": " ".join(sentences), "columns": [column.name for column in columns], "rows": rows, "words": words}


def _said(value: float | str | None) -> str:
    return value if isinstance(value, str) else format_number(value)


def _manifold(comparison: Comparison) -> list[_Column]:
    shown = next((engine.figures for engine in comparison.engines if engine.figures), None)
    if shown is None:
        return []
    ball = f"A ball reaches a sample's {shown.neighbours}th neighbour in its own set of {shown.chains}."

    def column(name: str, text: str) -> _Column:
        return _Column(name, text, lambda engine: getattr(engine.figures, name) if engine.figures else None)

    return [
        column("precision", f"Share of the samples inside some ball of FP32's: are they like FP32's? {ball}"),
        column("recall", "Share of FP32's samples inside some ball of the engine's: does it draw all that FP32 draws?"),
        column(
            "density",
            f"FP32's balls around a sample, on average, over {shown.neighbours}; about 1 for one distribution. The gate's is "
            "that of smaller sets.",
        ),
        column(
            "coverage", "Share of FP32's balls that hold a sample of the engine's. The gate's is that of smaller sets."
        ),
    ]


def _frechet(comparison: Comparison) -> list[_Column]:
    shown = next((engine.figures for engine in comparison.engines if engine.figures and engine.figures.width), None)
    if shown is None:
        return []
    text = (
        f"Fréchet distance in all {shown.width} features, between sets of {shown.chains} samples: the FID where the network is "
        "Inception up to its pool. It falls with the number of samples, so that only rows of one table can be compared, and "
        f"{comparison.reference}'s own row is what no engine gets below but by chance."
    )
    return [_Column("Fréchet, whole", text, lambda engine: engine.figures.frechet if engine.figures else None)]


def _mixing(comparison: Comparison) -> list[_Column]:
    shown = next((engine.mixing for engine in comparison.engines if engine.mixing), None)
    if shown is None:
        return []
    along = f"of the FP32 energy in steps {shown.first_step} to {shown.last_step} of {shown.chains} chains under one condition"
    return [
        _Column(
            "R-hat",
            f"How much wider all chains together are than each alone, {along}. At 1 each has been wherever the others have; chains "
            "just long enough for one sample stay above it, in FP32 too, whose row tells what is usual here.",
            lambda engine: engine.mixing.r_hat if engine.mixing else None,
        ),
        _Column(
            f"ESS of {shown.chains * shown.states}",
            f"Independent states that {shown.chains * shown.states} states are worth (bulk effective sample size), {along}.",
            lambda engine: engine.mixing.effective if engine.mixing else None,
        ),
    ]


def _exact(comparison: Comparison) -> list[_Column]:
    shown = next((engine.exact for engine in comparison.engines if engine.exact), None)
    if shown is None:
        return []
    return [
        _Column(
            "blocks accepted",
            f"Exact sampling corrects the engine to follow FP32's energy, by accepting or rejecting {shown.blocks} blocks of {shown.block} "
            f"steps of {shown.chains} chains, which begin at FP32's samples: the mean probability with its 95 % interval, at T = "
            f"{format_number(shown.temperature)}. It is 1 where the two energies differ by a constant. How their gradients differ is not in it.",
            lambda engine: blocks_accepted(engine.exact) if engine.exact else None,
        ),
        _Column(
            "steps accepted",
            "The same of the engine's own steps within the blocks, whose size adapts to the same acceptance for every engine: where fewer "
            "are accepted, blocks go less far, and are accepted sooner.",
            lambda engine: engine.exact.acceptance if engine.exact else None,
        ),
    ]
