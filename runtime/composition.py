"""Several energies as one: sums, which are "and", and mixtures, which are "or".

    sum:      E(x) = sum_i w_i E_i(x)                          exp(-E) is the product of the parts' densities
    mixture:  E(x) = -T log sum_i w_i exp(-E_i(x) / T)         exp(-E / T) is the sum of theirs

(Du, Li and Mordatch, "Compositional visual generation with energy based models", NeurIPS 2020). A negative weight in a sum is
"not". An energy is known up to a constant, so the weights of a mixture are shares only as far as the parts' own constants
agree: adding c to E_i divides its weight by exp(c / T).
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from .arguments import check_choice
from .ebm import Ebm
from .engine import Engine
from .errors import UsageError
from .manifest import ModelSpec, TensorSpec
from .schedule import temperature_schedule
from .seen_ranges import largest_size

__all__ = ["CompositeEngine", "Kind", "compose"]

Kind = Literal["sum", "mixture"]
"""Which of the formulas at the top of this file."""


class CompositeEngine(Engine):
    """An engine that runs others and joins their answers; both the sum and the mixture are linear in their gradients.

    What a batch size needs is allocated at its first call. Later ones of that size allocate nothing beside their parts, until there is one of
    another size, which takes its place.

    Args:
        parts: the engines, each with the names of its conditioning inputs and what they are called here; they may be the same for
            several.
        weights: w_i; above 0 in a mixture.
        temperature: T of a mixture, above 0; None joins them as a sum.
    """

    backend = "composite"

    def __init__(
        self,
        parts: Sequence[tuple[Engine, Mapping[str, str]]],
        weights: Sequence[float],
        temperature: float | None = None,
    ) -> None:
        self._parts = [(engine, dict(names)) for engine, names in parts]
        self._weights = np.array(weights, dtype=np.float64)
        self._temperature = temperature
        self._log_weights = None if temperature is None else np.log(self._weights)[:, None]  # a sum's may be below 0
        self.needs_scale = any(engine.needs_scale for engine, _ in self._parts)
        self._memory: _Memory | None = None

    def open(self) -> None:
        """Opens every part; where one fails, those opened before it are closed."""
        with contextlib.ExitStack() as opened:
            for engine, _ in self._parts:
                engine.open()
                opened.callback(engine.close)
            opened.pop_all()

    @property
    def parts(self) -> tuple[Engine, ...]:
        """Those of every part."""
        return tuple(one for engine, _ in self._parts for one in engine.parts)

    @property
    def locks(self) -> tuple[threading.RLock, ...]:
        """Those of the parts, which may be asked by themselves too."""
        return tuple(lock for engine, _ in self._parts for lock in engine.locks)

    def close(self) -> None:
        """Closes every part."""
        self._memory = None
        for engine, _ in self._parts:
            engine.close()

    def prepare(self, cond: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What each part makes of its conditioning inputs, under names that begin with its number; see `Engine.prepare`."""
        return {
            f"{index}/{name}": array
            for index, (engine, names) in enumerate(self._parts)
            for name, array in engine.prepare({own: cond[name] for own, name in names.items()}).items()
        }

    def ready(self, cond: Mapping[str, np.ndarray]) -> None:
        """Readies each part; see `Engine.ready`."""
        for engine, names in self._parts:
            engine.ready({own: cond[name] for own, name in names.items()})

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; see `Engine.run`. The next call may overwrite the arrays."""
        x, scale = inputs["x"], inputs["grad_scale"]
        if self._memory is None or self._memory.grad.shape != x.shape:
            self._memory = _Memory(x.shape, self._weights)
        memory = self._memory
        for index, (engine, names) in enumerate(self._parts):
            prefix = f"{index}/"
            given = {name.removeprefix(prefix): array for name, array in inputs.items() if name.startswith(prefix)}
            given = given or {own: inputs[name] for own, name in names.items()}
            # A sum may be flat where its parts are not: each stays within what it knows.
            np.minimum(scale, np.float32(engine.known_scales.highest), out=memory.scale)
            answer = engine.run({"x": x, "grad_scale": memory.scale, **given})
            # An engine may be several parts, and answers into the same memory at every call.
            np.copyto(memory.energies[index], answer["energy"])
            np.copyto(memory.grads[index], answer["grad"])
            np.divide(scale, memory.scale, out=memory.factors[index])
        if self._temperature is None:
            np.matmul(self._weights, memory.energies, out=memory.total)
        else:
            self._mix(memory, self._temperature)
        np.multiply(memory.factors, memory.shares, out=memory.factors)
        np.einsum("pb,pb...->b...", memory.factors, memory.grads, out=memory.grad)
        np.copyto(memory.energy, memory.total, casting="same_kind")
        return {"energy": memory.energy, "grad": memory.grad}

    def _mix(self, memory: _Memory, temperature: float) -> None:
        """Finds a mixture's energy, and how much of its gradient each part's is, from `memory.energies`, which are used up."""
        logits, top, sums = memory.energies, memory.top, memory.total
        np.divide(logits, -temperature, out=logits)
        assert self._log_weights is not None
        np.add(logits, self._log_weights, out=logits)
        np.max(logits, axis=0, out=top)
        np.subtract(logits, top, out=logits)
        np.exp(logits, out=logits)
        np.sum(logits, axis=0, out=sums)
        np.divide(logits, sums, out=logits)
        np.copyto(memory.shares, logits, casting="same_kind")
        np.log(sums, out=sums)
        np.add(sums, top, out=sums)
        np.multiply(sums, -temperature, out=memory.total)


class _Memory:
    """What calls of one batch size write into, so that they allocate nothing.

    Args:
        shape: of x, [B, *S].
        weights: [P], those of the parts.

    Attributes:
        scale: [B] float32, the gradient scale that a part is asked with.
        energies: [P, B] float64, the parts' energies.
        grads: [P, B, *S] float32, their answers.
        factors: [P, B] float32, what these are multiplied by.
        shares: [P, B] float32, how much of the gradient each part's is: its weight in a sum.
        top: [B] float64, the largest exponent of a mixture.
        total: [B] float64, the energy.
        energy: [B] float32, the same.
        grad: [B, *S] float32.
    """

    def __init__(self, shape: tuple[int, ...], weights: np.ndarray) -> None:
        parts, batch = len(weights), shape[0]
        self.scale = np.empty(batch, np.float32)
        self.energies = np.empty((parts, batch))
        self.grads = np.empty((parts, *shape), np.float32)
        self.factors = np.empty((parts, batch), np.float32)
        self.shares = np.repeat(weights.astype(np.float32)[:, None], batch, axis=1)
        self.top, self.total = np.empty(batch), np.empty(batch)
        self.energy = np.empty(batch, np.float32)
        self.grad = np.empty(shape, np.float32)


def compose(
    parts: Sequence[Ebm],
    weights: Sequence[float] | None = None,
    *,
    kind: Kind = "sum",
    temperature: float | None = None,
    names: Sequence[Mapping[str, str]] | None = None,
) -> Ebm:
    """Makes one energy of several, which scores and samples as any other.

    Each part is evaluated by the engine that its `score` asks. The settings are those of the first part. Conditioning
    inputs that several parts have under the same name are given once, for all of them, unless `names` tells them apart. Closing the result closes the
    parts; where they are refused they are closed at once, since in `with compose([load(..), load(..)])` nobody else could.

    Args:
        parts: energies of states of one shape.
        weights: one for each part; None is 1 each.
        kind: see `Kind`.
        temperature: T of a mixture, above 0; the one that is sampled at, for the sum of the densities. None is that of the last step by the first
            part's settings.
        names: for each part, what its conditioning inputs are called here, by their names in it; those left out keep these. Two of the
            same energy, one given a smile and one given age, are compose([a, b], names=[{}, {"label": "second"}]).

    Raises:
        UsageError: no parts, states of several shapes, conditioning inputs of one name and several shapes, a number of
            weights or names other than that of the parts, an input that there is not, or weights that the kind does not allow.
    """
    with contextlib.ExitStack() as refused:
        for part in parts:
            refused.callback(part.close)
        composed = _composed(list(parts), weights, kind, temperature, names)
        refused.pop_all()
    return composed


def _composed(
    parts: list[Ebm],
    weights: Sequence[float] | None,
    kind: Kind,
    temperature: float | None,
    names: Sequence[Mapping[str, str]] | None,
) -> Ebm:
    """`compose`, which closes the parts where this raises."""
    if not parts:
        raise UsageError("compose: expected at least one energy, got none")
    given = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if len(given) != len(parts):
        raise UsageError(f"weights: expected {len(parts)}, one for each energy, got {len(given)}")
    check_choice("kind", kind, get_args(Kind))
    if not np.isfinite(given).all() or (kind == "mixture" and min(given) <= 0):
        raise UsageError(
            f"weights: expected finite numbers{', above 0 in a mixture' if kind == 'mixture' else ''}, got {given}"
        )
    if temperature is None:
        temperature = float(temperature_schedule(parts[0].sampler)[-1]) if kind == "mixture" else 1.0
        if not temperature > 0:
            raise UsageError(
                f"temperature: a mixture joins densities exp(-E / T), and chains by the settings of {parts[0].model.name} have T = 0 at their "
                "last step: give the T that you sample at"
            )
    elif not temperature > 0:
        raise UsageError(f"temperature: expected a number above 0, got {temperature!r}")
    renamed: Sequence[Mapping[str, str]] = names or [{}] * len(parts)
    if len(renamed) != len(parts):
        raise UsageError(f"names: expected {len(parts)}, one dict for each energy, got {len(renamed)}")
    first = parts[0].model
    cond: dict[str, TensorSpec] = {}
    joined: list[tuple[Engine, dict[str, str]]] = []
    for number, (part, new) in enumerate(zip(parts, renamed, strict=True)):
        if part.model.x.shape != first.x.shape:
            raise UsageError(
                f"compose: expected energies of states [{', '.join(map(str, first.x.shape))}] as that of {first.name}, and "
                f"{part.model.name} takes [{', '.join(map(str, part.model.x.shape))}]"
            )
        inputs = _called(part.model, new)
        joined.append((part.engine, {own: spec.name for own, spec in inputs.items()}))
        for spec in inputs.values():
            before = cond.setdefault(spec.name, spec)
            if (before.dtype, before.shape) != (spec.dtype, spec.shape):
                raise UsageError(
                    f"compose: {spec.name} is {spec.dtype} {list(spec.shape)} in {part.model.name} and "
                    f"{before.dtype} {list(before.shape)} in another: give one of them another name (names=; on the command line "
                    f"--cond {number}:{spec.called}=FILE.npy is for this one alone)"
                )
            if (
                before.limits is not None and spec.limits is not None
            ):  # of two tables the smaller one says what there is
                low, high = zip(before.limits, spec.limits, strict=True)
                cond[spec.name] = dataclasses.replace(before, limits=(max(low), min(high)))
            elif spec.limits is not None:
                cond[spec.name] = dataclasses.replace(before, limits=spec.limits)
            seen = [each for each in (before.range, spec.range) if each is not None]
            if seen:  # what is too large for one part is too large
                cond[spec.name] = dataclasses.replace(cond[spec.name], range=min(seen, key=largest_size))
    engine = CompositeEngine(joined, given, temperature if kind == "mixture" else None)
    name = f"{kind} of {', '.join(part.model.name for part in parts)}"
    ranges = [part.model.range for part in parts]
    known = [each for each in ranges if each is not None]
    reached = (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(ranges) else None
    model = dataclasses.replace(first, name=name, cond=tuple(cond.values()), range=reached, energies=None)
    return Ebm(
        engine,
        model,
        parts[0].sampler,
        data=parts[0].data,
        max_batch=min(part.max_batch for part in parts),
        fitting=min(part.fitting for part in parts),
        choice=f"{name}: " + "; and ".join(part.choice for part in parts),
        fingerprint=f"{kind} {given} {temperature} {[part.fingerprint for part in parts]} {[names for _, names in joined]}",
        parts=parts,
    )


def _called(model: ModelSpec, new: Mapping[str, str]) -> dict[str, TensorSpec]:
    """A model's conditioning inputs by their names in its graph, some of them called anew.

    Raises:
        UsageError: there is no such input, or two would be called the same.
    """
    called = {
        spec.name: next(
            (dataclasses.replace(spec, name=new[name], parameter="") for name in spec.names if name in new), spec
        )
        for spec in model.cond
    }
    unknown = [name for name in new if name not in model.cond_names]
    if unknown:
        inputs = ", ".join(spec.called for spec in model.cond)
        raise UsageError(
            f"names: {model.name} has no conditioning input {unknown[0]!r}; "
            f"{f'its inputs are {inputs}' if inputs else 'it has none'}"
        )
    if len({spec.name for spec in called.values()}) < len(called):
        raise UsageError(f"names: two conditioning inputs of {model.name} would be called the same, got {dict(new)}")
    return called
