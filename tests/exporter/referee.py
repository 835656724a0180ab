"""PyTorch's autograd in float64, against which every traced graph is judged."""

from __future__ import annotations

import inspect

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from ebm_export.exporter.energy import Energy, make_energy
from ebm_export.exporter.lowering import lower
from ebm_export.exporter.passes import optimize
from ebm_export.exporter.trace import input_names, trace

from .cases import Case, arguments, draw, reference_energy

BATCHES = (1, 3, 8)
TRACED_BATCH = 2


def energy_of(case: Case) -> Energy:
    """The case as the exporter takes it, with an example batch that no check uses."""
    module = case.build()
    inputs = {name: torch.tensor(array) for name, array in draw(case, 0, TRACED_BATCH).items()}
    wrt = case.wrt or "x"
    example = inputs.pop(wrt)
    return make_energy(module, example, cond=inputs, wrt=wrt, energy=case.energy)


def score_graph(energy: Energy, *, with_energy: bool = True) -> ir.Model:
    """Traced, lowered and optimised."""
    model = lower(trace(energy, with_energy=with_energy), "score")
    optimize(model)
    return model


def session(model: ir.Model) -> onnxruntime.InferenceSession:
    """Checks the ONNX file and opens it; the checker's shape inference must agree with the shapes written down."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def autograd(
    module: nn.Module, case: Case, inputs: dict[str, np.ndarray], dtype: torch.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Energy [B] and gradient [B, *S] by PyTorch in a type."""
    module = module.to(dtype).requires_grad_(False)
    values = list(arguments(module, inputs, dtype))
    names = [name for name in inspect.signature(module.forward).parameters if name in inputs]
    refined = values[names.index(case.wrt or "x")].requires_grad_()
    energy = reference_energy(case, module(*values))
    (grad,) = torch.autograd.grad(energy.sum(), refined)
    return energy.detach().double().numpy(), grad.double().numpy()


def per_sample(difference: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """||difference|| / ||reference|| for each sample; absolute where the reference is zero."""
    rows = len(reference)
    size = np.linalg.norm(reference.reshape(rows, -1), axis=1)
    return np.linalg.norm(difference.reshape(rows, -1), axis=1) / np.where(size > 0, size, 1.0)


def check_case(case: Case) -> None:
    """Compares the exported graph with float64 autograd at fresh inputs and other batch sizes.

    A gradient may be off by 1e-4 of its size (of a tenth of the usual size, where it is smaller than that), or by twice
    what PyTorch's own float32 gradient is off by where that is more: the graph computes in float32 too.
    """
    energy = energy_of(case)
    names = input_names(energy)
    opened = session(score_graph(energy))
    wanted = {port.name for port in opened.get_inputs()}
    # An energy or a gradient may be a small difference of large terms, whose rounding it then has; the largest batch
    # says how large they are here.
    others, slopes = autograd(case.build(), case, draw(case, 100 + BATCHES[-1], BATCHES[-1]), torch.float64)
    spread, typical = others.std(), np.median(np.linalg.norm(slopes.reshape(len(slopes), -1), axis=1))
    for batch in BATCHES:
        inputs = draw(case, 100 + batch, batch)
        grad_scale = np.linspace(0.5, 2.0, batch).astype(np.float32)
        feeds = {names[name]: array for name, array in inputs.items()} | {"grad_scale": grad_scale}
        assert wanted == set(feeds)
        value, grad = opened.run(["energy", "grad"], feeds)
        exact_value, exact_grad = autograd(case.build(), case, inputs, torch.float64)
        rough_value, rough_grad = autograd(case.build(), case, inputs, torch.float32)
        unscaled = grad / grad_scale.reshape(-1, *[1] * (grad.ndim - 1))
        own = np.linalg.norm(exact_grad.reshape(batch, -1), axis=1)
        share = np.where(own > 0, np.minimum(own / max(0.1 * typical, 1e-30), 1.0), 1.0)
        error = per_sample(unscaled - exact_grad, exact_grad) * share
        limit = np.maximum(1e-4, 2 * per_sample(rough_grad - exact_grad, exact_grad))
        assert value.shape == (batch,)
        assert grad.shape == (batch, *case.x)
        assert (error <= limit).all(), f"batch {batch}: gradient off by {error}, allowed {limit}"
        size = np.maximum(np.abs(exact_value), spread + 1e-6)
        energy_limit = np.maximum(1e-4, 2 * np.abs(rough_value - exact_value) / size)
        assert (np.abs(value - exact_value) / size <= energy_limit).all(), f"batch {batch}: {value} for {exact_value}"
