"""Which of several tensors has the largest number, place by place: a tournament of pairs.

Each pair is compared once, and winner and loser follow from that one comparison. So exactly one tensor wins, whatever an
engine rounds on the way. A comparison with the maximum (`x == maximum`) is not so safe: onnxruntime pools the float32
results of an FP16 convolution before they are rounded, and nothing rounded equals such a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["hand_back", "play"]


def play(tensors: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """Finds the largest of K tensors of one shape; among equals the first wins.

    Returns:
        The maximum, and for each round and pair of it, bool, where the first of the two won. A last one without a
        partner goes on to the next round.
    """
    rounds = []
    values = list(tensors)
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2], strict=False))
        rounds.append([first >= second for first, second in pairs])
        values = [torch.maximum(first, second) for first, second in pairs] + values[2 * len(pairs) :]
    return values[0], rounds


def hand_back(grad: torch.Tensor, rounds: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Gives the gradient at the maximum to the winner of each place: K tensors, of which one is not zero there."""
    shares = [grad]
    for won in reversed(rounds):
        split = []
        for share, first in zip(shares, won, strict=False):
            kept = share * first.to(share.dtype)  # 0 or 1: engines take longer over a Where
            split += [kept, share - kept]
        shares = split + shares[len(won) :]
    return shares
