"""The walk over a message, against what the package protobuf (inside onnx) writes."""

from __future__ import annotations

import onnx
import pytest

from ebm_export.runtime.backends.protobuf import SIZED, fields, texts, varint


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 1 << 40])
def test_numbers(value: int) -> None:
    message = onnx.ModelProto(model_version=value).SerializeToString()
    assert message == varint(5 << 3) + varint(value)
    assert list(fields(memoryview(message))) == [(5, message, None)]


def test_texts_of_any_length() -> None:
    names = ["", "a", "é" * 200]
    message = onnx.NodeProto(input=names, name="other").SerializeToString()
    assert list(texts(memoryview(message), 1)) == names
    assert message.startswith(varint(1 << 3 | SIZED))


def test_the_fields_are_all_of_the_message() -> None:
    message = onnx.AttributeProto(
        name="a", f=1.5, ints=[1, 2, 300], t=onnx.TensorProto(double_data=[2.0])
    ).SerializeToString()
    assert b"".join(whole for _, whole, _ in fields(memoryview(message))) == message


@pytest.mark.parametrize(
    ("message", "why"),
    [(b"\xff", "inside a number"), (b"\x3a\x05ab", "longer than what is left"), (b"\x0f", "wire type 7")],
)
def test_other_bytes(message: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=f"no protobuf message: .*{why}"):
        list(fields(memoryview(message)))
