"""OpenVINO's messages, which are long, in one sentence that names the operation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from ebm_export.runtime.backends.openvino import OpenVinoEngine
from ebm_export.runtime.backends.openvino_error import failed_node, in_one_sentence
from ebm_export.runtime.errors import EbmExportError

CONVERSION = """Exception from src/inference/src/cpp/core.cpp:84:
Check 'false' failed at src/frontends/common_translators/src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- GatherElements-20 with a message:
While validating ONNX node '<Node(GatherElements): head/GatherElements>': Check 'a' failed at src/gather.hpp:56:
While validating node 'opset6::GatherElements head/G_16 (opset1::Sin S[0]:f32[?,4]) -> (dynamic[...])' with \
friendly_name 'head/G_16':
Shapes [?,4,5] and [?,1,3] are not consistent

-- ReduceSum-20 with a message:
While validating ONNX node '<Node(ReduceSum): ReduceSum.kept>':
Unsupported input type dynamic

Summary:
-- Conversion is failed for: GatherElements-20, ReduceSum-20
"""


def test_a_conversion_names_the_first_onnx_node_and_its_reason() -> None:
    assert failed_node(CONVERSION) == ("GatherElements", "head/GatherElements")
    assert in_one_sentence(RuntimeError(CONVERSION)) == (
        "GatherElements node 'head/GatherElements': Shapes [?,4,5] and [?,1,3] are not consistent"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("Exception from src/a.cpp:1:\nthe file is no model\n\n", "the file is no model"),
        ("Exception from src/a.cpp:1:", "Exception from src/a.cpp:1:"),
        ("", "no reason given"),
        ("While validating node 'opset1::Add x (..)' with friendly_name 'x':\nno", "Add node 'x': no"),
        ("While validating node 'opset1::Add x (..)':\nno", "Add node: no"),
    ],
)
def test_other_messages(text: str, sentence: str) -> None:
    assert in_one_sentence(RuntimeError(text)) == sentence


def test_a_graph_that_cannot_be_compiled(tmp_path: Path) -> None:
    """OpenVINO drops a Slice before GatherElements once shapes are known, and then refuses what is left."""
    model = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 20]>
        g (float[B, 4, 5] x, int64[B, 2, 3] k) => (float[B, 2, 3] y)
        <int64[1] start = {0}, int64[1] end = {2}, int64[1] axis = {1}>
        { s = Sin (x)  w = Slice (s, start, end, axis)  y = GatherElements <axis = 2> (w, k) }
    """)
    onnx.save(model, tmp_path / "m.onnx")
    inputs = {"x": np.zeros((1, 4, 5), np.float32), "k": np.zeros((1, 2, 3), np.int64)}
    engine = OpenVinoEngine(tmp_path / "m.onnx", precision="fp32", threads=1)
    with engine, pytest.raises(EbmExportError) as caught:
        engine.run(inputs)
    text = str(caught.value)
    assert text.startswith("OpenVINO cannot compile m.onnx for a batch of 1: GatherElements node ")
    assert "are not consistent" in text and "\n" not in text and ".hpp" not in text
