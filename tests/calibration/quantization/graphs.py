"""Score graphs by hand, and nets that behave like trained ones, for the tests of quantization."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime

from ebm_export.calibration.quantization.insert import IntWeights
from ebm_export.calibration.quantization.layers import Layer
from ebm_export.calibration.quantization.weights import channel_scales, round_nearest
from ebm_export.calibration.states import States


def graph(text: str, constants: dict[str, np.ndarray]) -> ir.Model:
    """A score graph from ONNX's text form, with initializers, typed and shaped; a node is named after what it writes."""
    proto = onnx.parser.parse_model('<ir_version: 10, opset_import: ["" : 20]>\n' + text)
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def run(model: ir.Model, inputs: dict[str, np.ndarray], *more: str) -> dict[str, np.ndarray]:
    """Checks the ONNX and gives the outputs, by name, and other values of it."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    for name in more:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # What the graph says, on CPUs whose bytes overflow too.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return dict(
        zip(names, session.run(names, {port.name: inputs[port.name] for port in session.get_inputs()}), strict=True)
    )


def perceptron(seed: int = 0, *, widths: tuple[int, int] = (6, 16), direct: bool = False) -> ir.Model:
    """E(x) = sum(relu(x W1 + b1) W2) over x [B, 6], written with Gemm and MatMul; its gradient ends in a MatMul.

    With `direct` nothing but the products lies between the two layers of each half: E = sum(x W1 W2).
    """
    rng = np.random.default_rng(seed)
    first, second = (rng.standard_normal(shape).astype(np.float32) / 3 for shape in (widths, (widths[1], 8)))
    bias = rng.standard_normal(widths[1]).astype(np.float32) / 3
    forward = "r = Relu (h)" if not direct else "r = Identity (h)"
    forward_product = "h = Gemm (x, w1, b1)" if not direct else "h = MatMul (x, w1)"
    read = "r" if not direct else "h"
    back = "m = Greater (h, zero)  g1 = Where (m, p1, zero)" if not direct else "g1 = Identity (p1)"
    text = f"""
        score (float[B, {widths[0]}] x, float[B] grad_scale) => (float[B] energy, float[B, {widths[0]}] grad) {{
            {forward_product}  {forward}  f = MatMul ({read}, w2)  e = Sin (f)  energy = ReduceSum <keepdims: int = 0> (e, last)
            c = Cos (f)  s = Unsqueeze (grad_scale, last)  g2 = Mul (c, s)
            p1 = MatMul (g2, w2t)  {back}  grad = MatMul ({"g1" if not direct else "p1"}, w1t)
        }}"""
    constants = {
        "w1": first,
        "b1": bias,
        "w2": second,
        "w1t": first.T.copy(),
        "w2t": second.T.copy(),
        "zero": np.zeros((), np.float32),
        "last": np.array([1]),
    }
    used = {name: array for name, array in constants.items() if not direct or name not in ("b1", "zero")}
    return graph(text, used)


def conv_net(seed: int = 0, channels: int = 16, size: int = 8) -> ir.Model:
    """A residual energy over x [B, 2, size, size] of three convolutions forward and three back, by hand.

    E = sum(head * relu(u)), u = h + conv(relu(conv(h))), h = conv(x).
    """
    rng = np.random.default_rng(seed)

    def kernel(out: int, into: int) -> np.ndarray:
        return (rng.standard_normal((out, into, 3, 3)) * np.sqrt(2 / (9 * into))).astype(np.float32)

    kernels = {"w0": kernel(channels, 2), "w1": kernel(channels, channels), "w2": kernel(channels, channels)}
    flipped = {f"{name}t": np.ascontiguousarray(w[:, :, ::-1, ::-1].swapaxes(0, 1)) for name, w in kernels.items()}
    shape = f"float[B, 2, {size}, {size}]"
    text = f"""
        score ({shape} x, float[B] grad_scale) => (float[B] energy, {shape} grad) {{
            h = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
            a = Conv <pads = [1, 1, 1, 1]> (h, w1, b1)  r = Relu (a)
            b = Conv <pads = [1, 1, 1, 1]> (r, w2)  u = Add (h, b)  v = Relu (u)
            e = Mul (v, head)  energy = ReduceSum <keepdims: int = 0> (e, places)
            s = Unsqueeze (grad_scale, places)  gh = Mul (s, head)  mu = Greater (u, zero)  gu = Where (mu, gh, zero)
            gr = Conv <pads = [1, 1, 1, 1]> (gu, w2t)  ma = Greater (a, zero)  ga = Where (ma, gr, zero)
            gb = Conv <pads = [1, 1, 1, 1]> (ga, w1t)  g = Add (gu, gb)
            grad = Conv <pads = [1, 1, 1, 1]> (g, w0t)
        }}"""
    constants = {
        **kernels,
        **flipped,
        "b0": rng.standard_normal(channels).astype(np.float32) / 5,
        "b1": rng.standard_normal(channels).astype(np.float32) / 5,
        "head": rng.standard_normal((1, channels, 1, 1)).astype(np.float32) / size,
        "zero": np.zeros((), np.float32),
        "places": np.array([1, 2, 3]),
    }
    return graph(text, constants)


def states_for(model: ir.Model, count: int = 64, *, seed: int = 0, stages: int = 4, spread: float = 1.0) -> States:
    """Normal states of growing number of steps, with the scales that make their gradients' rms one."""
    rng = np.random.default_rng(seed)
    shape = [int(n) for n in next(value for value in model.graph.inputs if value.name == "x").shape[1:]]
    x = (spread * rng.standard_normal((count, *shape))).astype(np.float32)
    grad = run(model, {"x": x, "grad_scale": np.ones(count, np.float32)})["grad"].reshape(count, -1)
    rms = np.sqrt(np.square(grad).mean(1))
    scale = (1 / np.where(rms > 0, rms, 1)).astype(np.float32)
    step = np.repeat(np.arange(stages) * 10, -(-count // stages))[:count]
    return States(x, scale, step, np.arange(count), np.zeros(count, np.int64), np.zeros(count, bool), {})


def to_nearest(model: ir.Model, layer: Layer, correction: np.ndarray | None = None) -> IntWeights:
    """Weights rounded one by one."""
    held = model.graph.initializers[layer.weight].const_value.numpy()
    rows = np.moveaxis(held, layer.channel_axis, 0).reshape(held.shape[layer.channel_axis], -1)
    scales = channel_scales(rows)
    numbers = round_nearest(rows, scales)
    stored = numbers.reshape(held.shape) if layer.channel_axis == 0 else np.ascontiguousarray(numbers.T)
    return IntWeights(stored, scales, correction)


def error(wanted: np.ndarray, got: np.ndarray) -> float:
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


def on_openvino(model: ir.Model, inputs: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    from ebm_export.runtime.backends.openvino import OpenVinoEngine

    onnx.save(ir.to_proto(model), folder / "score.onnx")
    with OpenVinoEngine(folder / "score.onnx", precision="int8", threads=1) as engine:
        return {name: array.copy() for name, array in engine.run(inputs).items()}
