from __future__ import annotations
from dataclasses import dataclass
import torch
@dataclass
class Energy:
    module: torch.nn.Module
    inputs: tuple
    example: tuple
    wrt: str
    mode: str
    name: str
    sampler: object
    def reduce(self, out):
        if self.mode == "logsumexp": return -torch.logsumexp(out, dim=1)
        if out.dim() == 2: out = out.squeeze(1)
        return -out if self.mode == "negative" else out
    def __call__(self, *a): return self.reduce(self.module(*a))
