"""Where in the user's model each traced operation comes from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.fx.traceback as fx_traceback
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Origin", "Provenance", "origin_of"]

_TORCH = str(Path(torch.__file__).parent)
_HERE = str(Path(__file__).parent)
_KEY = "ebm_export_origin"


@dataclass(frozen=True)
class Origin:
    """The place in the user's model that an operation of the score graph belongs to."""

    module: str
    """Dotted path of the module, "" for the model itself."""
    source: str
    """`file.py:12, in forward`, or "" where the model brings no Python source."""
    backward: bool
    """True where the operation belongs to the gradient of that place."""

    def describe(self) -> str:
        """One phrase for an error message."""
        half = "the gradient of " if self.backward else ""
        place = f"module '{self.module}'" if self.module else "the model itself"
        return f"{half}{place}" + (f" ({self.source})" if self.source else "")


def origin_of(node: torch.fx.Node) -> Origin | None:
    """The origin that `Provenance` left on a traced node, or None."""
    custom = node.meta.get("custom") or {}
    found = custom.get(_KEY)
    return found if isinstance(found, Origin) else None


class Provenance(TorchDispatchMode):
    """Tags every operation below it with its `Origin`.

    Forward operations are placed by the Python stack: the innermost module whose method is running, and the
    innermost line outside torch. A backward operation belongs to the autograd node that is running, and that
    node carries the sequence number of the forward operation that made it.
    """

    def __init__(self, module: torch.nn.Module):
        super().__init__()  # type: ignore[no-untyped-call]
        self._paths = {id(child): path for path, child in module.named_modules()}
        self._forward: dict[int, Origin] = {}
        self._last: Origin | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        running = torch._C._current_autograd_node()
        if running is None:
            origin = self._from_graph() or self._from_stack()
            # Autograd makes its node before it calls down to here, so the latest number is this operation's; an
            # operation that needs no gradient makes none and must not claim the number of the one before it.
            self._forward.setdefault(torch.autograd._get_sequence_nr() - 1, origin)
        else:
            made_by = self._forward.get(running._sequence_nr(), Origin("", "", False))
            origin = Origin(made_by.module, made_by.source, backward=True)
        self._last = origin
        fx_traceback.current_meta["custom"] = {_KEY: origin}
        return func(*args, **(kwargs or {}))

    def describe_last(self) -> str:
        """` in ...` for the operation that came last, for an error met while tracing."""
        return f" in {self._last.describe()}" if self._last else ""

    def _from_graph(self) -> Origin | None:
        """The origin that an archive's own graph names, while an fx interpreter runs it."""
        stack = fx_traceback.current_meta.get("nn_module_stack")
        if not stack:
            return None
        path = list(stack.values())[-1][0]
        trace = (fx_traceback.current_meta.get("stack_trace") or "").strip().splitlines()
        lines = [line.strip() for line in trace if line.strip().startswith("File ")]
        place = next((line for line in reversed(lines) if "/torch/" not in line), "")
        parts = place.replace('"', "").removeprefix("File ").split(", ")
        source = f"{Path(parts[0]).name}:{parts[1].removeprefix('line ')}, {parts[2]}" if len(parts) == 3 else ""
        return Origin(path.removeprefix("L['self']").lstrip("."), source, backward=False)

    def _from_stack(self) -> Origin:
        module, source = "", ""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and not (module and source):
            filename = frame.f_code.co_filename
            if not source and not filename.startswith((_TORCH, _HERE, "<")):
                source = f"{Path(filename).name}:{frame.f_lineno}, in {frame.f_code.co_name}"
            if not module:
                module = self._paths.get(id(frame.f_locals.get("self")), "")
            frame = frame.f_back
        return Origin(module, source, backward=False)
