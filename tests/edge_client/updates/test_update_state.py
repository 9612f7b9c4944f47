"""The machine's cells, and what holds whatever comes in whatever order."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.round_events import Tick
from edge_client.updates import update_phases as up
from edge_client.updates.choice import MOST_RELAPSES, Choice
from edge_client.updates.update_phases import Known, Offered, Outcome
from edge_client.updates.update_state import (
    AGAIN_SECONDS,
    PROOF_SECONDS,
    UNLINKED_SECONDS,
    advance,
    begin,
    due,
    outcome_of,
)
from tests.edge_client.updates.release_trees import release_of

OWN, RUNNING = "0.1.0", "0.2.0"


def offered(version: str, attempt: int = 1) -> Offered:
    return Offered(release_of(version.encode(), version), attempt)


NEW = offered("0.3.0")
CHOICE = Choice(RUNNING)
REST = up.Resting(Known(OWN, RUNNING, CHOICE))
TRIAL = CHOICE.with_trial("0.3.0", 1).started()


def after(phase, *events):
    """The phase after some events, and all commands on the way."""
    commands = ()
    for event in events:
        phase, more = advance(phase, event)
        commands += more
    return phase, commands


def came(offer, now=0.0):
    return up.OfferCame(now=now, offered=offer)


def test_an_offer_is_fetched_unpacked_told_to_the_next_start_and_then_the_process_ends():
    phase, commands = after(REST, came(NEW), up.Fetched(now=1), up.Unpacked(now=2))
    assert commands == (up.Fetch(NEW.release), up.Unpack(NEW.release), up.Write(CHOICE.with_trial("0.3.0", 1)))
    assert outcome_of(phase).status == "ready"
    phase, commands = after(phase, up.Written(now=3, choice=CHOICE.with_trial("0.3.0", 1)))
    assert isinstance(phase, up.Leaving)
    assert [type(command) for command in commands] == [up.Leave]


@pytest.mark.parametrize(
    ("offer", "choice", "status"),
    [
        (offered("0.2.0"), CHOICE, "confirmed"),
        (offered("0.1.9"), CHOICE, "refused"),
        (offered("0.2"), CHOICE, "refused"),
        (offered("0.3.0"), CHOICE.with_failed("0.3.0", 1), "failed"),
        (offered("0.3.0"), CHOICE.with_failed("0.3.0", 5), "failed"),
        (offered("0.3.0", 2), CHOICE.with_failed("0.3.0", 1), "fetching"),
        (None, CHOICE, "none"),
    ],
)
def test_only_what_is_newer_and_has_not_failed_is_taken(offer, choice, status):
    phase, commands = after(up.Resting(Known(OWN, RUNNING, choice)), came(offer))
    assert outcome_of(phase).status == status
    assert bool(commands) == (status == "fetching")


def test_rounds_go_first():
    phase, commands = after(REST, up.RoundChanged(now=0, busy=True), came(NEW))
    assert (type(phase), commands, due(phase)) == (up.Delayed, (), None)
    phase, commands = after(phase, up.RoundChanged(now=5, busy=False))
    assert commands == (up.Fetch(NEW.release),)
    phase, commands = after(phase, up.RoundChanged(now=6, busy=True))
    assert commands == (up.StopFetching(),)
    phase, _ = after(phase, up.RoundChanged(now=7, busy=False), up.Fetched(now=8), up.RoundChanged(now=9, busy=True))
    phase, commands = after(phase, up.Unpacked(now=10), Tick(now=1e9))
    assert (type(phase), commands) == (up.Ready, ())
    phase, commands = after(phase, up.RoundChanged(now=11, busy=False))
    assert commands == (up.Write(CHOICE.with_trial("0.3.0", 1)),)
    written = up.Written(now=12, choice=commands[0].choice)
    phase, commands = after(phase, up.RoundChanged(now=12, busy=True), written)
    assert (type(phase), commands) == (up.Leaving, ())
    assert isinstance(after(phase, up.RoundChanged(now=13, busy=False))[1][0], up.Leave)


def test_what_fails_is_tried_again_later_and_less_and_less_often():
    phase, _ = after(REST, came(NEW))
    waits = []
    for number in range(12):
        phase, _ = after(phase, up.NotNow(now=0, jitter=0.999, reason="no connection"))
        assert outcome_of(phase) == Outcome("0.3.0", 1, "waiting", "no connection")
        waits.append(due(phase))
        phase, commands = after(phase, Tick(now=due(phase) - 1), Tick(now=due(phase)))
        assert commands == (up.Fetch(NEW.release),), number
    assert waits == sorted(waits)
    assert waits[0] < 2.1 * AGAIN_SECONDS
    assert waits[-1] > 3000


def test_an_archive_that_is_not_legal_has_failed_for_good():
    phase, commands = after(REST, came(NEW), up.Fetched(now=1), up.Illegal(now=2, reason="a link"))
    assert commands[-1] == up.Write(CHOICE.with_failed("0.3.0", 1))
    assert outcome_of(phase) == Outcome("0.3.0", 1, "failed", "a link")
    phase, commands = after(phase, came(NEW, 3))
    assert (outcome_of(phase).reason, commands) == ("a link", ())


def test_another_offer_takes_the_place_of_the_one_on_its_way_and_none_ends_it():
    fetching, _ = after(REST, came(NEW))
    other = offered("0.4.0")
    for phase in (fetching, after(fetching, up.NotNow(now=0, reason="x"))[0], up.Ready(fetching.known, NEW)):
        following, commands = after(phase, came(other))
        assert commands[-1] == up.Fetch(other.release)
        assert (up.StopFetching() in commands) == (phase is fetching)
        assert isinstance(after(phase, came(None))[0], up.Resting)
        assert after(phase, came(NEW)) == (phase, ())
        assert following.wanted == other
    unpacking, _ = after(fetching, up.Fetched(now=1), came(other, 2))
    assert after(unpacking, up.Unpacked(now=3))[1] == (up.Fetch(other.release),)


def test_ten_minutes_on_trial_with_a_counted_round_or_idle_with_a_link_prove_it():
    start, commands = begin(OWN, "0.3.0", TRIAL, 100.0)
    assert (type(start), commands, outcome_of(start).status) == (up.Proving, (), "trial")
    proven = (up.Write(TRIAL.proven()),)
    linked, commands = after(start, up.LinkChanged(now=110, up=True), Tick(now=110 + PROOF_SECONDS - 1))
    assert (commands, due(linked)) == ((), 110 + PROOF_SECONDS)
    assert after(linked, Tick(now=110 + PROOF_SECONDS))[1] == proven
    busy, _ = after(linked, up.RoundChanged(now=120, busy=True))
    assert (due(busy), after(busy, Tick(now=1e6))[1]) == (None, ())
    idle, _ = after(busy, up.RoundChanged(now=900, busy=False))
    assert due(idle) == 900 + PROOF_SECONDS
    counted, commands = after(linked, up.RoundCounted(now=130), Tick(now=100 + PROOF_SECONDS - 1))
    assert (commands, due(counted)) == ((), 100 + PROOF_SECONDS)
    assert after(idle, up.RoundCounted(now=901))[1] == proven
    assert after(counted, up.LinkChanged(now=140, up=False), Tick(now=100 + PROOF_SECONDS))[1] == ()
    done, _ = after(counted, Tick(now=1000), up.NotNow(now=1002, reason="full"))
    assert after(done, Tick(now=1002 + AGAIN_SECONDS))[1] == proven
    confirmed, _ = after(done, up.Written(now=1003, choice=TRIAL.proven()))
    assert outcome_of(confirmed) == Outcome("0.3.0", 1, "confirmed")


@pytest.mark.parametrize("cut", [False, True])
def test_on_trial_two_hours_without_link_or_a_fault_ends_the_process(cut):
    start, _ = begin(OWN, "0.3.0", TRIAL, 0.0)
    began = 0.0
    if cut:
        start, _ = after(start, up.LinkChanged(now=50, up=True), up.LinkChanged(now=70, up=False))
        began = 70.0
    assert due(start) == began + UNLINKED_SECONDS
    phase, commands = after(start, Tick(now=began + UNLINKED_SECONDS))
    assert isinstance(commands[0], up.Leave)
    assert isinstance(after(start, up.FaultSeen(now=1))[1][0], up.Leave)
    assert after(phase, up.RoundCounted(now=2), came(NEW, 3))[1] == ()


RELAPSED = replace(CHOICE, confirmed_attempt=2, starts=MOST_RELAPSES)


def test_a_confirmed_release_that_ends_again_and_again_has_failed():
    phase, commands = begin(OWN, OWN, RELAPSED, 0.0)
    assert commands == (up.Write(Choice(failed={RUNNING: 2})),)
    assert outcome_of(phase).reason == "it ended 10 times in a row, soon after its start; 0.1.0 runs again"
    assert after(phase, came(offered(RUNNING, 2)))[1] == ()
    assert after(phase, came(offered(RUNNING, 3)))[1] != ()
    early = replace(RELAPSED, starts=MOST_RELAPSES - 1)
    assert begin(OWN, OWN, early, 0.0)[1] == ()


def test_a_confirmed_release_has_lived_after_ten_minutes_whatever_it_waits_for():
    started = replace(CHOICE, starts=3)
    phase, commands = begin(OWN, RUNNING, started, 100.0)
    assert (commands, due(phase)) == ((), 100 + PROOF_SECONDS)
    lived = up.Write(CHOICE)
    alive, commands = after(phase, Tick(now=100 + PROOF_SECONDS))
    assert (commands, due(alive)) == ((lived,), None)
    waiting, _ = after(phase, up.RoundChanged(now=101, busy=True), came(NEW, 102))
    assert after(waiting, Tick(now=100 + PROOF_SECONDS))[1] == (lived,)
    assert after(phase, Tick(now=99 + PROOF_SECONDS))[1] == ()


def test_what_did_not_prove_itself_has_failed_at_the_next_start():
    phase, commands = begin(OWN, RUNNING, TRIAL, 0.0)
    assert commands == (up.Write(CHOICE.with_failed("0.3.0", 1)),)
    assert outcome_of(phase).status == "failed"
    assert after(phase, came(NEW))[1] == ()
    assert after(phase, came(offered("0.3.0", 2)))[1] == (up.Fetch(NEW.release),)


def test_a_release_that_never_was_started_may_be_taken_again():
    phase, commands = begin(OWN, RUNNING, CHOICE.with_trial("0.3.0", 1), 0.0)
    assert commands == (up.Write(CHOICE),)
    assert after(phase, came(NEW))[1] == (up.Fetch(NEW.release),)


def test_an_upgraded_package_overtakes_what_came_over_the_air():
    phase, commands = begin("0.4.0", "0.4.0", TRIAL, 0.0)
    assert commands == (up.Write(Choice()),)
    assert after(phase, came(NEW))[1] == ()
    assert outcome_of(after(phase, came(NEW))[0]).status == "refused"


moments = st.floats(0, 1e5)
offers = st.sampled_from([None, NEW, offered("0.2.0"), offered("0.4.0", 3)])
plain = (up.Fetched, up.Unpacked, up.RoundCounted, up.FaultSeen, Tick)
events = st.one_of(
    st.builds(up.OfferCame, now=moments, offered=offers),
    st.builds(up.NotNow, now=moments, jitter=st.floats(0, 0.99), reason=st.just("x")),
    st.builds(up.Illegal, now=moments, reason=st.just("x")),
    st.builds(up.LinkChanged, now=moments, up=st.booleans()),
    st.builds(up.RoundChanged, now=moments, busy=st.booleans()),
    st.builds(up.NoneFits, now=moments, outcome=st.just(Outcome("0.9.0", 1, "refused", "x"))),
    *(st.builds(kind, now=moments) for kind in plain),
)  # fmt: skip


@given(st.sampled_from([REST, begin(OWN, "0.3.0", TRIAL, 0.0)[0]]), st.lists(events, max_size=40))
@settings(max_examples=300, deadline=None)
def test_whatever_comes_nothing_is_fetched_or_left_in_a_round_and_only_what_is_unpacked_is_tried(phase, happenings):
    on_disk = None
    for happening in happenings:
        phase, commands = advance(phase, happening)
        for command in commands:
            if isinstance(command, up.Fetch | up.Leave):
                assert not phase.known.busy
            if isinstance(command, up.Unpack):
                on_disk = command.release.version
            if isinstance(command, up.Write) and command.choice.trial:
                assert command.choice.trial == on_disk
                phase, more = advance(phase, up.Written(now=happening.now, choice=command.choice))
                assert not (more and phase.known.busy)
        outcome_of(phase)
        assert replace(phase) == phase
