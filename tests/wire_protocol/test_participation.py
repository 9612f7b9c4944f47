from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.participation import draw, takes_part

DEVICES = [f"device-{number}" for number in range(2000)]


def test_a_draw_is_what_the_document_says() -> None:
    digest = sha256(b"12/3/kitchen").hexdigest()
    assert draw(12, 3, "kitchen") == (int(digest[:16], 16) >> 11) / 2**53 == 0.6991743753207986


def test_a_rate_draws_about_that_part_of_the_devices_others_every_round_and_with_every_seed() -> None:
    drawn = {key: {device for device in DEVICES if takes_part(0.1, *key, device)} for key in ((0, 1), (0, 2), (1, 1))}
    assert all(150 < len(devices) < 250 for devices in drawn.values())
    first, second, seeded = drawn.values()
    assert len(first & second) < 50
    assert len(first & seeded) < 50


@given(st.integers(0, 2**53), st.integers(1, 10**9), st.sampled_from(DEVICES), st.floats(0, 1), st.floats(0, 1))
def test_everybody_takes_part_at_a_rate_of_1_and_who_does_at_a_rate_does_at_a_larger_one(
    seed: int, number: int, device: str, one: float, other: float
) -> None:
    assert 0 <= draw(seed, number, device) < 1
    assert takes_part(1.0, seed, number, device)
    if takes_part(min(one, other), seed, number, device):
        assert takes_part(max(one, other), seed, number, device)


@pytest.mark.parametrize("rate", [1e-9, 0.5])
def test_a_draw_does_not_depend_on_the_rate(rate: float) -> None:
    assert [takes_part(rate, 0, 1, device) for device in DEVICES] == [draw(0, 1, device) < rate for device in DEVICES]
