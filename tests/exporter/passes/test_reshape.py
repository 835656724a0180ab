from __future__ import annotations

import numpy as np

from ebm_export.exporter.passes import MergeReshapes

from .graphs import check_pass, graph, kinds

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def i64(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


class TestReshape:
    def test_two_in_a_row_become_one(self) -> None:
        model = graph(
            "g (float[B, 3, 4] x) => (float[B, 4, 3] y) { a = Reshape(x, s)  y = Reshape(a, t) }",
            {"s": i64(-1, 12), "t": i64(-1, 4, 3)},
        )
        assert check_pass(MergeReshapes(), model, {"x": X})
        assert model.graph[-1].inputs[0].name == "x"

    def test_the_first_stays_where_it_is_read(self) -> None:
        model = graph(
            "g (float[B, 3, 4] x) => (float[B, 4, 3] y, float[B, 12] z) "
            "{ a = Reshape(x, s)  y = Reshape(a, t)  z = Neg(a) }",
            {"s": i64(-1, 12), "t": i64(-1, 4, 3)},
        )
        assert check_pass(MergeReshapes(), model, {"x": X})
        assert kinds(model).count("Reshape") == 2

    def test_to_its_own_shape_is_nothing(self) -> None:
        model = graph(
            "g (float[B, 3, 4] x) => (float[B, 3, 4] y) <float[B, 3, 4] a> { a = Reshape(x, s)  y = Neg(a) }",
            {"s": i64(-1, 3, 4)},
        )
        assert check_pass(MergeReshapes(), model, {"x": X})
        assert kinds(model) == ["Neg"]

    def test_an_input_that_is_an_output_keeps_its_node(self) -> None:
        model = graph("g (float[B, 3, 4] x) => (float[B, 3, 4] y) { y = Reshape(x, s) }", {"s": i64(-1, 3, 4)})
        assert not check_pass(MergeReshapes(), model, {"x": X})


class TestTranspose:
    def test_there_and_back_is_nothing(self) -> None:
        model = graph(
            "g (float[B, 3, 4] x) => (float[B, 3, 4] y) "
            "{ a = Transpose<perm=[0,2,1]>(x)  b = Transpose<perm=[0,2,1]>(a)  y = Neg(b) }"
        )
        check_pass(MergeReshapes(), model, {"x": X})
        check_pass(MergeReshapes(), model, {"x": X})
        assert [node.inputs[0].name for node in model.graph if node.op_type == "Neg"] == ["x"]

    def test_of_two_one_is_made(self) -> None:
        model = graph(
            "g (float[B, 3, 4] x) => (float[4, B, 3] y) "
            "{ a = Transpose<perm=[0,2,1]>(x)  y = Transpose<perm=[1,0,2]>(a) }"
        )
        assert check_pass(MergeReshapes(), model, {"x": X})
        assert list(model.graph[-1].attributes["perm"].as_ints()) == [2, 0, 1]

    def test_past_a_dimension_of_one_is_a_reshape(self) -> None:
        model = graph("g (float[B, 1, 4] x) => (float[B, 4, 1] y) { y = Transpose<perm=[0,2,1]>(x) }")
        assert check_pass(MergeReshapes(), model, {"x": X[:, :1]})
        assert kinds(model) == ["Reshape"]

    def test_a_real_one_stays(self) -> None:
        model = graph("g (float[B, 3, 4] x) => (float[B, 4, 3] y) { y = Transpose<perm=[0,2,1]>(x) }")
        assert not check_pass(MergeReshapes(), model, {"x": X})
