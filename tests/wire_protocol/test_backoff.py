import pytest

from wire_protocol.backoff import full_jitter


@pytest.mark.parametrize(
    ("attempt", "jitter", "seconds"),
    [(0, 0.0, 0.0), (0, 0.5, 1.0), (1, 0.5, 2.0), (3, 0.999, 15.984), (4, 1.0, 20.0), (10**9, 0.5, 10.0)],
)
def test_delay_doubles_up_to_the_ceiling_and_jitter_takes_a_share_of_it(attempt, jitter, seconds):
    assert full_jitter(attempt, jitter, base=2.0, ceiling=20.0) == pytest.approx(seconds)
