import numpy as np

from wire_protocol.flat_arrays import FlatArrays, SparseArrays, sent_entries, split

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


def test_what_was_left_out_is_0_and_made_when_asked_for() -> None:
    places, sent = np.array([1, 6, 8], dtype=np.int32), np.array([3, 4, 5], dtype=np.float32)
    arrays = SparseArrays(places, sent, SHAPES)
    assert [array.tolist() for array in sent_entries(arrays)] == [[3, 4, 5]]
    assert {name: array.tolist() for name, array in arrays.items()} == {
        "b": [[0, 3, 0], [0, 0, 0]],
        "a": 4,
        "empty": [],
        "c": [0, 5],
    }
    assert arrays.vector is arrays.vector
    assert arrays.vector.dtype == np.float32


def test_all_entries_are_found_however_they_lie() -> None:
    vector = np.arange(9, dtype=np.float32)
    for arrays in (FlatArrays(vector, SHAPES), split(vector, SHAPES)):
        assert np.concatenate([array.ravel() for array in sent_entries(arrays)]).tolist() == list(range(9))
