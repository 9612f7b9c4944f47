import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.turns import Claim, whose_turn


def wanting(*runs: str) -> list[Claim]:
    return [Claim(run, wants=True) for run in runs]


@pytest.mark.parametrize(
    ("last", "claims", "expected"),
    [
        (None, [], None),
        (None, wanting("a", "b"), "a"),
        ("a", wanting("a", "b", "c"), "b"),
        ("c", wanting("a", "b", "c"), "a"),
        ("a", wanting("a"), "a"),
        ("gone", wanting("a", "b"), "a"),
        ("a", [Claim("a", wants=True), Claim("b", wants=False)], "a"),
        ("a", [Claim("a", wants=False), Claim("b", wants=False)], None),
        ("a", [Claim("a", wants=True, until=10.5), Claim("b", wants=True)], "a"),
        ("a", [Claim("a", wants=True, until=10.0), Claim("b", wants=True)], "b"),
        ("a", [Claim("a", wants=True, until=10.0), Claim("b", wants=False)], "a"),
        ("a", [Claim("a", wants=True, until=9.0), Claim("b", wants=True, until=8.0)], "b"),
        ("a", [Claim("a", wants=False), Claim("b", wants=True, until=99.0), Claim("c", wants=True)], "b"),
    ],
)
def test_whose_turn(last: str | None, claims: list[Claim], expected: str | None) -> None:
    assert whose_turn(last, claims, 10.0) == expected


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 5))
def test_all_that_want_one_have_a_turn_before_anyone_has_two(wants: list[bool], start: int) -> None:
    claims = [Claim(str(number), wants=one) for number, one in enumerate(wants)]
    last, turns = str(start), []
    for _ in range(sum(wants)):
        last = whose_turn(last, claims, 0.0) or ""
        turns.append(last)
    assert sorted(turns) == [claim.run for claim in claims if claim.wants]
