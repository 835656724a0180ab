import torch.nn.functional as F
from torch import nn


class DigitEnergy(nn.Module):
    def __init__(self, c1=48, c2=96, c3=96, c4=128):
        super().__init__()
        self.a = nn.Conv2d(1, c1, 3, padding=1)
        self.b = nn.Conv2d(c1, c2, 4, stride=2, padding=1)
        self.c = nn.Conv2d(c2, c3, 3, padding=1)
        self.d = nn.Conv2d(c3, c4, 4)
        self.e = nn.Linear(c4, 1, bias=False)
    def forward(self, x):
        h = F.silu(self.a(x)); h = F.silu(self.b(h)); h = F.silu(self.c(h)); h = F.silu(self.d(h)).flatten(1)
        return 0.5 * x.square().flatten(1).sum(1) - self.e(h).squeeze(1)
