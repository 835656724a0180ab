"""NVIDIA GPUs as CUDA tells of them, and what an engine says of the one that it computes on."""

from __future__ import annotations

from .device import GPUS_JOINED, describe_device

__all__ = ["gpu_said", "name_and_capability"]

_PART = " MIG "
"""What in CUDA's name of a part of a card comes after the card's."""


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
    """The model of the GPU of this number, in the same words whoever tells it.

    CUDA does; without cuda-python, which onnxruntime does not need, the driver's files do. These do not say which card has which
    number, which depends on the cards' speed and on the environment (CUDA_VISIBLE_DEVICES). Where they name several models, or are not
    there (Jetson, WSL), the model cannot be told. What can never be told is one part of a divided card (MIG) from another, as the
    files name the whole card, and cards of one name that compute in different ways.

    Returns:
        None where it cannot be told.
    """
    found = name_and_capability(number)
    if found is not None:
        return found[0].partition(_PART)[0]
    models = set(describe_device().get("GPUs", "").split(GPUS_JOINED))
    return models.pop() or None if len(models) == 1 else None
