"""Arguments that TorchScript writes as numbers: dtypes, layouts, memory formats."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["DTYPES", "FROM_NUMBER"]

DTYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex32,
    torch.complex64,
    torch.complex128,
    torch.bool,
    torch.qint8,
    torch.quint8,
    torch.qint32,
    torch.bfloat16,
]
"""TorchScript writes a dtype as its number in this list (c10::ScalarType)."""

FROM_NUMBER: dict[str, list[Any]] = {
    "ScalarType": DTYPES,
    "Layout": [torch.strided],
    "MemoryFormat": [
        torch.contiguous_format,
        torch.preserve_format,
        torch.channels_last,
        torch.channels_last_3d,
    ],
}
"""The same for every kind of argument that TorchScript writes as a number, by its type in the schema."""
