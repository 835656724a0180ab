"""A TorchScript graph as a module that runs it operation by operation in Python."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch import nn

from ..runtime.errors import LoadError
from .named_state import container, register_state

__all__ = ["ScriptedGraph"]


@dataclass
class _Block:
    """Instructions in order, the names they start from and the names they give."""

    inputs: list[str]
    outputs: list[str]
    body: list[_Instruction]


@dataclass
class _Instruction:
    """One node of the graph."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    run: Callable[..., Any] | None = None
    """What computes the outputs from the values of the inputs, where that is a plain function."""
    value: Any = None
    """A constant's value, or the dotted name of an attribute."""
    blocks: list[_Block] = field(default_factory=list)
    place: str = ""
    """`File "model.py", line 12, in forward`, or nothing."""
    path: str = ""
    """Dotted path of the module that the node was recorded in, where the graph says so."""


class ScriptedGraph(nn.Module):
    """Runs the inlined graph of a TorchScript module's forward; parameters and buffers keep their names.

    A ScriptModule runs in C++, where no tracer can follow. Here sizes are Python's, so that they follow the batch;
    branches and loops are taken as their conditions say at the call.
    """

    def __init__(self, scripted: torch.jit.ScriptModule) -> None:
        """Reads the graph.

        Args:
            scripted: a traced or scripted module; its tensors are shared, not copied.

        Raises:
            LoadError: the graph uses something that has no counterpart here; the text names it.
        """
        super().__init__()
        self.training = bool(getattr(scripted, "training", False))
        try:
            graph = scripted.inlined_graph
        except (AttributeError, RuntimeError) as error:
            raise LoadError("the TorchScript file has no forward method; save a module that has one") from error
        for path, module in scripted.named_modules():
            container(self, path).training = bool(getattr(module, "training", False))
        parameters = dict(scripted.named_parameters(remove_duplicate=False))
        buffers = dict(scripted.named_buffers(remove_duplicate=False))
        # A tensor used under two names is read as two Python objects: their storage says that they are one.
        first: dict[Any, torch.Tensor] = {}
        state = {
            name: first.setdefault((t.data_ptr() or id(t), tuple(t.shape), t.stride(), t.storage_offset()), t)
            for name, t in {**parameters, **buffers}.items()
        }
        self._names = register_state(self, state, parameters)
        self._scripted: Any = scripted
        inputs = list(graph.inputs())
        self._objects: dict[str, str] = {inputs[0].debugName(): ""}
        self._owners: dict[str, str] = {}
        names = [_argument_name(value.debugName()) for value in inputs[1:]]
        forward: Any = scripted.forward
        arguments = forward.schema.arguments[1:]
        defaults = {a.name: a.default_value for a in arguments if a.has_default_value()}
        schema = [a.name for a in arguments]
        names = schema if len(schema) == len(names) else names
        self.signature = inspect.Signature(
            [
                inspect.Parameter(
                    name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=defaults.get(name, inspect.Parameter.empty)
                )
                for name in names
            ]
        )
        self._program = self._read_block(graph, [value.debugName() for value in inputs[1:]])
        del self._scripted, self._objects, self._owners

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns what the graph returns."""
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        # The graph may switch gradients off for a part of itself; an error there must not leave them off.
        with torch.set_grad_enabled(torch.is_grad_enabled()):
            (result,) = self._run(self._program, list(bound.arguments.values()), {})
        return result

    # --- reading

    def _read_block(self, block: Any, inputs: list[str]) -> _Block:
        body = [instruction for node in block.nodes() if (instruction := self._read(node)) is not None]
        return _Block(inputs, [value.debugName() for value in block.outputs()], body)

    def _read(self, node: Any) -> _Instruction | None:
        kind = node.kind()
        inputs = [value.debugName() for value in node.inputs()]
        outputs = [value.debugName() for value in node.outputs()]
        # A saved graph has no record of modules; the owner of a weight that an operation takes is as good.
        owner = next((self._owners[name] for name in inputs if name in self._owners), "")
        instruction = _Instruction(kind, inputs, outputs, place=_place(node), path=_path(node) or owner)
        if kind == "prim::Constant":
            value = _constant(node)
            if isinstance(value, torch.Tensor):
                if value.dim() == 0:
                    value = value.item()  # a number; as a tensor it could not become a size under the tracer
                else:
                    instruction.kind, value = "attribute", self._keep(value)
            instruction.value = value
        elif kind == "prim::GetAttr":
            return self._read_attribute(node, instruction)
        elif kind in ("prim::If", "prim::Loop"):
            instruction.blocks = [
                self._read_block(b, [value.debugName() for value in b.inputs()]) for b in node.blocks()
            ]
        elif kind == "prim::CreateObject":
            return self._read_object(node, instruction)
        elif kind == "prim::SetAttr":
            if inputs[0] not in self._objects:
                return None  # a field of a block's own object, see _GradientBlock
            path = self._objects[inputs[0]]
            instruction.value = f"{path}.{node.s('name')}".lstrip(".")
            instruction.inputs = inputs[1:]
        elif kind == "prim::DictConstruct":
            instruction.run = lambda *flat: dict(zip(flat[::2], flat[1::2], strict=True))
        elif kind in _PRIMITIVES:
            instruction.run = _PRIMITIVES[kind]
        else:
            instruction.run = _operation(node)
        return instruction

    def _read_object(self, node: Any, instruction: _Instruction) -> _Instruction:
        name = str(node.output().type()).rpartition(".")[2].rstrip(")")
        if name not in ("no_grad", "enable_grad"):
            instruction.run = _refuse(f"an object of class {name}", instruction.place)
        else:
            instruction.run = functools.partial(_GradientBlock, name == "enable_grad")
        return instruction

    def _read_attribute(self, node: Any, instruction: _Instruction) -> _Instruction | None:
        owner = self._objects.get(instruction.inputs[0])
        if owner is None:
            raise LoadError(f"the TorchScript graph reads attribute {node.s('name')!r} of an object it has made itself")
        path = f"{owner}.{node.s('name')}".lstrip(".")
        value = self._scripted
        for name in path.split("."):
            value = getattr(value, name)
        instruction.inputs = []
        instruction.value = path
        if isinstance(value, torch.jit.ScriptModule):
            self._objects[instruction.outputs[0]] = path
            return None
        if isinstance(value, torch.Tensor):
            if path not in self._names:
                self._names[path] = self._keep(value, path)
            self._owners[instruction.outputs[0]] = owner
            instruction.kind, instruction.value = "attribute", self._names[path]
        elif node.s("name") == "training":
            instruction.kind, instruction.value = "attribute", path  # as it is at the call: eval() has its effect
        else:
            instruction.kind, instruction.value = "prim::Constant", value
        return instruction

    def _keep(self, value: torch.Tensor, name: str | None = None) -> str:
        if name is None:
            name = f"constant_{sum(key.startswith('constant_') for key in self._buffers)}"
        owner = container(self, name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        while hasattr(owner, leaf):
            leaf += "_"
        owner.register_buffer(leaf, value.detach().clone(), persistent=False)
        return f"{name.rpartition('.')[0]}.{leaf}".lstrip(".")

    # --- running

    def _run(self, block: _Block, values: list[Any], outer: dict[str, Any]) -> list[Any]:
        """Runs a block; names of the enclosing blocks can be read in it."""
        scope = {**outer, **dict(zip(block.inputs, values, strict=True))}
        for instruction in block.body:
            with _shown(instruction):
                self._step(instruction, scope)
        return [scope[name] for name in block.outputs]

    def _step(self, instruction: _Instruction, scope: dict[str, Any]) -> None:
        kind = instruction.kind
        if kind == "prim::Constant":
            scope[instruction.outputs[0]] = instruction.value
            return
        if kind == "attribute":
            scope[instruction.outputs[0]] = operator.attrgetter(instruction.value)(self)
            return
        inputs = [scope[name] for name in instruction.inputs]
        if kind == "prim::SetAttr":
            owner = container(self, instruction.value.rpartition(".")[0])
            setattr(owner, instruction.value.rpartition(".")[2], inputs[0])
            return
        results: list[Any]
        if kind == "prim::If":
            results = self._run(instruction.blocks[0 if bool(inputs[0]) else 1], [], scope)
        elif kind == "prim::Loop":
            trips, running, *carried = inputs
            count = 0
            while bool(running) and count < trips:
                running, *carried = self._run(instruction.blocks[0], [count, *carried], scope)
                count += 1
            results = carried
        else:
            assert instruction.run is not None
            value = instruction.run(*inputs)
            several = len(instruction.outputs) != 1
            results = list(value) if several and value is not None else [] if several else [value]
        scope.update(zip(instruction.outputs, results, strict=True))


def _constant(node: Any) -> Any:
    try:
        return node.output().toIValue()
    except RuntimeError:  # a function object, left over from a call that was inlined
        return None


def _argument_name(name: str) -> str:
    return re.sub(r"\.\d+$", "", name)


_PYTHON_PLACE = re.compile(r"^\s*(?P<file>[^\s:()]+\.py)[:(](?P<line>\d+)", re.MULTILINE)
_SOURCE_PLACE = re.compile(r'File "(?P<file>[^"]+\.py)", line (?P<line>\d+)')


def _place(node: Any) -> str:
    """Where the model's own source says the node is from."""
    text = node.sourceRange()
    for pattern in (_SOURCE_PLACE, _PYTHON_PLACE):
        for found in pattern.finditer(text):
            if not found["file"].startswith("code/") and "/torch/" not in found["file"]:
                return f'File "{found["file"]}", line {found["line"]}, in forward'
    return ""


def _path(node: Any) -> str:
    scope = node.scopeName().rpartition("/")[2]
    return str(scope.removeprefix("__module.").removeprefix("__module"))


@contextlib.contextmanager
def _shown(instruction: _Instruction) -> Iterator[None]:
    """Tells a tracer which module and line the operation is from, as fx does for graphs of its own."""
    if not fx_traceback.has_preserved_node_meta() or instruction.run is None:
        yield
        return
    meta = fx_traceback.current_meta
    keys = ("nn_module_stack", "stack_trace")
    before: dict[str, Any] = {key: meta[key] for key in keys if key in meta}
    meta["nn_module_stack"] = {instruction.path: (instruction.path, "")}
    meta["stack_trace"] = instruction.place
    try:
        yield
    finally:
        for key in keys:
            meta.pop(key, None)
        meta.update(before)


# --- operations


_DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex32,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.qint8,
    torch.quint8,
    torch.qint32,
    torch.bfloat16,
]
"""TorchScript writes a dtype as its number in this list (c10::ScalarType)."""

_FROM_NUMBER: dict[str, list[Any]] = {
    "ScalarType": _DTYPES,
    "Layout": [torch.strided],
    "MemoryFormat": [
        torch.contiguous_format,
        torch.preserve_format,
        torch.channels_last,
        torch.channels_last_3d,
    ],
}
"""The same for every kind of argument that TorchScript writes as a number, by its type in the schema."""


class _GradientBlock:
    """A `with torch.no_grad()` or `with torch.enable_grad()` of a scripted forward, entered and left by two nodes."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.before = True

    def enter(self) -> None:
        self.before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self.enabled)

    def leave(self) -> None:
        torch._C._set_grad_enabled(self.before)


def _raise(message: Any = "", *_: Any) -> None:
    raise RuntimeError(f"the TorchScript model raised: {message}")


def _as_int(value: Any) -> Any:
    if isinstance(value, (int, torch.SymInt)):
        return value
    return int(value)


def _as_float(value: Any) -> Any:
    return value if isinstance(value, torch.SymFloat) else float(value)


def _floor_division(a: Any, b: Any) -> Any:
    return a // b


def _slice(values: Any, start: Any, end: Any, step: Any) -> Any:
    return values[slice(start, end, step)]


def _format(text: str, *values: Any) -> str:
    return text.format(*values)


def _append(values: list[Any], value: Any) -> list[Any]:
    values.append(value)
    return values


def _setitem(values: Any, key: Any, value: Any) -> Any:
    values[key] = value
    return values


def _add(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a + b if isinstance(alpha, int) and alpha == 1 else a + alpha * b


def _subtract(a: Any, b: Any, alpha: Any = 1) -> Any:
    return a - b * alpha


def _divide(a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    if rounding_mode == "floor":
        return a // b
    return math.trunc(a / b) if rounding_mode == "trunc" else a / b


def _same(value: Any, *_: Any) -> Any:
    return value


def _several(*values: Any) -> tuple[Any, ...]:
    return values


def _items(values: Any) -> Any:
    return list(values.items())


_ATTRIBUTES = ("is_cpu", "is_cuda", "is_meta", "is_mkldnn", "is_mps", "is_nested", "is_quantized", "is_sparse", "ndim")
"""What a scripted forward may ask a tensor by attribute."""

_PRIMITIVES: dict[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *values: list(values),
    "prim::ListUnpack": lambda values: tuple(values),
    "prim::TupleConstruct": _several,
    "prim::TupleUnpack": lambda values: tuple(values),
    "prim::TupleIndex": operator.getitem,
    "prim::NumToTensor": _same,
    "prim::ImplicitTensorToNum": _same,
    "prim::unchecked_cast": _same,
    "prim::unchecked_unwrap_optional": _same,
    "aten::_unwrap_optional": _same,
    "prim::Uninitialized": lambda: None,
    "prim::RaiseException": _raise,
    "prim::dtype": lambda value: _DTYPES.index(value.dtype),
    "prim::device": lambda value: value.device,
    "prim::layout": lambda value: 0,
    "prim::data": lambda value: value.detach(),
    "prim::requires_grad": lambda value: value.requires_grad,
    **{f"prim::{name}": operator.attrgetter(name) for name in _ATTRIBUTES},
    "prim::type": lambda device: device.type,
    "prim::shape": lambda value: list(value.shape),
    "prim::min": min,
    "prim::max": max,
    "prim::abs": abs,
    "prim::Enter": lambda block: block.enter(),
    "prim::Exit": lambda block: block.leave(),
    "prim::Print": lambda *values: None,
    "aten::warn": lambda *values: None,
    "aten::format": _format,
    "aten::__is__": operator.is_,
    "aten::__isnot__": operator.is_not,
}
"""Nodes that are the same whatever their arguments are."""

_NUMBERS: dict[str, Callable[..., Any]] = {
    "add": _add,
    "sub": _subtract,
    "rsub": lambda a, b, alpha=1: b - a * alpha,
    "mul": operator.mul,
    "div": _divide,
    "floordiv": _floor_division,
    "floor_divide": _floor_division,
    "remainder": operator.mod,
    "fmod": math.fmod,
    "pow": operator.pow,
    "neg": operator.neg,
    "abs": abs,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__not__": operator.not_,
    "logical_not": operator.not_,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "ceil": math.ceil,
    "floor": math.floor,
    "round": round,
    "Int": _as_int,
    "IntImplicit": _as_int,
    "ScalarImplicit": _same,
    "FloatImplicit": _as_float,
    "Float": _as_float,
    "Bool": bool,
    "item": _same,
    "detach": _same,
    "to": _same,
    "clone": _same,
    "max": max,
    "min": min,
    "str": str,
}
"""Operations on numbers, where PyTorch would compute with tensors of no dimension in a traced graph, too."""

_CONTAINERS: dict[str, Callable[..., Any]] = {
    "len": len,
    "__getitem__": operator.getitem,
    "slice": _slice,
    "append": _append,
    "_set_item": _setitem,
    "__contains__": lambda values, value: value in values,
    "add": operator.add,
    "add_": operator.iadd,
    "mul": operator.mul,
    "eq": operator.eq,
    "ne": operator.ne,
    "list": list,
    "copy": list,
    "keys": lambda values: list(values.keys()),
    "values": lambda values: list(values.values()),
    "items": _items,
    "get": lambda values, key, default=None: values.get(key, default),
    "reverse": lambda values: values.reverse(),
    "insert": lambda values, place, value: values.insert(place, value),
    "extend": lambda values, more: values.extend(more),
    "pop": lambda values, place=-1: values.pop(place),
    "clear": lambda values: values.clear(),
    "max": max,
    "min": min,
    "sum": sum,
    "str": str,
}
"""Operations on lists, tuples, dictionaries and strings."""

_TENSORS: dict[str, Callable[..., Any]] = {
    "size": lambda value, dim=None: list(value.shape) if dim is None else value.shape[dim],
    "sym_size": lambda value, dim: value.shape[dim],
    "dim": lambda value: value.dim(),
    "len": len,
    "numel": lambda value: value.numel(),
    "stride": lambda value, dim=None: list(value.stride()) if dim is None else value.stride(dim),
    "is_floating_point": lambda value: value.is_floating_point(),
    "is_complex": lambda value: value.is_complex(),
    "item": lambda value: value.item(),
    "Int": lambda value: int(value),
    "IntImplicit": lambda value: int(value),
    "Float": lambda value: float(value),
    "FloatImplicit": lambda value: float(value),
    "ScalarImplicit": lambda value: value.item(),
    "Bool": lambda value: bool(value),
}
"""Questions to a tensor whose answer is a number."""


def _cast(value: Any, *arguments: Any) -> torch.Tensor:
    """`to` in the forms that only TorchScript has: (dtype, non_blocking, copy) or (device, dtype, ...)."""
    for argument in arguments:
        if type(argument) is int:
            return torch.as_tensor(value).to(_DTYPES[argument])
    return torch.as_tensor(value)


def _tensor(value: Any, dtype: int | None = None, *_: Any) -> torch.Tensor:
    return torch.as_tensor(value, dtype=None if dtype is None else _DTYPES[dtype])


_LISTS_OF_TENSORS = ("len", "__getitem__", "slice", "append", "_set_item", "add", "add_", "list", "copy", "keys",
                     "values", "items", "get", "reverse", "insert", "extend", "pop", "clear")  # fmt: skip
"""What is done with a list or dictionary whatever it holds."""

_TENSORS_BY_HAND: dict[str, Callable[..., Any]] = {
    "to": _cast,
    "tensor": _tensor,
    "as_tensor": _tensor,
}
"""Operations that have a form in TorchScript alone."""

_ONLY_SCRIPT = ("prim_dtype", "prim_Device", "prim_other", "default", "bool", "int", "float", "list")
"""The overloads of those forms."""


def _operation(node: Any) -> Callable[..., Any]:
    """What runs an operation: PyTorch's own where a tensor takes part, Python's on numbers and containers.

    An operation that cannot be run raises when it is reached, not when it is read: it may stand in a branch that is
    never taken (training, scripting checks).
    """
    kind = node.kind()
    space, _, name = kind.partition("::")
    schema = node.schema()
    if schema == "(no schema)" or space == "prim":
        return _refuse(kind, _place(node))
    overload = schema.partition("(")[0].partition("::")[2].partition(".")[2] or "default"
    arguments = torch._C.parse_schema(schema).arguments
    native = getattr(getattr(getattr(torch.ops, space), name, None), overload, None)
    kinds = [str(argument.real_type).removeprefix("Optional[").rstrip("]") for argument in arguments]
    convert = [_FROM_NUMBER.get(kind) for kind in kinds]

    def run(*inputs: Any) -> Any:
        first = inputs[0] if inputs else None
        if space == "aten" and isinstance(first, torch.Tensor) and name in _TENSORS:
            return _TENSORS[name](*inputs)
        if space == "aten" and inputs and not any(isinstance(v, torch.Tensor) for i in inputs for v in _flat(i)):
            if isinstance(first, (list, tuple, dict, str)) and name in _CONTAINERS:
                return _CONTAINERS[name](*inputs)
            if isinstance(first, _NUMBER) and name in _NUMBERS:
                return _NUMBERS[name](*inputs)
        if isinstance(first, (list, dict)) and name in _LISTS_OF_TENSORS:
            return _CONTAINERS[name](*inputs)
        if name in _TENSORS_BY_HAND and (native is None or overload in _ONLY_SCRIPT):
            return _TENSORS_BY_HAND[name](*inputs)
        if native is None:
            raise LoadError(f"the TorchScript graph uses {kind}, which this PyTorch does not have")
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for value, argument, change in zip(inputs, arguments, convert, strict=True):
            if change is not None and type(value) is int:
                value = change[value]
            if argument.kwarg_only:
                kwargs[argument.name] = value
            else:
                args.append(value)
        return native(*args, **kwargs)

    return run


def _refuse(kind: str, place: str) -> Callable[..., Any]:
    def run(*_: Any) -> Any:
        raise LoadError(
            f"the TorchScript graph uses {kind}, which this exporter cannot run"
            + (f" ({place})" if place else "")
            + "; export the model with save_energy or torch.export.save instead"
        )

    return run


def _flat(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else (value,)


_NUMBER = (int, float, bool, torch.SymInt, torch.SymFloat, torch.SymBool)
