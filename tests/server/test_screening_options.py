import argparse

import pytest

from server.config import RunConfig
from server.quarantine import QuarantineRule
from server.screening_options import add_screening_options, take_screening
from wire_protocol.errors import InvalidValueError


def taken(argv: list[str]) -> RunConfig:
    parser = argparse.ArgumentParser()
    add_screening_options(parser)
    return RunConfig(**take_screening(vars(parser.parse_args(argv))))


def test_without_options_a_run_screens() -> None:
    assert taken([]) == RunConfig()
    assert (RunConfig().outliers, RunConfig().quarantine) == ("leave-out", QuarantineRule(3, 10))


def test_options_say_what_becomes_of_outliers_and_when_a_device_is_held() -> None:
    assert taken(["--outliers=keep"]).outliers == "keep"
    assert taken(["--quarantine-faults=0"]).quarantine is None
    assert taken(["--quarantine-faults=2", "--quarantine-rounds=4"]).quarantine == QuarantineRule(2, 4)


def test_what_does_not_go_together_is_named() -> None:
    with pytest.raises(InvalidValueError, match="quarantine_rounds must be at least the 3 faults"):
        taken(["--quarantine-rounds=2"])
