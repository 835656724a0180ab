"""OpenVINO's error messages in one sentence."""

from __future__ import annotations

import re

__all__ = ["failed_node", "in_one_sentence"]

_NODE = re.compile(
    r"While validating (?:node 'opset\d+::(?P<kind>\w+) |ONNX node '<Node\((?P<onnx>\w+)\): (?P<name>[^>]*)>)"
)
_FRIENDLY = re.compile(r"with friendly_name '([^']*)'")
_UNKNOWN = re.compile(r"No conversion rule found for operations: ([^\n]+)")
_NOISE = ("Exception from ", "Check '", "While validating ", "FrontEnd API failed", "Model wasn't fully", "-- ",
          "Summary:")  # fmt: skip


def failed_node(text: str) -> tuple[str, str]:
    """Operator and name of the first node that a message names as a cause, each "" where it names none.

    The name is that of the ONNX file where the message has it, else OpenVINO's own, which begins with it.
    """
    found = list(_NODE.finditer(text))
    if not found or _UNKNOWN.search(text):  # all else in the message follows from the operation that is not known
        return "", ""
    onnx = next((match for match in found if match["onnx"]), None)
    if onnx is not None:
        return onnx["onnx"], onnx["name"]
    friendly = _FRIENDLY.search(text, found[0].start())
    return found[0]["kind"], friendly[1] if friendly else ""


def in_one_sentence(error: Exception) -> str:
    """The node that OpenVINO names and its reason; lines with source files and checks of its own are left out."""
    text = str(error)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        return f"it has no operation {unknown[1].strip()}"
    kind, name = failed_node(text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(_NOISE)]
    reason = told[0] if told else lines[-1] if lines else "no reason given"
    return (f"{kind} node {name!r}: " if name else f"{kind} node: " if kind else "") + reason
