import numpy as np

from server.server_optimizer import federated_averaging


def test_adds_the_mean_difference_and_changes_no_argument() -> None:
    parameters = {"w": np.array([1, 2], np.float32)}
    result = federated_averaging(parameters, {"w": np.array([0.5, 0], np.float32)})
    np.testing.assert_array_equal(result["w"], [1.5, 2])
    assert result["w"].dtype == np.float32
    np.testing.assert_array_equal(parameters["w"], [1, 2])
