from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client import delivery
from edge_client.delivery import CHUNKS_AT_ONCE, Delivery, Waiting, advance, begin, due, holds
from edge_client.delivery_events import (
    Added,
    Announce,
    Connected,
    Disconnected,
    NeedArrived,
    ReceiptArrived,
    Removed,
    SendChunks,
    Settle,
    Transmitted,
)
from edge_client.outbox import Parcel
from edge_client.round_events import Tick
from wire_protocol.messages import Manifest, Need, Receipt

NOW = 1000.0


def parcel(number: int, chunks: int = 3, run: str = "r") -> Parcel:
    return Parcel(run, number, number, Manifest(sha256=bytes([number]) * 32, size=chunks * 10, chunk_bytes=10), None)


def need(number: int, *missing: int, run: str = "r") -> NeedArrived:
    return NeedArrived(now=NOW, need=Need(run=run, round=number, missing=missing))


def receipt(number: int, digest: bytes | None = None, accepted: bool = True, run: str = "r") -> ReceiptArrived:
    content = Receipt(run=run, round=number, sha256=digest or bytes([number]) * 32, accepted=accepted)
    return ReceiptArrived(now=NOW, receipt=content)


P1, P2 = parcel(1), parcel(2)
UP, DOWN, SENT = Connected(now=NOW), Disconnected(now=NOW), Transmitted(now=NOW, jitter=0.5)


def after(state: Delivery, *events):
    """The state after events, and the commands of all of them."""
    commands = []
    for event in events:
        state, more = advance(state, event)
        commands += more
    return state, commands


def test_nothing_is_sent_before_the_link_is_up_and_then_the_newest_is_announced_first():
    state, commands = after(begin((P1,)), Added(now=NOW, parcel=P2))
    assert (commands, due(state)) == ([], None)
    state, commands = after(state, UP)
    assert commands == [Announce(P2)]
    state, commands = after(state, SENT)
    assert commands == [Announce(P1)]


def test_a_manifest_is_not_followed_by_chunks_until_the_server_asks():
    state, commands = after(begin((P1,)), UP, SENT, Tick(now=NOW + 0.5))
    assert commands == [Announce(P1)]
    state, commands = after(state, need(1, 2, 0, 2, 99))
    assert commands == [SendChunks(P1, (0, 2))]


def test_an_unanswered_announcement_is_repeated_after_growing_waits():
    state, _ = after(begin((P1,)), UP)
    waits, now = [], NOW
    for _ in range(8):
        state, _ = advance(state, Transmitted(now=now, jitter=0.5))
        when = due(state)
        assert when is not None
        assert advance(state, Tick(now=when - 0.01)) == (state, ())
        waits.append(when - now)
        now = when
        state, commands = advance(state, Tick(now=when))
        assert commands == (Announce(P1),)
    assert waits == [1 + 0.5 * min(60, 3 * 2**attempt) for attempt in range(8)]


def test_the_server_heard_the_waits_begin_anew():
    state, _ = after(begin((P1,)), UP, SENT)
    state = replace(state, waiting=(replace(state.waiting[0], repeats=9),))
    state, _ = after(state, need(1, 1), SENT)
    assert due(state) == NOW + 1 + 0.5 * 3


def test_only_the_receipt_for_its_hash_ends_it():
    state, _ = after(begin((P1, P2)), UP)
    for stray in (receipt(1, bytes(32)), receipt(3), receipt(1, run="s"), receipt(1, P2.manifest.sha256)):
        assert advance(state, stray) == (state, ())
    state, commands = after(state, receipt(1))
    assert commands == [Settle(P1, receipt(1).receipt)]
    assert (holds(state, P1), holds(state, P2)) == (False, True)
    state, commands = after(state, receipt(2, accepted=False), SENT)
    assert commands == [Settle(P2, receipt(2, accepted=False).receipt)]
    assert (state.waiting, due(state)) == ((), None)


def test_a_receipt_that_comes_again_changes_nothing():
    state, _ = after(begin((P1,)), UP, SENT, receipt(1))
    assert advance(state, receipt(1)) == (state, ())


def test_while_the_link_is_down_nothing_is_sent_and_no_time_counts():
    state, commands = after(begin((P1,)), UP, SENT, need(1, 0, 1), DOWN, SENT, Tick(now=NOW + 1e6), need(1, 0))
    assert commands == [Announce(P1), SendChunks(P1, (0, 1))]
    assert due(state) is None
    assert after(state, UP)[1] == [Announce(P1)]


def test_one_thing_is_sent_at_a_time():
    state, commands = after(begin((P1, P2)), UP, need(1, 0), need(2, 1), Added(now=NOW, parcel=parcel(3)))
    assert commands == [Announce(P2)]
    state, commands = after(state, SENT, SENT, SENT, SENT)
    assert commands == [Announce(parcel(3)), SendChunks(P2, (1,)), SendChunks(P1, (0,))]
    assert after(state, SENT)[1] == []


def test_a_newer_parcel_overtakes_a_large_one_between_two_of_its_portions():
    large = parcel(1, chunks=40)
    state, commands = after(begin((large,)), UP, SENT, need(1, *range(40)), Added(now=NOW, parcel=P2), SENT)
    assert commands == [Announce(large), SendChunks(large, tuple(range(CHUNKS_AT_ONCE))), Announce(P2)]
    state, commands = after(state, need(2, 0), SENT, SENT, SENT)
    assert commands == [
        SendChunks(P2, (0,)),
        SendChunks(large, tuple(range(CHUNKS_AT_ONCE, 2 * CHUNKS_AT_ONCE))),
        SendChunks(large, tuple(range(2 * CHUNKS_AT_ONCE, 40))),
    ]


def test_a_need_that_comes_twice_sends_its_chunks_once():
    state, commands = after(begin((P1,)), UP, SENT, need(1, 0, 1), need(1, 0, 1))
    assert commands == [Announce(P1), SendChunks(P1, (0, 1))]
    state, commands = after(state, need(1, 1, 2), SENT, SENT)
    assert commands == [SendChunks(P1, (2,))]


@pytest.mark.parametrize("stray", [need(1), need(1, 3, 99), need(2, 0), need(1, 0, run="s")])
def test_a_need_that_names_nothing_of_ours_changes_nothing(stray):
    state, _ = after(begin((P1,)), UP, SENT)
    assert advance(state, stray) == (state, ())


def test_a_parcel_that_left_the_outbox_is_not_announced_again():
    state, _ = after(begin((P1,)), UP, Removed(now=NOW, parcel=P1), SENT)
    assert (state.waiting, due(state)) == ((), None)


def test_a_parcel_added_twice_waits_once():
    state, _ = after(begin((P1,)), Added(now=NOW, parcel=P1))
    assert state.waiting == (Waiting(P1, due=None),)


numbers = st.integers(1, 4)
times = st.fixed_dictionaries({"now": st.floats(0, 1000), "jitter": st.floats(0, 0.999)})
events = st.one_of(
    st.builds(lambda kind, moment: kind(**moment), st.sampled_from([Connected, Disconnected, Tick]), times),
    st.builds(lambda number, moment: Added(parcel=parcel(number, 20), **moment), numbers, times),
    st.builds(lambda number, moment: Removed(parcel=parcel(number, 20), **moment), numbers, times),
    st.builds(lambda number, missing: need(number, *missing), numbers, st.lists(st.integers(0, 25), max_size=25)),
    st.builds(receipt, numbers, numbers.map(lambda number: bytes([number]) * 32)),
    st.just("sent"),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=80))
def test_no_sequence_of_events_raises_sends_two_things_at_once_or_settles_a_parcel_twice(sequence):
    state = begin(())
    in_hand, settled, added = False, [], set()
    for drawn in sequence:
        if drawn == "sent" and not in_hand:
            continue
        event = SENT if drawn == "sent" else drawn
        in_hand = in_hand and drawn != "sent"
        if isinstance(event, Added) and not any(one.parcel == event.parcel for one in state.waiting):
            added.add(event.parcel.key)
        state, commands = advance(state, event)
        for command in commands:
            if isinstance(command, Settle):
                assert command.receipt.sha256 == command.parcel.manifest.sha256
                assert command.parcel.key in added
                settled.append(command)
                continue
            assert state.connected
            assert not in_hand
            in_hand = True
            if isinstance(command, SendChunks):
                assert set(command.chunks) <= set(range(20))
                assert 1 <= len(command.chunks) <= CHUNKS_AT_ONCE
        assert in_hand == (state.sending is not None)
        assert (due(state) is None) == (not state.connected or in_hand or all(one.due is None for one in state.waiting))


@settings(deadline=None)
@given(st.lists(events.filter(lambda event: event != "sent"), max_size=40))
def test_from_anywhere_whatever_waits_is_still_delivered(sequence):
    state, _ = after(begin((P1,)), *sequence, Disconnected(now=NOW))
    if state.sending is not None:
        state, _ = after(state, SENT)
    state, commands = after(state, UP)
    told = set()
    for _ in range(50):
        for command in commands:
            if isinstance(command, Announce):
                told.add(command.parcel.key)
        state, commands = after(state, SENT)
    assert {one.parcel.key for one in state.waiting} <= told
    for one in state.waiting:
        state, commands = after(state, receipt(one.parcel.round, one.parcel.manifest.sha256))
        assert isinstance(commands[0], Settle)
    assert state.waiting == ()


def test_the_waits_do_not_overflow():
    state, _ = after(begin((P1,)), UP)
    state = replace(state, waiting=(replace(state.waiting[0], repeats=10_000),))
    state, _ = after(state, SENT)
    assert due(state) == NOW + 1 + delivery.ANNOUNCE_AGAIN_CEILING_SECONDS / 2
