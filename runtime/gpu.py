"""NVIDIA GPUs as CUDA tells of them, and what an engine says of the one that it computes on."""

from __future__ import annotations

from .device import describe_device

__all__ = ["gpu_said", "name_and_capability"]


def name_and_capability(number: int = 0) -> tuple[str, str] | None:
    """Name and compute capability, such as "8.7" for Orin, of the GPU of this number; None where there is no GPU or no cuda-python."""
    try:
        from cuda.bindings import runtime as cuda
    except ModuleNotFoundError:
        return None
    status, properties = cuda.cudaGetDeviceProperties(number)
    if int(status) != 0:
        return None
    return bytes(properties.name).split(b"\0")[0].decode(), f"{properties.major}.{properties.minor}"


def gpu_said(number: int = 0) -> str | None:
    """What tells this GPU's model from others, in words.

    Without cuda-python, which onnxruntime does not need, these are the names that the driver's files have of all cards.

    Returns:
        None where nothing tells of any GPU.
    """
    found = name_and_capability(number)
    return describe_device().get("GPUs") if found is None else f"{found[0]}, compute capability {found[1]}"
