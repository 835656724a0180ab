"""Which of several tensors is the largest at each place, against an argmax."""

from __future__ import annotations

import pytest
import torch

from ebm_export.exporter.rules.tournament import hand_back, play


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 12])
def test_the_first_of_the_largest_gets_all(count: int) -> None:
    tensors = torch.randint(
        0, 3, (count, 400), generator=torch.Generator().manual_seed(count)
    ).float()  # many equal ones
    grad = torch.randn(400)
    largest, rounds = play(list(tensors))
    assert torch.equal(largest, tensors.amax(0))
    first = (tensors == largest).int().argmax(0)
    expected = torch.zeros(count, 400).scatter_(0, first[None], grad[None])
    assert torch.equal(torch.stack(hand_back(grad, rounds)), expected)


def test_one_wins_among_numbers_that_are_none() -> None:
    tensors = torch.tensor([[torch.nan, 1.0, torch.nan], [2.0, torch.nan, torch.nan], [1.0, 1.0, torch.nan]])
    _, rounds = play(list(tensors))
    assert torch.equal(torch.stack(hand_back(torch.ones(3), rounds)).sum(0), torch.ones(3))
