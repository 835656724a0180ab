"""Adding at places leaves no scatter that adds, wherever the places are one sample's own; values are the zoo's matter."""

from __future__ import annotations

import pytest

from ..cases import all_cases
from ..referee import energy_of, score_graph


@pytest.mark.parametrize(
    ("name", "written_with"),
    [
        ("index_two_lists", "Gather"),  # constant, each once
        ("index_separated", "Gather"),
        ("index_list", "MatMul"),  # constant, one twice
        ("index_batch_second", "MatMul"),
        ("index_add", "MatMul"),  # to numbers that are not zero
        ("message_passing", "MatMul"),
        ("index_many_places", "ReduceSum"),  # too many for a matrix
        ("index_own_places", "Equal"),  # known at run time
        ("index_put_accumulate_own_places", "Equal"),
        ("gather_part", "Equal"),
        ("scatter_reduce_amax", "ReduceMax"),
    ],
)
def test_no_scatter_adds(name: str, written_with: str) -> None:
    nodes = list(score_graph(energy_of(all_cases()[f"indexing/{name}"])).graph)
    assert written_with in {node.op_type for node in nodes}
    assert not [node for node in nodes if node.attributes.get_string("reduction", "none") != "none"]


def test_a_scatter_adds_where_samples_share_one_list() -> None:
    nodes = list(score_graph(energy_of(all_cases()["indexing/message_passing_flat"])).graph)
    assert [node for node in nodes if node.attributes.get_string("reduction", "none") == "add"]
