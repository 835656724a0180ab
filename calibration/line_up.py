"""Which engines a comparison puts side by side."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime.bundle import Bundle
from ..runtime.errors import UsageError
from .candidate import Candidate, NotRun, bundle_candidates, external_candidate, reference_of
from .compare_options import CompareOptions

__all__ = ["line_up"]


def line_up(bundles: Sequence[Bundle], options: CompareOptions) -> tuple[list[Candidate], list[NotRun]]:
    """Returns the reference first, then the candidates; and what cannot run.

    Raises:
        UsageError: the bundles do not fit each other, two engines have one name, or there is nothing to compare.
        LoadError: a file cannot be read, or there is no FP32 engine.
    """
    first = bundles[0].model
    for bundle in bundles[1:]:
        if (bundle.model.x.shape, bundle.model.cond) != (first.x.shape, first.cond):
            raise UsageError(
                f"{bundle.path} takes {_inputs(bundle)} and {bundles[0].path} takes {_inputs(bundles[0])}: only models "
                "with the same inputs can be compared"
            )
    paths = [bundle.path.resolve() for bundle in bundles]
    if len(set(paths)) < len(paths) or len({path.stem for path in paths}) < len(paths):
        raise UsageError("the bundles need different names, since the report calls them by name")
    reference = reference_of(bundles[0], named=len(bundles) > 1)
    found, not_run = bundle_candidates(bundles, backends=options.backends, precisions=options.precisions)
    engines = [reference, *(entry for entry in found if entry.name != reference.name)]
    engines += [external_candidate(text, bundles[0]) for text in options.candidates]
    names = [engine.name for engine in engines]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--candidate {name}: there is an engine of this name already; give it another")
    if len(engines) == 1:
        raise UsageError(
            f"there is nothing to compare with {reference.name}: give a bundle with another precision or backend, "
            "a second bundle, or --candidate NAME=FILE.onnx"
        )
    return engines, not_run


def _inputs(bundle: Bundle) -> str:
    return ", ".join(f"{spec.name} {list(spec.shape)}" for spec in (bundle.model.x, *bundle.model.cond))
