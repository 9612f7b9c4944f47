import msgspec
import pytest

from wire_protocol.errors import InvalidValueError
from wire_protocol.local_training import LocalTraining


@pytest.mark.parametrize(
    ("field", "value", "legal"),
    [
        ("momentum", 1.0, "at least 0 and below 1"),
        ("momentum", -0.1, "at least 0 and below 1"),
        ("momentum", float("nan"), "at least 0 and below 1"),
        ("proximal", -1.0, "at least 0 and finite"),
        ("proximal", float("inf"), "at least 0 and finite"),
        ("clip_gradient", -1.0, "at least 0 and finite"),
        ("clip_gradient", float("nan"), "at least 0 and finite"),
    ],
)
def test_field_value_and_range_are_named(field, value, legal):
    with pytest.raises(InvalidValueError, match=f"{field} must be {legal}, got {value!r}"):
        LocalTraining(**{field: value})


def test_another_optimizer_is_refused_when_read():
    with pytest.raises(msgspec.ValidationError, match="lion"):
        msgspec.convert({"optimizer": "lion"}, LocalTraining)
