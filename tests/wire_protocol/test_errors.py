from __future__ import annotations

import pytest

from wire_protocol.errors import InvalidValueError, require


def test_the_text_names_field_value_and_range() -> None:
    require(True, "keep", 0.5, "above 0")
    with pytest.raises(InvalidValueError, match=r"^keep must be above 0, got -1$"):
        require(False, "keep", -1, "above 0")


@pytest.mark.parametrize("value", ["x" * 10_000, b"\n" * 10_000, (1,) * 10_000, 10**3000])
def test_a_long_value_is_shortened_to_one_line(value: object) -> None:
    with pytest.raises(InvalidValueError) as caught:
        require(False, "field", value, "short")
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
