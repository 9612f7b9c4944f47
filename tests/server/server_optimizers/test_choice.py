import pytest

from server.server_optimizers.adaptive import AdaptiveSettings
from server.server_optimizers.choice import ServerOptimizerConfig, server_optimizer
from server.server_optimizers.fed_adam import FedAdam
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.fed_avg_m import FedAvgM
from server.server_optimizers.fed_yogi import FedYogi
from server.server_optimizers.optimizer import ServerOptimizer
from wire_protocol.errors import InvalidValueError


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (ServerOptimizerConfig(), FedAvg(1.0)),
        (ServerOptimizerConfig("fedavg", 0.5), FedAvg(0.5)),
        (ServerOptimizerConfig("fedavgm"), FedAvgM(1.0, 0.9)),
        (ServerOptimizerConfig("fedavgm", 0.1, 0.0), FedAvgM(0.1, 0.0)),
        (ServerOptimizerConfig("fedadam"), FedAdam(AdaptiveSettings(0.01, 0.9, 0.99, 1e-3))),
        (ServerOptimizerConfig("fedyogi", 0.1, 0.5, 0.75, 0.25), FedYogi(AdaptiveSettings(0.1, 0.5, 0.75, 0.25))),
    ],
)
def test_a_name_chooses_the_optimizer(config: ServerOptimizerConfig, expected: ServerOptimizer) -> None:
    assert server_optimizer(config) == expected


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"server_optimizer": "sgd"}, "server_optimizer must be one of fedavg, fedavgm, fedadam, fedyogi, got 'sgd'"),
        ({"server_learning_rate": 0.0}, "server_learning_rate must be above 0 and finite, got 0.0"),
        (
            {"server_momentum": 0.5},
            "server_momentum must be left out, as server_optimizer is fedavg and not fedavgm or fedadam or fedyogi, "
            "got 0.5",
        ),
        (
            {"server_optimizer": "fedavgm", "server_momentum": 1.0},
            "server_momentum must be at least 0 and below 1, got 1",
        ),
        (
            {"server_optimizer": "fedavgm", "server_adaptivity": 0.1},
            "server_adaptivity must be left out, as server_optimizer is fedavgm and not fedadam or fedyogi, got 0.1",
        ),
        (
            {"server_optimizer": "fedadam", "server_second_momentum": -0.1},
            "server_second_momentum must be at least 0 and below 1, got -0.1",
        ),
        (
            {"server_optimizer": "fedyogi", "server_adaptivity": float("nan")},
            "server_adaptivity must be above 0 and finite, got nan",
        ),
    ],
)
def test_a_mistake_names_field_value_and_range(fields: dict, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        ServerOptimizerConfig(**fields)
    assert str(caught.value).startswith(text)
