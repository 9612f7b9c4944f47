import argparse
from typing import Any

import pytest

from server.aggregation.buffered import BufferRule
from server.mode_options import add_mode_options, take_buffer
from wire_protocol.errors import InvalidValueError


def parsed(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    add_mode_options(parser)
    return vars(parser.parse_args(argv))


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
    assert take_buffer(parsed(argv)) == buffer


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
        take_buffer(parsed(argv))
    assert str(caught.value) == text
