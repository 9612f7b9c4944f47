import numpy as np

from wire_protocol.flat_arrays import FlatArrays, split

SHAPES = {"b": (2, 3), "a": (), "empty": (0, 4), "c": (2,)}


def test_views_by_name_in_the_order_of_the_shapes() -> None:
    vector = np.arange(9, dtype=np.float32)
    arrays = FlatArrays(vector, SHAPES)
    assert list(arrays) == ["b", "a", "empty", "c"]
    assert len(arrays) == 4
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "b": [[0, 1, 2], [3, 4, 5]],
        "a": 6,
        "empty": [],
        "c": [7, 8],
    }
    assert "d" not in arrays


def test_views_share_the_vectors_memory() -> None:
    vector = np.arange(9, dtype=np.float32)
    for arrays in (FlatArrays(vector, SHAPES), split(vector, SHAPES)):
        arrays["c"][1] += 1
    assert vector[8] == 10
