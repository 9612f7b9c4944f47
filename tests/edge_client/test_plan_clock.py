import pytest

from edge_client.plan_clock import ASSUMED, EARLIEST, LONGEST_WAY, remaining_seconds

NOW = EARLIEST + 1e7
DAY = 86_400.0


@pytest.mark.parametrize(
    ("left", "clock", "retained", "expected"),
    [
        (600, NOW, True, 600),
        (600, NOW, False, 600),
        (-5, NOW, True, -5),
        (-5, NOW, False, -5),  # a slow link
        (-DAY, NOW, True, -DAY),  # an old plan
        (-DAY, NOW, False, ASSUMED),  # this clock is a day ahead
        (DAY + 600, NOW, False, DAY + 600),  # this clock is a day behind
        (1.7e9, 0.0, True, ASSUMED),  # 1970
        (1.7e9, 0.0, False, ASSUMED),
        (-(LONGEST_WAY + 1), NOW, False, ASSUMED),
    ],
)
def test_a_deadline_is_believed_where_the_clock_can_be(left, clock, retained, expected):
    assert remaining_seconds(clock + left, clock, retained=retained) == pytest.approx(expected)
