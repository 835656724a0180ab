"""Energies in torch.export archives: writing one that says everything, and reading any."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from ..runtime.config import SamplerConfig
from ..runtime.errors import ContractError, LoadError, UsageError
from .archive_guard import check_archive, restricted_unpickling
from .archived_graph import example_inputs
from .checked_functions import unchecked_distributions
from .contract import check_contract
from .energy import Energy, EnergyMode, make_energy
from .full_precision import FullPrecision
from .module_copy import copy_module
from .more_rows import conditions_like, rows_like
from .static_batch import rebatch
from .trace import trace

__all__ = ["SETTINGS_FILE", "read_archive", "save_energy"]

SETTINGS_FILE = "ebm_export.json"
"""The extra file of an archive that holds what the graph does not say."""

_SCHEMA_VERSION = 1
_ROWS = 16
"""Rows of an archive's example inputs that the model is looked at with; those of conditioning inputs are all kept as observations."""
_ROUNDING = 1e-4
"""Largest difference between the archive's energies and gradients and the model's, relative to the largest of the
batch; the same operations run in both, so that only their order differs (some 1e-6)."""


def save_energy(
    model: nn.Module | Callable[..., torch.Tensor],
    path: str | os.PathLike[str],
    example: torch.Tensor,
    *,
    cond: Mapping[str, torch.Tensor] | None = None,
    sampler: SamplerConfig | Mapping[str, Any] | None = None,
    wrt: str | None = None,
    energy: EnergyMode = "energy",
    name: str | None = None,
) -> None:
    """Writes an energy as one file that `ebm-export` needs nothing else for.

    The file is a torch.export archive with a dynamic batch and an extra file of settings; `torch.export.load` reads
    it too. It is read back and compared with the model, energies and gradients, before it takes its place.

    Args:
        model: a module or function E(x, *cond) -> [B] or [B, 1]; it is copied, and neither its mode nor its gradient
            settings change.
        path: where to write; an existing file is replaced.
        example: a batch of the refined input, [B, *S] float.
        cond: rows of the other parameters of forward by name, [R, ...]; all are kept, so give such as come in use
            (`Energy.observations`).
        sampler: settings to draw samples with.
        wrt: the parameter that `example` belongs to, where it is not the first.
        energy: how the output becomes an energy.
        name: name of the model.

    Raises:
        ContractError: the model is no energy, or torch.export does not keep it as it is.
        UnsupportedOperation: torch.export does not take it, and an export would not either.
        UsageError: the parameters of forward and the given names do not fit.
    """
    described = make_energy(model, example, cond=cond, wrt=wrt, energy=energy, name=name, sampler=sampler)
    check_contract(described)
    module = copy_module(described.module)
    # torch.export takes a batch of 1 for a constant.
    given = [
        described.observations.get(name, value) for name, value in zip(described.inputs, described.example, strict=True)
    ]
    count = max(2, *(len(value) for value in given))
    inputs = _filled_up([_plain(value) for value in given], count, described.position)
    with FullPrecision():
        try:
            program = _export(module, inputs)
        except ContractError:
            trace(described)  # has better words for most of what torch.export refuses
            raise
    settings = {
        "schema_version": _SCHEMA_VERSION,
        "name": described.name,
        "sampler": None if described.sampler is None else described.sampler.to_dict(),
        "wrt": described.wrt,
        "energy": described.mode,
        "inputs": list(described.inputs),
        "given_rows": described.given_rows,
    }
    target = Path(path)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; expected the name of a file to write")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".pt2", dir=target.parent)
    os.close(handle)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _forget_folders(program.graph_module)
            torch.export.save(program, temporary, extra_files={SETTINGS_FILE: json.dumps(settings)})
        _compare(described, read_archive(Path(temporary)))
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(target)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _forget_folders(program: torch.fx.GraphModule) -> None:
    """Keeps of each operation's stack the user's frames, with file names in place of paths.

    The names place an operation in an error message; the folders are nobody's business but the writer's.
    """
    for module in program.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            trace = node.meta.get("stack_trace")
            if trace:
                frames = [frame for frame in re.split(r"(?m)^(?=  File )", trace) if "/torch/" not in frame]
                node.meta["stack_trace"] = "".join(re.sub(r'File "[^"]*[/\\\\]', 'File "', frame) for frame in frames)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _export(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> ExportedProgram:
    """Exports with a dynamic batch; models that PyTorch cannot export so, with a fixed one, which `rebatch` frees."""
    batch = torch.export.Dim("batch", min=1)
    names: Any = tuple({0: batch} for _ in inputs)
    if any(p.kind == p.VAR_POSITIONAL for p in _parameters(module)):
        names = (names,)
    # Where it fails it prints the whole graph.
    with warnings.catch_warnings(), unchecked_distributions(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            return torch.export.export(module, inputs, dynamic_shapes=names, strict=False)
        except Exception as dynamic:  # torch.export raises errors of many kinds
            try:
                return torch.export.export(module, inputs, strict=False)
            except Exception:
                line = next(iter(str(dynamic).strip().splitlines()), "no message")
                raise ContractError(
                    f"torch.export cannot export the model: {type(dynamic).__name__}: {line}; hand the model itself "
                    "to export(...), or its state_dict with --model"
                ) from dynamic


def _filled_up(values: Sequence[torch.Tensor], count: int, refined: int) -> tuple[torch.Tensor, ...]:
    """`count` rows of every input, of which that at the place `refined` is no condition."""
    return tuple(
        (rows_like if place == refined else conditions_like)(value.detach(), count, place)
        for place, value in enumerate(values)
    )


def _parameters(module: nn.Module) -> list[Any]:
    return list(inspect.signature(module.forward).parameters.values())


def _compare(model: Energy, archive: Energy) -> None:
    """Compares energies and gradients at a batch size that the export did not see."""
    size = model.x.shape[0] + 3
    inputs = _filled_up([_plain(value) for value in model.example], size, model.position)
    answers = []
    for energy in (model, archive):
        runner = copy_module(energy.module)
        leaf = inputs[model.position].detach().clone().requires_grad_()
        arguments = [leaf if i == model.position else value for i, value in enumerate(inputs)]
        with FullPrecision():
            value = energy.reduce(runner(*arguments))
        (grad,) = torch.autograd.grad(value.sum(), leaf)
        answers.append((value.detach(), grad))
    for what, expected, came in zip(("energy", "gradient"), *answers, strict=True):
        error = float((came - expected).abs().max() / expected.abs().max().clamp_min(1e-30))
        if not error <= _ROUNDING:
            raise ContractError(
                f"the archive's {what} differs from the model's by {error:.1e} of the largest value (allowed "
                f"{_ROUNDING:.0e}): torch.export does not keep this model as it is, custom autograd functions for "
                "one; hand the model itself to export(...), or its state_dict with --model"
            )


def read_archive(
    path: Path, *, wrt: str | None = None, energy: EnergyMode | None = None, trust_pickle: bool = False
) -> Energy:
    """Reads an energy from a torch.export archive, by `save_energy` or by plain `torch.export.save`.

    Args:
        path: the file.
        wrt: input to refine; the file's setting, or else its first input, if left out.
        energy: how the output becomes an energy; the file's setting, or else "energy", if left out.
        trust_pickle: read archives with pickled objects, which can run code.

    Raises:
        ContractError: the program is no energy of a free batch.
        LoadError: the file is damaged or holds what must not be read.
    """
    program, settings = _load(path, trust_pickle=trust_pickle)
    module = rebatch(program)
    names = tuple(module.signature.parameters)
    values = example_inputs(program)
    counts = () if values is None else tuple(len(value) for value in values)
    if values is None:
        values = tuple(_example(node) for node in module.graph.nodes if node.op == "placeholder")
    batch = max(2, *(value.shape[0] for value in values))
    given = settings.get("inputs")
    if isinstance(given, list) and len(given) == len(names):
        names = tuple(str(name) for name in given)
    wrt = wrt or settings.get("wrt") or names[0]
    values = _filled_up(values, batch, names.index(wrt) if wrt in names else 0)
    sampler = settings.get("sampler")
    made = Energy(
        module,
        names,
        tuple(value[:_ROWS] for value in values),
        wrt,
        energy or settings.get("energy") or "energy",
        settings.get("name") or path.stem,
        SamplerConfig.from_dict(sampler) if sampler is not None else None,
    )
    made.observe({name: value for name, value in zip(names, values, strict=True) if name != made.wrt})
    own = [count for name, count in zip(names, counts, strict=False) if name != made.wrt]
    rows = settings.get("given_rows", max(own, default=0))
    if isinstance(rows, int) and 0 < rows <= made.given_rows:
        made.given_rows = rows
    # What save_energy, or `_filled_up` above, put behind the given rows is made up.
    made.real_rows = {
        name: min(count, made.given_rows) for name, count in zip(names, counts, strict=False) if name in made.cond
    }
    return made


def _plain(value: torch.Tensor) -> torch.Tensor:
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _example(node: torch.fx.Node) -> torch.Tensor:
    shown = node.meta["val"]
    sizes = [int(size) if isinstance(size, int) else 3 for size in shown.shape]
    if shown.is_floating_point():
        return torch.randn(sizes, generator=torch.Generator().manual_seed(0)).to(shown.dtype)
    return torch.zeros(sizes, dtype=shown.dtype)


def _load(path: Path, *, trust_pickle: bool) -> tuple[ExportedProgram, dict[str, Any]]:
    extra = {SETTINGS_FILE: ""}
    logger = logging.getLogger("torch.export")
    level = logger.level
    content = path.read_bytes()
    try:
        if not trust_pickle:
            check_archive(content, path)
        with warnings.catch_warnings(), _maybe(trust_pickle):
            warnings.simplefilter("ignore")
            logger.setLevel(logging.CRITICAL)  # it logs a traceback for what we turn into one line
            program = torch.export.load(io.BytesIO(content), extra_files=extra)
    except LoadError:
        raise
    except Exception as error:  # a damaged file can make any part of the reader fail
        line = next(iter(str(error).strip().splitlines()), "no message")
        raise LoadError(
            f"{path} is a torch.export archive that PyTorch {torch.__version__} cannot read: {type(error).__name__}: "
            f"{line}; save it again with this version"
        ) from error
    finally:
        logger.setLevel(level)
    return program, _settings(path, extra[SETTINGS_FILE])


def _maybe(trust_pickle: bool) -> Any:
    return contextlib.nullcontext() if trust_pickle else restricted_unpickling()


def _settings(path: Path, text: str | bytes) -> dict[str, Any]:
    if not text:
        return {}
    try:
        settings = json.loads(text)
        version = settings["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise LoadError(f"{path}: {SETTINGS_FILE} in the archive is not what save_energy writes ({error})") from error
    if version != _SCHEMA_VERSION:
        raise LoadError(
            f"{path}: {SETTINGS_FILE} in the archive has schema version {version}, this version reads "
            f"{_SCHEMA_VERSION}; use a newer ebm-export"
        )
    return dict(settings)
