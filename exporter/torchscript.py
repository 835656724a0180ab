"""A TorchScript graph as a module that runs it operation by operation in Python."""

from __future__ import annotations

import functools
import inspect
import operator
import re
from typing import Any

import torch
from torch import nn

from ..runtime.errors import LoadError
from .named_state import container, register_state
from .scripted_instruction import Block, Instruction
from .scripted_operation import operation, refuse
from .scripted_place import path_of, place_of, shown
from .scripted_values import PRIMITIVES, GradientBlock

__all__ = ["ScriptedGraph"]


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

    def _read_block(self, block: Any, inputs: list[str]) -> Block:
        body = [instruction for node in block.nodes() if (instruction := self._read(node)) is not None]
        return Block(inputs, [value.debugName() for value in block.outputs()], body)

    def _read(self, node: Any) -> Instruction | None:
        kind = node.kind()
        inputs = [value.debugName() for value in node.inputs()]
        outputs = [value.debugName() for value in node.outputs()]
        # A saved graph has no record of modules; the owner of a weight that an operation takes is as good.
        owner = next((self._owners[name] for name in inputs if name in self._owners), "")
        instruction = Instruction(kind, inputs, outputs, place=place_of(node), path=path_of(node) or owner)
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
                return None  # a field of a block's own object, see GradientBlock
            path = self._objects[inputs[0]]
            instruction.value = f"{path}.{node.s('name')}".lstrip(".")
            instruction.inputs = inputs[1:]
        elif kind == "prim::DictConstruct":
            instruction.run = lambda *flat: dict(zip(flat[::2], flat[1::2], strict=True))
        elif kind in PRIMITIVES:
            instruction.run = PRIMITIVES[kind]
        else:
            instruction.run = operation(node)
        return instruction

    def _read_object(self, node: Any, instruction: Instruction) -> Instruction:
        name = str(node.output().type()).rpartition(".")[2].rstrip(")")
        if name not in ("no_grad", "enable_grad"):
            instruction.run = refuse(f"an object of class {name}", instruction.place)
        else:
            instruction.run = functools.partial(GradientBlock, name == "enable_grad")
        return instruction

    def _read_attribute(self, node: Any, instruction: Instruction) -> Instruction | None:
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

    def _run(self, block: Block, values: list[Any], outer: dict[str, Any]) -> list[Any]:
        """Runs a block; names of the enclosing blocks can be read in it."""
        scope = {**outer, **dict(zip(block.inputs, values, strict=True))}
        for instruction in block.body:
            with shown(instruction):
                self._step(instruction, scope)
        return [scope[name] for name in block.outputs]

    def _step(self, instruction: Instruction, scope: dict[str, Any]) -> None:
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
