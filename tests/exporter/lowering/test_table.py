"""The table of lowerings as a whole."""

from __future__ import annotations

import inspect

import torch

from ebm_export.exporter.lowering.table import RULES


def test_a_lowering_takes_every_argument_of_its_operation() -> None:
    """Those too that a rule has made sure of: they are left out of a graph only where they are at their defaults."""
    short = []
    for operation, rule in RULES.items():
        if not isinstance(operation, torch._ops.OpOverload):
            continue
        parameters = list(inspect.signature(rule).parameters.values())[1:]  # the first is the context
        kinds = [parameter.kind for parameter in parameters]
        places = sum(kind is inspect.Parameter.POSITIONAL_OR_KEYWORD for kind in kinds)
        names = {parameter.name for parameter in parameters}
        for place, argument in enumerate(operation._schema.arguments):
            if argument.kwarg_only:
                taken = argument.name in names or inspect.Parameter.VAR_KEYWORD in kinds
            else:
                taken = place < places or inspect.Parameter.VAR_POSITIONAL in kinds
            if not taken:
                short.append(f"{operation}: {argument.name}")
    assert not short
