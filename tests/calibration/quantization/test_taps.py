from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ebm_export.calibration.quantization.taps import Taps

from .graphs import conv_net, run


def test_reads_values_outputs_and_inputs() -> None:
    model = conv_net()
    proto = ir.to_proto(model)
    before = proto.SerializeToString(deterministic=True)
    inputs = {
        "x": np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float32),
        "grad_scale": np.ones(2, np.float32),
    }
    values = Taps(proto, ["h", "x", "grad", "h", "gb"], 1).run(inputs)
    assert values.keys() == {"h", "x", "grad_scale", "grad", "gb", "energy"}
    wanted = run(model, inputs, "h", "gb")
    for name in ("h", "gb", "grad", "energy"):
        np.testing.assert_allclose(values[name], wanted[name], rtol=1e-5, atol=1e-6)
    assert values["x"] is inputs["x"]
    assert proto.SerializeToString(deterministic=True) == before
