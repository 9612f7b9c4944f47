import argparse
from typing import Any

import pytest

from server.aggregation.buffered import BufferRule
from server.aggregation.choice import AggregationConfig
from server.combining_options import add_combining_options, chosen_aggregation, chosen_buffer, chosen_optimizer
from server.server_optimizers.choice import ServerOptimizerConfig
from wire_protocol.errors import InvalidValueError


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
    arguments = parsed(argv)
    assert chosen_aggregation(arguments) == aggregation
    assert chosen_optimizer(arguments) == optimizer


def parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()

    def add(flag: str, text: str, **settings: Any) -> None:
        parser.add_argument(flag, help=text, **settings)

    add_combining_options(add)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "buffer"),
    [
        ([], None),
        (["--mode=sync"], None),
        (["--mode=buffered", "--buffer-goal=3"], BufferRule(3, most_stale=4, exponent=0.5)),
        (
            ["--mode=buffered", "--buffer-goal=3", "--most-stale=0", "--staleness-exponent=0"],
            BufferRule(3, most_stale=0, exponent=0.0),
        ),
    ],
)
def test_the_mode_is_synchronous_or_buffered(argv: list[str], buffer: BufferRule | None) -> None:
    assert chosen_buffer(parsed(argv)) == buffer


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--mode=buffered"], "buffer_goal must be an integer of at least 1, as mode is buffered, got None"),
        (["--most-stale=0"], "most_stale must be left out, as mode is sync, got 0"),
        (["--mode=buffered", "--buffer-goal=0"], "buffer_goal must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_go_with_the_mode_are_refused(argv: list[str], text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        chosen_buffer(parsed(argv))
    assert str(caught.value) == text
