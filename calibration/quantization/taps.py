"""Reads values inside a score graph while onnxruntime runs it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ...runtime.onnxruntime_library import import_onnxruntime

__all__ = ["Taps"]


class Taps:
    """A score graph whose inner values are outputs as well.

    Args:
        model: the graph; it is not changed.
        names: values to read, of float type.
        threads: threads of one call; None leaves it to onnxruntime.
    """

    def __init__(self, model: onnx.ModelProto, names: Sequence[str], threads: int | None = None) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        present = {value.name for value in (*model.graph.output, *model.graph.input)}
        for name in dict.fromkeys(names):
            if name not in present:
                tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        onnxruntime = import_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3  # errors; a graph with many outputs draws warnings about nothing
        # What the graph says, in float32: on x86 without VNNI some 8-bit kernels overflow, and they are of no use here.
        settings.add_session_config_entry("session.disable_quant_qdq", "1")
        settings.intra_op_num_threads = threads or 0
        self._session = onnxruntime.InferenceSession(
            tapped.SerializeToString(), settings, providers=["CPUExecutionProvider"]
        )
        self._outputs = [port.name for port in self._session.get_outputs()]
        self._inputs = {port.name for port in self._session.get_inputs()}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Evaluates one batch; the inputs are those of the score graph.

        Returns:
            every tapped value, the graph's own outputs and its inputs, by name.
        """
        values = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        return {**inputs, **dict(zip(self._outputs, values, strict=True))}
