from dataclasses import replace
from pathlib import Path

import pytest

from server.config import RunConfig, ServiceSettings
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.errors import InvalidValueError

SETTINGS = ServiceSettings(
    bundle=Path("bundle"), state=Path("state"), broker=parse_broker_url("mqtt://user:secret@localhost", {})
)


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("run", "a/b", "letters, digits"),
        ("rounds", 0, "at least 1"),
        ("rounds", 1.5, "an integer"),
        ("keep", 0.0, "above 0 and at most 1"),
        ("keep", 1.01, "above 0 and at most 1"),
        ("participation", 0.0, "above 0 and at most 1"),
        ("participation_seed", -1, "0 to 2^53"),
        ("keep", float("nan"), "above 0 and at most 1"),
        ("resync_every", 0, "at least 1"),
        ("local_steps", 0, "at least 1"),
        ("batch_size", 0, "at least 1"),
        ("learning_rate", 0.0, "above 0 and finite"),
        ("learning_rate", float("inf"), "above 0 and finite"),
        ("learning_rate", float("nan"), "above 0 and finite"),
        ("selection", "best", "one of fisher, fisher-cohort, random, magnitude, prefix, rolling, full"),
        ("precision", "float8", "one of float32, float16, int8, int4, ternary"),
        ("downlink", "ternary", "one of float32, float16, int8, int4"),
        ("top_k", 0.0, "above 0 and at most 1"),
        ("min_devices", 0, "at least 1"),
        ("quorum", 0, "at least 1"),
        ("round_seconds", 0.0, "above 0 and finite"),
    ],
)
def test_a_run_names_field_value_and_range(field: str, value: object, legal: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        replace(RunConfig(), **{field: value})
    text = str(caught.value)
    assert text.startswith(f"{field} must be")
    assert legal in text
    assert repr(value) in text


@pytest.mark.parametrize(("field", "value"), [("port", -1), ("port", 65536), ("host", ""), ("chunk_bytes", 0)])
def test_a_service_names_field_and_value(field: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=f"{field} must be .*, got {value!r}"):
        replace(SETTINGS, **{field: value})


def test_printing_shows_no_password() -> None:
    assert "secret" not in repr(SETTINGS)
