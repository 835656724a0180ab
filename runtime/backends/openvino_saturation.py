"""Whether OpenVINO's 8-bit products overflow on this CPU.

x86 CPUs without VNNI multiply bytes with an instruction (VPMADDUBSW) that adds two products in 16 bits and cuts what does not fit:
a layer with large weights and large inputs is then wrong by any amount, without a word. Weights of at most `SAFE_WEIGHT` cannot
overflow, as 2 * 255 * 64 is below 2**15.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

__all__ = ["SAFE_WEIGHT", "has_large_weights", "saturates"]

SAFE_WEIGHT = 64
"""Largest 8-bit weight that no input makes overflow."""
_WIDTH = 64


@lru_cache(maxsize=1)
def saturates() -> bool:
    """Multiplies numbers whose product is known; needs OpenVINO. A tenth of a second, once in a process."""
    import openvino
    from openvino import opset13 as op

    x = op.parameter([1, _WIDTH], np.float32)
    low, high = (op.constant(np.float32(end)) for end in (0.0, 255.0))
    weights = op.convert(op.constant(np.full((_WIDTH, _WIDTH), 127, np.int8)), np.float32)
    product = op.matmul(
        op.fake_quantize(x, low, high, low, high, 256), op.multiply(weights, np.float32(1.0)), False, False
    )
    compiled = openvino.Core().compile_model(openvino.Model([product], [x]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([np.full((1, _WIDTH), 255, np.float32)])[0]
    return bool(np.abs(found / (_WIDTH * 255 * 127) - 1).max() > 0.01)


def has_large_weights(model: Any) -> bool:
    """Whether an OpenVINO model has 8-bit weights that can overflow; single numbers are zero points."""
    for operation in model.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type().get_type_name() in ("i8", "u8"):
            held = operation.get_data()
            if held.size > 1 and max(int(held.max()), -int(held.min())) > SAFE_WEIGHT:
                return True
    return False
