"""How a target takes INT8: the grids that its engine reads, and the form of the graph that it computes right and best."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from ..calibration.int8_graphs import Int8Graphs
from ..calibration.metrics.score_fidelity import StageFidelity
from ..calibration.quantization.calibrate import Scheme
from ..runtime.backends.openvino_saturation import SAFE_WEIGHT, saturates
from ..runtime.engine import Engine
from ..runtime.errors import QualityGateError
from .agreement import agrees
from .targets import Progress
from .written_engine import steps_of

if TYPE_CHECKING:
    from ..calibration.quality_gate import QualityGate

__all__ = ["FoundScheme", "LEAST_SHARE", "SchemeSearch", "plain_scheme"]

LEAST_SHARE = 0.3
"""Share of the multiplications in INT8 below which a graph is not called INT8 any more."""
_EVENS = (("forward", "gradient"), ("forward",), ())
"""Ways to even out channels, in the order in which they are tried."""


def plain_scheme(name: str, weight_bits: int | None, ranges: str) -> Scheme:
    """How a target wants its grids: TensorRT, which builds from the ONNX file, takes symmetric ones only, and fuses sums.

    OpenVINO's products of bytes overflow on some CPUs. What is exported on one of them is made for it, unless bits are asked for.

    Args:
        name: of the target.
        weight_bits: of weights for OpenVINO, 7 or 8; None for what this CPU needs.
        ranges: how ranges of activations are chosen, a name in `OBSERVERS`.
    """
    for_tensorrt = name in ("onnx", "tensorrt")
    scheme = Scheme(asymmetric=not for_tensorrt, fuses_sums=for_tensorrt, observer=ranges)
    if name == "openvino" and (weight_bits == 7 or (weight_bits is None and saturates())):
        return replace(scheme, largest_weight=SAFE_WEIGHT)
    return scheme


@dataclass(frozen=True)
class FoundScheme:
    """A target's scheme, and what is known of its engine with all layers in INT8.

    Attributes:
        scheme: how the target wants its grids.
        fidelity: the engine's score along the gate's trajectory; None where no gate was asked, or nothing is in INT8.
    """

    scheme: Scheme
    fidelity: tuple[StageFidelity, ...] | None


@dataclass(frozen=True)
class SchemeSearch:
    """Looks for the form of INT8 that suits the engine of a target.

    Attributes:
        name: of the target.
        graphs: of what is exported.
        opened: opens an engine of the target made of a graph with layers in INT8; what it is made of goes with it.
        gate: asked for the gain and bias of the gradient alone; None takes the first form that the engine computes right.
        tell: progress.
    """

    name: str
    graphs: Int8Graphs
    opened: Callable[[ir.Model], AbstractContextManager[Engine]]
    gate: QualityGate | None
    tell: Progress

    def find(self, plain: Scheme) -> FoundScheme:
        """Completes a scheme of `plain_scheme`.

        Ways to even out channels are tried with all layers in INT8, until one passes what the gate asks of the score; where none does,
        the one that comes nearest is taken. One whose engine does not compute what its graph says (`agreement.py`) is out: the gate would
        see it, and the layers would be blamed. Where that are all, layers that the engine gets wrong by themselves stay in float32.

        Raises:
            QualityGateError: no engine of this target computes its graph.
        """
        found = self._best_form(plain)
        if found is None and (wrong := self._wrong_layers(replace(plain, evens=()))):
            found = self._best_form(replace(plain, wrong=wrong))
        if found is None:
            raise QualityGateError(
                f"int8 for {self.name}: its engine computes something else than its INT8 graph in each of {len(_EVENS)} forms; "
                "export it in fp32, fp16 or bf16, or with another version of the backend"
            )
        return found

    def _best_form(self, plain: Scheme) -> FoundScheme | None:
        """A scheme with the way to even out channels that passes, or comes nearest; None where the engine is wrong in all of them."""
        nearest, best = np.inf, None
        for evens in _EVENS:
            scheme = replace(plain, evens=evens)
            off, fidelity = self._score_of(scheme)
            if off < nearest:
                nearest, best = off, FoundScheme(scheme, fidelity)
            if off <= 1:
                break
        return best

    def _score_of(self, scheme: Scheme) -> tuple[float, tuple[StageFidelity, ...] | None]:
        """Gain and bias of the gradient with all layers in INT8, the larger, in units of what passes, and what they were read off.

        Infinite for a wrong engine.
        """
        int8 = self.graphs.quantizer(scheme).default
        if not int8:
            return 0.0, None
        graph = self.graphs.corrected(scheme, int8)
        with self.opened(graph) as engine:
            if not self._agrees(engine, graph):
                self.tell(f"{self.name} computes something else than its INT8 graph: trying another form", 0, 0)
                return float("inf"), None
            if self.gate is None:
                return 0.0, None
            fidelity = self.gate.fidelity(engine)
        off = max((verdict.ratio for verdict in self.gate.score_verdicts(fidelity)), default=0.0)
        return (off if np.isfinite(off) else sys.float_info.max), fidelity  # far off, and still what its graph says

    def _wrong_layers(self, scheme: Scheme) -> tuple[str, ...]:
        """The layers with one of which alone in INT8 the engine computes something else than its graph; none where too little is left."""
        quantizer = self.graphs.quantizer(scheme)
        layers = [layer for layer in quantizer.layers if layer.name in quantizer.default]
        wrong = []
        for number, layer in enumerate(layers):
            self.tell(f"looking for what {self.name} gets wrong in INT8", number, len(layers))
            graph = quantizer.model({layer.name})
            with self.opened(graph) as engine:
                if not self._agrees(engine, graph):
                    wrong.append(layer)
        left = sum(layer.macs for layer in layers) - sum(layer.macs for layer in wrong)
        if not wrong or left < LEAST_SHARE * quantizer.work:
            return ()
        names = ", ".join(layer.name for layer in wrong)
        told = f"{self.name} gets {len(wrong)} of {len(layers)} layers wrong in INT8 and keeps them in float32: {names}"
        self.tell(told, 0, 0)
        return tuple(layer.name for layer in wrong)

    def _agrees(self, engine: Engine, graph: ir.Model) -> bool:
        return agrees(steps_of(engine), graph, self.graphs.exact, self.graphs.states, batch=self.graphs.batch)
