from typing import Any

import msgspec
import pytest

from server.adaptive_clipping import ClipQuantile
from server.aggregation.buffered import BufferRule
from server.aggregation.choice import AggregationConfig
from server.config import RunConfig
from server.privacy.run_words import epsilon_after
from server.run_codec import read_run, run_values
from server.server_optimizers.choice import ServerOptimizerConfig
from wire_protocol.errors import InvalidValueError
from wire_protocol.local_training import LocalTraining
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

CONFIGS = [
    RunConfig(run="run"),
    RunConfig(
        run="run",
        rounds=3,
        difference="off",
        training=LocalTraining(optimizer="adam"),
        buffer=BufferRule(goal=3),
        aggregation=AggregationConfig("trimmed-mean", trim=0.2),
        server_optimizer=ServerOptimizerConfig("fedadam", server_momentum=0.5),
        selection="random",
        privacy=DevicePrivacy(1.0, 2.0),
    ),
    RunConfig(
        run="run",
        selection="random",
        privacy=RecordPrivacy(1.0, 2.0, 0.1, count_noise_multiplier=1.0),
        clipping=ClipQuantile(0.5),
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_survives_json(config: RunConfig) -> None:
    values = msgspec.json.decode(msgspec.json.encode(run_values(config)))
    assert read_run("run", values) == config


def test_what_is_left_out_is_the_default_but_for_privacy() -> None:
    assert read_run("mine", {"privacy": "none", "rounds": 7}) == RunConfig(run="mine", rounds=7)
    with pytest.raises(InvalidValueError, match="privacy is missing: say none"):
        read_run("mine", {"rounds": 7})


def test_noise_is_found_for_an_epsilon() -> None:
    values = {"rounds": 10, "selection": "random", "privacy": {"type": "device", "clip_norm": 1.0, "epsilon": 3}}
    config = read_run("run", values)
    assert epsilon_after(config, 10) == pytest.approx(3, rel=2e-3)
    assert read_run("run", run_values(config)) == config
    both = values["privacy"] | {"noise_multiplier": 1.0}
    for privacy, field in (
        (both, "privacy.noise_multiplier"),
        (values["privacy"] | {"epsilon": "low"}, "privacy.epsilon"),
        (values["privacy"] | {"epsilon": 0}, "epsilon"),
        (values["privacy"] | {"clip_norm": 0.0}, "privacy.clip_norm"),
    ):
        with pytest.raises(InvalidValueError) as caught:
            read_run("run", values | {"privacy": privacy})
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"rounds": "many"}, "rounds: Expected `int`, got `str`"),
        ({"rounds": 0}, "rounds must be an integer of at least 1, got 0"),
        ({"rouds": 3}, "rouds must be left out: there are run, rounds,"),
        ({"run": "other"}, "run must be left out, or run, got 'other'"),
        ({"selection": "best"}, "selection: Invalid enum value 'best'"),
        ({"difference": "int3"}, "difference: Invalid enum value 'int3'"),
        ({"privacy": None}, "privacy must be an object, or"),
        ({"privacy": "some"}, "privacy: Expected `object | null`, got `str`"),
        ({"privacy": {"clip_norm": 1.0}}, "privacy: Object missing required field `type`"),
        ({"privacy": {"type": "device", "clip_norm": 1.0, "noise": 1.0}}, "privacy: Object .* unknown field `noise`"),
        ({"buffer": {"goal": 0}}, "buffer_goal must be"),
        ({"buffer": {"goal": 2, "stale": 1}}, "buffer.stale must be left out: there are goal,"),
        ({"aggregation": {"trim": 0.2}}, "trim must be left out, as aggregation is mean"),
        ({"training": {"optimiser": "adam"}}, "training: Object contains unknown field `optimiser`"),
        ({"selection": "\ud800"}, "a text has '.ud800', which is not Unicode"),
    ],
)
def test_mistakes_name_the_field(values: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidValueError, match=text):
        read_run("run", {"privacy": "none"} | values)
