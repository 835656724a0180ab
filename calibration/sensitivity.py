"""What each layer does to the score when it alone runs in INT8."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .deadline import Deadline
from .metrics.score_fidelity import StageFidelity
from .quantization.layers import Layer
from .quantization.quantizer import Quantizer
from .quantization.score_error import gradients, score_error
from .states import DATA_STEP, States

__all__ = ["Sensitivity", "measure_sensitivity"]

_PARTS = 4


@dataclass(frozen=True)
class Sensitivity:
    """One layer's effect on the score.

    Attributes:
        layer: the layer.
        stages: gain, bias and noise of the gradient by stage, with this layer alone in INT8; real data is one of them, `DATA_STEP`.
    """

    layer: Layer
    stages: tuple[StageFidelity, ...]

    @property
    def error(self) -> float:
        """rms over the stages of the gradient's relative error; real data counts like any other."""
        # The gate weighs a chain's stages by the steps taken and looks at no real data; `correct_score` has it count like an end. Layers are
        # compared here, and their order hardly depends on that. Over the ten layers of the digits, with the training data as real data, the mean
        # rank correlation with the order of gain and bias at 1536 other states, as the gate weighs these, was 0.977 at nine draws of 128 states;
        # without the stage of real data 0.977, with the gate's weights 0.981, and with real data like an end besides 0.982. Between
        # draws each moves by more than that.
        return float(np.sqrt(np.mean([stage.relative_error**2 for stage in self.stages])))

    @property
    def systematic(self) -> float:
        """rms over the stages of gain and bias together, noise left out."""
        return float(np.sqrt(np.mean([stage.gain**2 + stage.bias**2 for stage in self.stages])))

    @property
    def said(self) -> str:
        """What it does, in one line: gain and bias move the distribution that a chain goes to, noise averages out."""
        noise = float(np.sqrt(np.mean([stage.noise**2 for stage in self.stages])))
        return (
            f"alone it moves the gradient by {self.error:.1%} ({self.systematic:.1%} gain and bias, {noise:.1%} noise)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for the log of a search."""
        return {"layer": self.layer.name, "stages": [asdict(stage) for stage in self.stages]}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any], layers: Iterable[Layer]) -> Sensitivity:
        """Returns what `to_dict` was made from; the layer is one of these."""
        (layer,) = (layer for layer in layers if layer.name == entry["layer"])
        return cls(layer, tuple(StageFidelity(**stage) for stage in entry["stages"]))

    def parts(self) -> list[dict[str, Any]]:
        """Mean gain, and rms of bias and noise, in four parts of the chain with as many stages in each, as calibration.json has them.

        Real data is in none of them.
        """
        chain = [stage for stage in self.stages if stage.step != DATA_STEP]
        if not chain:  # its gradients are zero
            return []
        parts = []
        for part in np.array_split(np.arange(len(chain)), min(_PARTS, len(chain))):
            stages = [chain[index] for index in part]
            gain = float(np.mean([stage.gain for stage in stages]))
            bias = float(np.sqrt(max(0.0, np.mean([stage.bias_squared for stage in stages]))))
            noise = float(np.sqrt(np.mean([stage.noise**2 for stage in stages])))
            said = {"gain": round(gain, 5), "bias": round(bias, 5), "noise": round(noise, 5)}
            parts.append({"from step": stages[0].step, **said})
        return parts


def measure_sensitivity(
    model: ir.Model,
    quantizer: Quantizer,
    layers: Sequence[Layer],
    states: States,
    *,
    deadline: Deadline | None = None,
    batch: int = 8,
    threads: int | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Iterator[Sensitivity]:
    """Runs the graph once with each layer in INT8 and all others in float32.

    Errors of different layers are nearly independent, so those of a graph with several of them in INT8 add up in the
    square; what they do together is for the gate to judge.

    Args:
        model: the lowered float32 graph.
        quantizer: made from it.
        layers: those to look at.
        states: where the graph is asked; those of one step make a stage, which needs two.
        deadline: after which no layer is begun; None for never.
        batch: states in one call.
        threads: threads of one call.
        progress: called with (what is being done, done, in all).

    Yields:
        One entry for each layer, in their order, as soon as it is measured; none for those that were not begun.
    """
    exact: np.ndarray | None = None
    for index, layer in enumerate(layers):
        if deadline is not None and deadline.passed:
            return
        if progress is not None:
            progress("measuring what each layer does to the score", index, len(layers))
        if exact is None:
            exact = gradients(model, states, batch=batch, threads=threads)
        got = gradients(quantizer.model({layer.name}), states, batch=batch, threads=threads)
        yield Sensitivity(layer, score_error(exact, got, states))
