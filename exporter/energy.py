"""An energy E(x, *cond) -> [B] with everything the exporter needs to know about it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import nn

from ..runtime.config import SamplerConfig
from ..runtime.errors import UsageError
from .function_module import FunctionModule, KeywordCall

__all__ = ["Energy", "EnergyMode", "make_energy"]

EnergyMode = Literal["energy", "negative", "logsumexp"]
"""How a model's output becomes an energy; see `Energy.reduce`."""


@dataclass
class Energy:
    """A model, the names of its inputs, a batch of each, and how its output is read.

    Calling it gives energies [B]; nothing is copied and no gradient setting is changed by a call.
    """

    module: nn.Module
    """Called as `module(*inputs)`."""
    inputs: tuple[str, ...]
    """Names of the inputs, in the order of the call."""
    example: tuple[torch.Tensor, ...]
    """A batch of each input, [B, ...], in the same order."""
    wrt: str
    """Name of the input that is refined."""
    mode: EnergyMode = "energy"
    name: str = "energy"
    """Name of the model, for file names and reports."""
    sampler: SamplerConfig | None = None
    """The sampler's settings where the model's file holds them."""
    observations: dict[str, torch.Tensor] = field(default_factory=dict)
    """Rows of the conditioning inputs by name, [R, ...] each with the same R, as near to those of use as is known: engines are
    compared with PyTorch, calibrated and judged there. The examples where left out."""
    given_rows: int = 0
    """How many of these rows were given; those after them are the same again, for as many as the other inputs have. All where left out."""
    real_rows: dict[str, int] = field(default_factory=dict)
    """How many rows of a conditioning input somebody gave, the first of its observations; of one that is not named they are made up."""

    def __post_init__(self) -> None:
        """Checks that names, examples, `wrt` and `mode` fit together.

        Raises:
            UsageError: they do not.
        """
        if self.mode not in get_args(EnergyMode):
            raise UsageError(f"energy: expected one of {', '.join(get_args(EnergyMode))}, got {self.mode!r}")
        if self.wrt not in self.inputs:
            raise UsageError(f"wrt: {self.wrt!r} is no input of the model; its inputs are {', '.join(self.inputs)}")
        assert len(self.inputs) == len(self.example)
        scalars = [name for name, value in zip(self.inputs, self.example, strict=True) if value.dim() == 0]
        if scalars:
            raise UsageError(
                f"the example of {scalars[0]!r} is a scalar; expected a leading batch dimension, [B, ...]: "
                "give one value per sample"
            )
        empty = [name for name, value in zip(self.inputs, self.example, strict=True) if value.shape[0] == 0]
        if empty:
            raise UsageError(f"the example of {empty[0]!r} holds no sample; expected at least one, [B, ...]")
        sizes = {name: int(value.shape[0]) for name, value in zip(self.inputs, self.example, strict=True)}
        if len(set(sizes.values())) > 1:
            listing = ", ".join(f"{name}: {size}" for name, size in sizes.items())
            raise UsageError(f"the examples have different batch sizes ({listing}); expected one for all inputs")
        self.observations = self.observations or self.cond
        self.given_rows = self.given_rows or max((len(rows) for rows in self.observations.values()), default=0)

    def observe(self, rows: Mapping[str, torch.Tensor]) -> None:
        """Takes rows of conditioning inputs, [R, ...] by name, for its observations and for the examples of these inputs.

        Inputs that are not named keep the rows that they have, in turns.

        Raises:
            UsageError: a name is no conditioning input, or one has another number of rows than the others.
        """
        for name in rows:
            if name not in self.cond:
                raise UsageError(f"cond: {name!r} is no conditioning input; {_listed(self.cond)}")
        given = {**self.observations, **rows}
        named = _count_rows(rows)
        count = max([len(self.x), named, *(len(value) for value in given.values())])
        if named > 1 or set(rows) == set(self.cond):  # a single row goes with those that others keep
            self.given_rows = named
        self.observations = {name: _in_turns(given[name], count) for name in self.cond}
        self.real_rows |= {name: len(value) for name, value in rows.items()}
        self.example = tuple(
            _in_turns(rows[name], len(value)) if name in rows else value
            for name, value in zip(self.inputs, self.example, strict=True)
        )

    @property
    def position(self) -> int:
        """Place of the refined input among `inputs`."""
        return self.inputs.index(self.wrt)

    @property
    def x(self) -> torch.Tensor:
        """Example batch of the refined input, [B, *S]."""
        return self.example[self.position]

    @property
    def cond(self) -> dict[str, torch.Tensor]:
        """Example batches of the other inputs by name, each [B, ...]."""
        return {name: value for name, value in zip(self.inputs, self.example, strict=True) if name != self.wrt}

    @property
    def made_up(self) -> str:
        """What to say behind an error that made-up conditions may be to blame for; empty where somebody gave rows of each."""
        names = [name for name in self.cond if name not in self.real_rows]
        if not names:
            return ""
        options = " ".join(f"--cond {name}=FILE.npy" for name in names)
        return (
            f"; or it is {' and '.join(map(repr, names))}, made up of a shape alone (normal numbers of both signs, zeros for whole "
            f"ones): give rows as they come in use, {options}"
        )

    def reduce(self, output: torch.Tensor) -> torch.Tensor:
        """Turns the model's output into an energy.

        Args:
            output: [B] or [B, 1] for "energy" (taken as it is) and "negative" (sign changed: the model gives a
                log density or a score that is higher for likelier inputs); [B, K] logits for "logsumexp", whose
                energy is -log(sum_k exp(logit_k)).

        Returns:
            [B], of the output's dtype.
        """
        if self.mode == "logsumexp":
            return -torch.logsumexp(output, dim=1)
        if output.dim() == 2:
            output = output.squeeze(1)
        return -output if self.mode == "negative" else output

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Returns the energies [B] of a batch of every input, in the order of `inputs`."""
        return self.reduce(self.module(*inputs))


def make_energy(
    model: nn.Module | Callable[..., torch.Tensor],
    example: torch.Tensor,
    *,
    cond: Mapping[str, torch.Tensor] | None = None,
    wrt: str | None = None,
    energy: EnergyMode = "energy",
    name: str | None = None,
    sampler: SamplerConfig | Mapping[str, Any] | None = None,
) -> Energy:
    """Builds an energy from a module or function E(x, *cond).

    Parameters with a default that are not named in `cond` keep it. Rows of a conditioning input are taken in turns where x has
    more of them, a single one for the whole batch; where x has fewer, all are kept as `Energy.observations`.

    Args:
        model: a module, an exported program, a TorchScript module, or a function. It is used, not copied or changed.
        example: a batch of the refined input, [B, *S].
        cond: rows [R, ...] or [1, ...] of other parameters of forward, by their names; row i of each belongs to row i of the others.
        wrt: name of the parameter that `example` belongs to; the first one that `cond` does not name if left out.
        energy: how the output becomes an energy, see `Energy.reduce`.
        name: name of the model; its class or function name if left out.
        sampler: settings to keep with the model.

    Raises:
        UsageError: the parameters of forward and the given names do not fit.
    """
    if not isinstance(example, torch.Tensor):
        raise UsageError(f"example: expected a tensor [B, ...], got {type(example).__name__}")
    if name is None:
        name = getattr(model, "__name__", None) or getattr(model, "original_name", None) or type(model).__name__
    given = dict(cond or {})
    module = as_module(model)
    signature = _signature_of(module)
    wrt = _refined(signature, given, wrt)
    names, by_keyword = _call_order(signature, given, wrt)
    if by_keyword:
        module = KeywordCall(module, names)
    batch = int(example.shape[0]) if example.dim() else 1
    for key, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(f"cond: expected a tensor for {key!r}, got {type(value).__name__}")
    values = {wrt: example, **{key: _in_turns(value, batch) for key, value in given.items()}}
    examples = tuple(values[key] for key in names)
    made = Energy(module, names, examples, wrt, energy, _file_name(name), _settings(sampler))
    made.observe(given)
    return made


def as_module(model: Any) -> nn.Module:
    """Turns any accepted model into a plain module whose forward runs operation by operation in Python.

    Wrappers of PyTorch that hold the model unchanged (data parallel, torch.compile) are taken off.

    Raises:
        UsageError: it is nothing that can be called.
    """
    from .torchscript import ScriptedGraph

    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return as_module(model.module)
    compiled = getattr(model, "_orig_mod", None)
    if isinstance(compiled, nn.Module):
        return as_module(compiled)
    if isinstance(model, torch.jit.ScriptModule):
        return ScriptedGraph(model)
    if isinstance(model, torch.export.ExportedProgram):
        from .static_batch import rebatch

        return rebatch(model)
    if isinstance(model, nn.Module):
        return model
    if callable(model):
        return FunctionModule(model)
    raise UsageError(f"model: expected a module or a function, got {type(model).__name__}")


def _signature_of(module: nn.Module) -> inspect.Signature:
    if isinstance(module, FunctionModule):
        target: Callable[..., Any] = module.function
    else:
        # Modules rebuilt from a file carry the signature of the graph they run.
        given = getattr(module, "signature", None)
        if isinstance(given, inspect.Signature):
            return given
        target = module.forward
    try:
        return inspect.signature(target)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the parameters of {target!r} cannot be read ({error}); wrap it in a function whose parameters have names"
        ) from error


def _refined(signature: inspect.Signature, cond: dict[str, Any], wrt: str | None) -> str:
    names = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if wrt is not None:
        if wrt in cond:
            raise UsageError(f"{wrt!r} is both wrt and in cond; its examples are the ones given as example")
        if names and wrt not in names:
            raise UsageError(f"wrt: {wrt!r} is no parameter of the model; its parameters are {', '.join(names)}")
        return wrt
    free = [name for name in names if name not in cond]
    if free:
        return free[0]
    if any(p.kind == p.VAR_POSITIONAL for p in signature.parameters.values()) and not names:
        return "x"
    raise UsageError(
        "the model has no parameter left to refine: "
        + (f"cond names all of {', '.join(names)}" if names else "its forward takes none")
    )


def _call_order(signature: inspect.Signature, cond: dict[str, Any], wrt: str) -> tuple[tuple[str, ...], bool]:
    """Names of the given inputs in the order of the call, and whether they must be passed by keyword."""
    parameters = list(signature.parameters.values())
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    extra = [name for name in cond if name not in {p.name for p in named}]
    if extra and not any(p.kind == p.VAR_KEYWORD for p in parameters):
        names = [p.name for p in named if p.name != wrt]
        near = difflib.get_close_matches(extra[0], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"its parameters are {', '.join(p.name for p in named)}"
        if not named:
            hint = "it takes *args, which have no names: wrap it in a function that names its parameters"
        raise UsageError(f"cond: {extra[0]!r} is no parameter of the model; {hint}")
    given = {wrt, *cond}
    missing = [p.name for p in named if p.name not in given and p.default is p.empty]
    if missing:
        first, *others = missing
        also = " and ".join(map(repr, missing))
        raise UsageError(
            f"the model also takes {also}, which {'have' if others else 'has'} no default: pass a batch of {'each' if others else 'it'}, "
            f"cond={{{', '.join(f'{name!r}: ...' for name in missing)}}} (on the command line --cond {first}=FILE.npy with rows of it, "
            f"--cond {first}=SHAPE, or --cond {first}:int64= for a label{', and so on' if others else ''}); where {wrt!r} is a condition "
            f"and it is {also if not others else 'one of these'} that is refined, say so: wrt={first!r} (--wrt {first})"
        )
    order = tuple([p.name for p in named if p.name in given] + extra) or (wrt,)
    prefix = [p.name for p in named if p.kind is not p.KEYWORD_ONLY][: len(order)]
    return order, bool(named) and list(order) != prefix


def _settings(sampler: Any) -> SamplerConfig | None:
    if sampler is None or isinstance(sampler, SamplerConfig):
        return sampler
    if isinstance(sampler, Mapping):
        return SamplerConfig.from_dict(sampler)
    raise UsageError(f"sampler: expected a SamplerConfig or a dictionary of its fields, got {type(sampler).__name__}")


def _count_rows(rows: Mapping[str, torch.Tensor]) -> int:
    """Rows that all of these have, where a single one stands for any number; at least 1."""
    sizes = {name: len(value) for name, value in rows.items() if len(value) != 1}
    if len(set(sizes.values())) > 1:
        listing = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise UsageError(
            f"cond: the conditioning inputs have different numbers of rows ({listing}); row i of one belongs to row i of the "
            "others, so expected one number for all"
        )
    return max(sizes.values(), default=1)


def _in_turns(value: torch.Tensor, count: int) -> torch.Tensor:
    """`count` rows; `Energy` says what is wrong with a value that has none."""
    if not value.dim() or not len(value) or len(value) == count:
        return value
    return value[torch.arange(count) % len(value)]


def _listed(cond: Mapping[str, torch.Tensor]) -> str:
    return f"the model's are {', '.join(cond)}" if cond else "the model has none"


def _file_name(name: str) -> str:
    """Keeps what every file system takes; `<lambda>` and the like lose their brackets."""
    return "".join(c if c.isalnum() or c in "-_." else "" for c in name) or "energy"
