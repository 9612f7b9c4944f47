import argparse
from typing import Any

import pytest

from server.aggregation.choice import AggregationConfig
from server.combining_options import add_combining_options, chosen_aggregation, chosen_optimizer
from server.server_optimizers.choice import ServerOptimizerConfig


@pytest.mark.parametrize(
    ("argv", "aggregation", "optimizer"),
    [
        ([], AggregationConfig(), ServerOptimizerConfig()),
        (
            ["--aggregation=trimmed-mean", "--trim=0.2", "--norm-bound=3"],
            AggregationConfig("trimmed-mean", 0.2, 3.0),
            ServerOptimizerConfig(),
        ),
        (
            ["--server-optimizer=fedavgm", "--server-learning-rate=0.5", "--server-momentum=0.8"],
            AggregationConfig(),
            ServerOptimizerConfig("fedavgm", 0.5, 0.8),
        ),
        (
            ["--server-optimizer=fedyogi", "--server-second-momentum=0.5", "--server-adaptivity=0.1"],
            AggregationConfig(),
            ServerOptimizerConfig("fedyogi", server_second_momentum=0.5, server_adaptivity=0.1),
        ),
    ],
)
def test_every_option_arrives(
    argv: list[str], aggregation: AggregationConfig, optimizer: ServerOptimizerConfig
) -> None:
    parser = argparse.ArgumentParser()

    def add(flag: str, text: str, **settings: Any) -> None:
        parser.add_argument(flag, help=text, **settings)

    add_combining_options(add)
    arguments = parser.parse_args(argv)
    assert chosen_aggregation(arguments) == aggregation
    assert chosen_optimizer(arguments) == optimizer
