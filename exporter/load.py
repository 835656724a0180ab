"""Reads an energy from a model file of any form."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..runtime.errors import LoadError, UsageError
from .archive import read_archive
from .checkpoint import find_states, fit_state, read_weights
from .energy import Energy, EnergyMode, make_energy
from .factory import build_model
from .file_form import FileForm, file_form
from .input_spec import InputSpec, converted
from .reaching_out import script_reaches_out
from .torchscript import ScriptedGraph

__all__ = ["load_model"]

_BATCH = 4
"""Samples in an example made from a shape."""


def load_model(
    path: str | os.PathLike[str],
    *,
    factory: str | None = None,
    factory_args: Mapping[str, Any] | None = None,
    shape: Sequence[int] | None = None,
    cond: Mapping[str, InputSpec | Sequence[int] | torch.Tensor] | None = None,
    wrt: str | None = None,
    energy: EnergyMode | None = None,
    state_key: str | None = None,
    strip_prefix: str | None = None,
    trust_pickle: bool = False,
) -> Energy:
    """Reads an energy; what the file is, its content says.

    A torch.export archive holds its inputs, and where `save_energy` wrote it, its settings. A TorchScript file needs
    `shape`. Weights alone (a state_dict, a checkpoint, safetensors) need `factory` and `shape`.

    Args:
        path: the file.
        factory: what makes the model for the weights, "package.module:name" or "file.py:name".
        factory_args: its keyword arguments.
        shape: of one sample of the refined input, without the batch.
        cond: the other inputs of forward by name: an `InputSpec` or a shape of one sample, or rows [R, ...] as they come in use,
            see `Energy.observations`.
        wrt: name of the refined input; the first one if left out (an archive may say another).
        energy: how the output becomes an energy; as the archive says, or else "energy", if left out.
        state_key: dotted keys of a checkpoint that lead to the state_dict.
        strip_prefix: start of the names in the state_dict to take off.
        trust_pickle: read pickled objects, which run whatever code the file names.

    Raises:
        LoadError: the file is missing, damaged, no model, refused, or does not fit the factory's model.
        ContractError: it is a model of a fixed batch that cannot be freed.
        UsageError: an option is missing, or does not belong to this form.
    """
    file = Path(path)
    form = file_form(file)
    if form in (FileForm.ARCHIVE, FileForm.TORCHSCRIPT):
        _refuse_weight_options(file, form, factory, factory_args, state_key, strip_prefix)
    if form is FileForm.ARCHIVE:
        found = read_archive(file, wrt=wrt, energy=energy, trust_pickle=trust_pickle)
        _check_shapes(found, shape, cond)
        rows = {
            name: _as_in(found, name, value) for name, value in (cond or {}).items() if isinstance(value, torch.Tensor)
        }
        if rows:
            found.observe(rows)
        return found
    module = (
        _read_torchscript(file)
        if form is FileForm.TORCHSCRIPT
        else _read_module(file, form, factory, factory_args or {}, state_key, strip_prefix, trust_pickle)
    )
    if shape is None:
        raise UsageError(
            f"{file} does not say the shape of its input: give the shape of one sample, without the batch, "
            f"{_shape_hint(module, wrt, cond or {})}"
        )
    example = InputSpec(tuple(shape)).example(_BATCH, seed=0)
    examples = {name: _example(value, seed) for seed, (name, value) in enumerate((cond or {}).items(), start=1)}
    made = make_energy(module, example, cond=examples, wrt=wrt, energy=energy or "energy", name=file.stem)
    for name, value in (cond or {}).items():
        if not isinstance(value, torch.Tensor):
            del made.real_rows[name]
    return made


def _refuse_weight_options(
    file: Path,
    form: FileForm,
    factory: str | None,
    factory_args: Mapping[str, Any] | None,
    state_key: str | None,
    strip_prefix: str | None,
) -> None:
    given = {
        "--model": factory,
        "--model-arg": factory_args or None,
        "--state-key": state_key,
        "--strip-prefix": strip_prefix,
    }
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} is for files of weights; {file} is a {form.value} and holds the model itself")


def _check_shapes(
    energy: Energy, shape: Sequence[int] | None, cond: Mapping[str, InputSpec | Sequence[int] | torch.Tensor] | None
) -> None:
    """Shapes given for an archive, which has its own, must be those."""
    inside = {name: tuple(value.shape[1:]) for name, value in zip(energy.inputs, energy.example, strict=True)}
    given: dict[str, tuple[int, ...]] = {} if shape is None else {energy.wrt: tuple(shape)}
    for name, value in (cond or {}).items():
        if name not in inside or name == energy.wrt:
            others = [key for key in inside if key != energy.wrt]
            raise UsageError(
                f"--cond: the archive has no conditioning input {name!r}; it has {', '.join(others) or 'none'}"
            )
        given[name] = tuple(_example(value, 0).shape[1:])
        _check_type(name, value, energy.cond[name].dtype)
    for name, wanted in given.items():
        if wanted != inside[name]:
            rows = (cond or {}).get(name)
            if isinstance(rows, torch.Tensor):
                one = tuple(rows.shape) == inside[name]
                raise UsageError(
                    f"--cond {name}: the archive was exported for rows [R, {_text(inside[name])}], got {list(rows.shape)}"
                    + ("; that is one row without the dimension of rows: array[None] has it" if one else "")
                )
            option = "--shape" if name == energy.wrt else f"--cond {name}"
            raise UsageError(
                f"{option}: the archive was exported for {name!r} of shape {_text(inside[name])}, got {_text(wanted)}; "
                "leave the option out, or export the archive with the other shape"
            )


def _check_type(name: str, value: InputSpec | Sequence[int] | torch.Tensor, inside: torch.dtype) -> None:
    """A type given beside a shape must be the archive's; float32 is also what a shape without one has."""
    if isinstance(value, InputSpec) and value.dtype not in (torch.float32, inside):
        came, takes = (str(dtype).removeprefix("torch.") for dtype in (value.dtype, inside))
        raise UsageError(
            f"--cond {name}: the archive takes {takes}, got {came}; leave the option out, or export the archive with the other type"
        )


def _as_in(energy: Energy, name: str, rows: torch.Tensor) -> torch.Tensor:
    """Rows in the type that the archive's graph takes."""
    wanted = energy.cond[name].dtype
    if rows.dtype == wanted:
        return rows
    kinds = [(dtype.is_floating_point, dtype == torch.bool) for dtype in (rows.dtype, wanted)]
    if kinds[0] != kinds[1]:
        came, takes = (str(dtype).removeprefix("torch.") for dtype in (rows.dtype, wanted))
        raise UsageError(f"--cond {name}: the archive takes {takes}, and the rows are {came}")
    return converted(name, rows, wanted)


def _read_torchscript(file: Path) -> nn.Module:
    _check_script(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            scripted = torch.jit.load(str(file), map_location="cpu")  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            line = next(iter(str(error).strip().splitlines()), "no message")
            raise LoadError(
                f"{file} is a TorchScript archive that PyTorch {torch.__version__} cannot read: {line}"
            ) from error
    return ScriptedGraph(scripted)


def _check_script(file: Path) -> None:
    """Looks at the source text in a file, some of which PyTorch runs when it loads the file."""
    try:
        reader = torch._C.PyTorchFileReader(str(file))
    except RuntimeError:  # damaged: what loads it says so
        return
    for record in reader.get_all_records():
        if record.startswith("code/") and record.endswith(".py"):
            found = script_reaches_out(reader.get_record(record).decode("utf-8", "replace"))
            if found is not None:
                raise LoadError(f"{file}: the TorchScript file calls {found} ({record}), which does more than compute")


def _read_module(
    file: Path,
    form: FileForm,
    factory: str | None,
    factory_args: Mapping[str, Any],
    state_key: str | None,
    strip_prefix: str | None,
    trust_pickle: bool,
) -> nn.Module:
    content = read_weights(file, form, trust_pickle=trust_pickle)
    if isinstance(content, nn.Module):
        _refuse_weight_options(file, form, factory, factory_args, state_key, strip_prefix)
        return content
    try:
        states = find_states(content, state_key)
    except LoadError as error:
        raise LoadError(f"{file}: {error}") from error
    if factory is None:
        key, state = next(iter(states.items()))
        place = f" under {key!r}" if key else ""
        raise UsageError(
            f"{file} holds weights{place} ({len(state)} tensors, {next(iter(state))!r} first) and no code that uses "
            "them: give what makes the model, --model package.module:factory or --model file.py:factory"
        )
    module = build_model(factory, factory_args)
    try:
        fit_state(module, states, strip_prefix=strip_prefix)
    except LoadError as error:
        raise LoadError(f"{file}, --model {factory}: {error}") from error
    return module


def _example(value: InputSpec | Sequence[int] | torch.Tensor, seed: int) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value
    spec = value if isinstance(value, InputSpec) else InputSpec(tuple(value))
    return spec.example(_BATCH, seed)


_LAYOUT = {3: "L", 4: "H,W", 5: "D,H,W"}


def _shape_hint(module: nn.Module, wrt: str | None, cond: Collection[str]) -> str:
    """What --shape may look like, told from the first weight that is applied to an input.

    With several inputs nobody knows which of them that is, or whether they are joined before; then they are named. Of one input it may
    be a layer that reads distances, or the last dimension of a sequence: a shape that can be tried is.
    """
    signature = getattr(module, "signature", None) or inspect.signature(module.forward)
    inputs = [p for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    needed = [p for p in inputs if p.default is p.empty]
    known = ""
    for name, weight in module.named_parameters() if len(needed) <= 1 else ():
        if "weight" not in name.rpartition(".")[2] and "original" not in name.rpartition(".")[2]:
            continue
        owner: Any = module.get_submodule(name.rpartition(".")[0])
        if isinstance(owner, (nn.Embedding, nn.EmbeddingBag)) or weight.dim() < 2:
            continue
        entries = int(getattr(owner, "in_channels", 0)) or int(weight.shape[1])
        layer = name.rpartition(".")[0] or name
        if weight.dim() == 2:
            if _runs_on(module, torch.zeros(_BATCH, entries, dtype=weight.dtype)):
                return f"--shape {entries} (the first layer, {layer}, takes {entries} numbers)"
            known = f" (the first layer, {layer}, takes {entries} numbers, and the model does not run on samples of that shape)"
            break
        if weight.dim() in _LAYOUT:
            return f"--shape {entries},{_LAYOUT[weight.dim()]} (the first layer, {layer}, takes {entries} channels)"
    said = "such as --shape 3,32,32 for an image of 3 channels or --shape 2 for two numbers"
    refined = wrt or next((p.name for p in inputs), None)
    others = [p.name for p in needed if p.name != refined and p.name not in cond]
    if refined is None or not others:
        return said + known
    option = "" if wrt else ", the first input (--wrt names another)"
    return f"{said}; it is that of {refined!r}{option}, and beside it {' '.join(f'--cond {name}=SHAPE' for name in others)}"


def _runs_on(module: nn.Module, batch: torch.Tensor) -> bool:
    """Whether a model has one row of output for each sample of a batch, [B, ...]."""
    with torch.random.fork_rng(devices=[]):
        try:
            output = module(batch.requires_grad_())  # some take a gradient by x inside
        except Exception:  # the model's own error, whatever it is
            return False
    return isinstance(output, torch.Tensor) and output.dim() > 0 and len(output) == len(batch)


def _text(shape: tuple[int, ...]) -> str:
    return ",".join(map(str, shape)) or "()"
