"""A BF16 graph in float32, for a CPU without instructions for BF16.

The plugin computes in BF16 on any CPU with AVX-512, and where it has no instructions for that, in several others for each product: the network
for CIFAR-10 in `benchmarks/` took 472 ms a step so, and 102 ms in float32 (`benchmarks/int8_speed.py`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["HAS_BF16", "in_float32"]

HAS_BF16 = "BF16"
"""What the property OPTIMIZATION_CAPABILITIES of a CPU with such instructions names."""


def in_float32(model: Any) -> None:
    """Makes float32 of an OpenVINO model's BF16, in place: its weights keep their values, and nothing is rounded on the way."""
    from openvino import opset13 as op

    for operation in model.get_ordered_ops():
        kind = operation.get_type_name()
        if kind == "Convert" and operation.get_attributes()["destination_type"] == "bf16":
            operation.set_attribute("destination_type", "f32")
        elif kind == "Constant" and operation.get_element_type().get_type_name() == "bf16":
            wide = op.constant(operation.get_data(dtype=np.float32))
            wide.set_friendly_name(operation.get_friendly_name())
            for reader in operation.output(0).get_target_inputs():
                reader.replace_source_output(wide.output(0))
    model.validate_nodes_and_infer_types()
