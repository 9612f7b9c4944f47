import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.releases.rollout import Rollout, Said, progress
from wire_protocol.errors import InvalidValueError

FLEET = tuple(f"d{number}" for number in range(20))


def said(status: str, devices, version: str = "0.2.0", attempt: int = 1) -> dict[str, Said]:
    return dict.fromkeys(devices, Said(version, attempt, status))


def test_members_are_all_those_named_or_those_with_the_tag_in_an_order_of_their_own():
    everybody = Rollout("0.2.0").members(FLEET, frozenset())
    assert set(everybody) == set(FLEET)
    assert everybody != FLEET
    assert everybody == Rollout("0.2.0").members(reversed(FLEET), frozenset())
    assert everybody != Rollout("0.2.1").members(FLEET, frozenset())
    assert set(Rollout("0.2.0", devices=("d3", "d5", "gone")).members(FLEET, frozenset())) == {"d3", "d5"}
    assert Rollout("0.2.0", tag="pi").members(FLEET, frozenset({"d7"})) == ("d7",)
    assert Rollout("0.2.0", tag="pi").members(FLEET, frozenset()) == ()


def test_the_rest_is_offered_it_when_nine_of_ten_of_the_first_part_have_proven_it():
    rollout = Rollout("0.2.0", fraction=0.5)
    members = rollout.members(FLEET, frozenset())
    first = members[:10]
    assert progress(rollout, members, {}).offered == frozenset(first)
    assert progress(rollout, members, said("confirmed", first[:8])).offered == frozenset(first)
    assert progress(rollout, members, said("confirmed", first[:9])).offered == frozenset(members)
    assert progress(rollout, members, said("confirmed", first, attempt=2)).offered == frozenset(first)
    assert progress(rollout, members, said("confirmed", first, "0.1.0")).offered == frozenset(first)
    unfit = said("refused", first[:5]) | said("confirmed", first[5:])
    assert progress(rollout, members, unfit).offered == frozenset(members)


def test_it_halts_above_a_share_of_failures_among_those_that_took_it():
    rollout = Rollout("0.2.0", halt_at=0.2)
    taken = said("confirmed", FLEET[:6]) | said("trial", FLEET[6:8])
    assert not progress(rollout, FLEET, taken | said("failed", FLEET[8:10])).halt
    stands = progress(rollout, FLEET, taken | said("failed", FLEET[8:11]))
    assert stands.halt == "3 of 11 devices that took release 0.2.0 say that it failed"
    assert (stands.confirmed, stands.trying, stands.failed) == (6, 2, 3)
    assert progress(Rollout("0.2.0"), FLEET, said("failed", FLEET[:1])).halt
    assert not progress(Rollout("0.2.0", halt_at=1.0), FLEET, said("failed", FLEET)).halt
    assert not progress(rollout, FLEET, said("refused", FLEET) | said("waiting", FLEET[:3])).halt


statuses = st.sampled_from(["none", "refused", "waiting", "fetching", "ready", "trial", "confirmed", "failed"])


@given(st.floats(0.01, 1), st.dictionaries(st.sampled_from(FLEET), statuses), st.sampled_from(FLEET))
def test_who_was_offered_it_stays_so_when_more_confirm(fraction, known, one):
    rollout = Rollout("0.2.0", fraction=fraction)
    members = rollout.members(FLEET, frozenset())
    reports = {device: Said("0.2.0", 1, status) for device, status in known.items()}
    before = progress(rollout, members, reports).offered
    after = progress(rollout, members, reports | said("confirmed", [one])).offered
    assert before <= after
    assert members[0] in before


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"version": "1"}, "version must be 2 to 4 numbers"),
        ({"attempt": 0}, "attempt must be 1 to"),
        ({"fraction": 0.0}, "fraction must be above 0"),
        ({"halt_at": 1.1}, "halt_at must be 0 to 1"),
        ({"devices": ("a b",)}, "device must be"),
        ({"devices": ("a",), "tag": "b"}, "tag must be left out where devices are named"),
    ],
)
def test_what_is_not_legal_is_refused(change, complaint):
    with pytest.raises(InvalidValueError, match=complaint):
        Rollout(**{"version": "0.2.0"} | change)
