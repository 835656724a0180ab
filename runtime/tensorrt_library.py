"""The one module that imports TensorRT: NVIDIA's `tensorrt`, else `tensorrt_rtx`, and hides how the two differ.

TensorRT 10.3 (JetPack 6) to 11 and TensorRT-RTX 1.7 are served by the same calls. They differ in three places: before
version 11 a strongly typed network has to be asked for, TensorRT-RTX has no timing cache (its functions do nothing
and warn), and each reads its own plans alone. Precision is not chosen here: a strongly typed network
computes every operation in the type that the ONNX graph gives it.

TensorRT-RTX builds plans on a machine with neither GPU nor driver. Loading a plan needs both.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from .errors import EbmExportError, LoadError, MissingBackend, UnsupportedOperation, UsageError
from .gpu import name_and_capability
from .plan_layers import LAYER_LIST, arithmetic_nodes, layer_precisions

__all__ = [
    "Fingerprint",
    "Plan",
    "Progress",
    "build_plan",
    "fingerprint",
    "import_tensorrt",
    "load_plan",
    "missing_tensorrt",
]

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all) while a plan is built."""

_MODULES = ("tensorrt", "tensorrt_rtx")  # in this order: a Jetson's own library before a wheel for other cards


def missing_tensorrt() -> str | None:
    """None when one of the two libraries is installed, else a sentence that names both extras."""
    if any(importlib.util.find_spec(name) for name in _MODULES):
        return None
    return (
        "neither the package tensorrt nor tensorrt_rtx is installed: JetPack brings tensorrt; elsewhere "
        "pip install 'ebm-export[tensorrt]' (data centre and workstation) or 'ebm-export[tensorrt-rtx]' "
        "(RTX cards, and building plans on a machine without a GPU)"
    )


def import_tensorrt() -> ModuleType:
    """Imports `tensorrt`, else `tensorrt_rtx`.

    Raises:
        MissingBackend: neither is installed. A library that is installed and broken shows its own error.
    """
    for name in _MODULES:
        if importlib.util.find_spec(name) is not None:
            return importlib.import_module(name)
    raise MissingBackend(f"TensorRT cannot be used: {missing_tensorrt()}")


@dataclass(frozen=True)
class Fingerprint:
    """What a plan depends on: a plan whose fingerprint is not this machine's is built again.

    Attributes:
        library: "tensorrt" or "tensorrt_rtx".
        version: the library's version, all four numbers.
        device: name of GPU 0, None where there is no GPU or no cuda-python.
        compute_capability: of GPU 0, such as "8.7" for Orin; None likewise.
    """

    library: str
    version: str
    device: str | None
    compute_capability: str | None

    def to_dict(self) -> dict[str, str | None]:
        """For the manifest."""
        return asdict(self)


def fingerprint() -> Fingerprint:
    """The fingerprint of this machine.

    Raises:
        MissingBackend: neither library is installed.
    """
    library = import_tensorrt()
    device, capability = name_and_capability() or (None, None)
    return Fingerprint(library.__name__, str(library.__version__), device, capability)


class Plan(NamedTuple):
    """What a build makes.

    Attributes:
        data: the serialized plan.
        layers: int8, fp16, bf16 or fp32 by the name of each node of the graph that is a convolution or a matrix product: what the
            compiled engine computes it in. Empty where the library does not tell.
    """

    data: bytes
    layers: dict[str, str]


def build_plan(
    onnx_model: Path | bytes,
    *,
    batch: tuple[int, int, int],
    timing_cache: Path | None = None,
    workspace: int | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Builds a plan from a typed ONNX score graph whose first dimensions are symbolic.

    TF32 is off: it would round the operands of float32 products to 10 bits of mantissa, and such a plan misses the
    1e-4 that a float32 engine is held to.

    Args:
        onnx_model: the file, or its bytes (then without external data).
        batch: smallest, most frequent and largest batch that the plan must run.
        timing_cache: file that keeps kernel timings from build to build. Read where it fits, replaced afterwards.
            Left alone by TensorRT-RTX, which has no such cache.
        workspace: most bytes of scratch memory on the GPU, None for the library's own limit.
        progress: called as the build goes on.

    Returns:
        the serialized plan, and what it computes its layers in.

    Raises:
        MissingBackend: neither library is installed.
        UsageError: `batch` is not 1 <= smallest <= most frequent <= largest.
        LoadError: `onnx_model` is no ONNX file.
        UnsupportedOperation: the parser refuses a node; the message names it.
        EbmExportError: the builder fails; the message is the library's.
    """
    smallest, frequent, largest = batch
    if not 1 <= smallest <= frequent <= largest:
        raise UsageError(
            f"batch is MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX, such as 1:16:64, not {smallest}:{frequent}:{largest}"
        )
    if isinstance(onnx_model, Path) and not onnx_model.is_file():
        raise LoadError(f"there is no ONNX file {onnx_model}")
    library = import_tensorrt()
    logger = _logger(library)
    builder = library.Builder(logger)
    network = builder.create_network(_network_flags(library))
    parser = library.OnnxParser(network, logger)
    if isinstance(onnx_model, bytes):
        parsed = parser.parse(onnx_model)
    else:
        parsed = parser.parse_from_file(str(onnx_model))
    if not parsed:
        raise _refusal(parser, library, logger)

    config = builder.create_builder_config()
    config.clear_flag(library.BuilderFlag.TF32)
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED  # else the list of layers has names alone
    config.add_optimization_profile(_profile(builder, network, batch))
    if workspace is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, workspace)
    cache = _open_timing_cache(library, config, timing_cache)
    if progress is not None:
        config.progress_monitor = _monitor(library, progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EbmExportError(f"{_name(library)} could not build a plan: {logger.told()}")
    if cache is not None and timing_cache is not None:
        _save(timing_cache, bytes(cache.serialize()))
    return Plan(bytes(plan), layer_precisions(logger.layers, arithmetic_nodes(network)))


def load_plan(plan: bytes) -> Any:
    """Loads a plan on GPU 0.

    Returns:
        the library's ICudaEngine. The runtime that made it lives as long as it does.

    Raises:
        MissingBackend: neither library is installed.
        LoadError: the plan is not for this library, version or GPU, or there is no GPU.
    """
    library = import_tensorrt()
    logger = _logger(library)
    runtime = library.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan) if runtime is not None else None
    if engine is None:
        raise LoadError(
            f"{_name(library)} cannot load the plan: {logger.told()}. A plan runs with the library version and the GPU "
            "it was built for"
        )
    return engine


def _name(library: ModuleType) -> str:
    return f"{'TensorRT-RTX' if library.__name__ == 'tensorrt_rtx' else 'TensorRT'} {library.__version__}"


def _network_flags(library: ModuleType) -> int:
    """Asks for a strongly typed network where the library still offers the choice."""
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _profile(builder: Any, network: Any, batch: tuple[int, int, int]) -> Any:
    """One optimization profile: the dimension that is symbolic in an input is the batch.

    It is the first in all but the noise of several steps, [K, B, *S], and the numbers of each step, [K], have none.
    """
    profile = builder.create_optimization_profile()
    shapes = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shapes[tensor.name] = tuple(tensor.shape)
        if shapes[tensor.name].count(-1) > 1:
            raise UsageError(
                f"a plan needs inputs in which the batch alone is symbolic; {tensor.name!r} has the shape "
                f"{shapes[tensor.name]} (-1 is symbolic)"
            )
    if all(-1 not in shape for shape in shapes.values()):
        raise UsageError(f"a plan needs inputs with a symbolic batch; these have the shapes {shapes}")
    for name, shape in shapes.items():
        profile.set_shape(name, *(tuple(size if number == -1 else number for number in shape) for size in batch))
    return profile


def _open_timing_cache(library: ModuleType, config: Any, path: Path | None) -> Any:
    """Gives the builder the timings of earlier builds; None where there is nowhere to keep them."""
    if path is None or library.__name__ == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        # Timings of another GPU or version: begin anew rather than fail.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save(path: Path, data: bytes) -> None:
    """Replaces a file in one step, so that a killed build leaves the old one."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)


def _refusal(parser: Any, library: ModuleType, logger: Any) -> EbmExportError:
    """The error for a graph that the parser did not take; the first of its errors is the cause."""
    if parser.num_errors == 0:
        return EbmExportError(f"{_name(library)} cannot parse the ONNX graph: {logger.told()}")
    error = parser.get_error(0)
    reason = " ".join(error.desc().split())
    if error.code().name == "MODEL_DESERIALIZE_FAILED":
        return LoadError(f"{_name(library)} cannot read the ONNX file: {reason}")
    operator, node = error.node_operator(), error.node_name()
    if operator or node:
        where = f"{operator} node {node!r}"
    else:
        # Some importers leave the node out; their function is called importOp or checkOp.
        operator = error.func().removeprefix("import").removeprefix("check")
        where = f"{operator} node (the parser does not say which)"
    if reason in ("", "false"):
        reason = "it has no such operation"
    message = f"{_name(library)} does not take the {where}: {reason}"
    return UnsupportedOperation(message, operator=operator, node=node)


def _logger(library: ModuleType) -> Any:
    """The logger that keeps the errors for our own messages, and the list of layers, emptied; nothing goes to stderr."""
    logger = _collector(library)
    logger.errors.clear()
    logger.layers = ""
    return logger


@cache
def _collector(library: ModuleType) -> Any:
    """One logger for the whole process: the library goes on using its first one and ignores later ones."""

    class Collector(library.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.errors: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))
            elif message.startswith(LAYER_LIST):
                self.layers = message

        def told(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Collector()


def _monitor(library: ModuleType, progress: Progress) -> Any:
    """Passes the builder's phases on; the outermost phases only, or the numbers would jump."""

    class Monitor(library.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                progress(phase_name, 0, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, step + 1, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                steps = self.steps.pop(phase_name)
                progress(phase_name, steps, steps)

    return Monitor()
