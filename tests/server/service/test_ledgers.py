"""What the server remembers of devices' privacy ledgers and tells them, by the whole service against a real broker."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import pytest

from server.config import ServiceSettings
from wire_protocol import messages
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import Decline
from wire_protocol.privacy import DevicePrivacy

PRIVACY = DevicePrivacy(clip_norm=1.0, noise_multiplier=1.0)


def mark(count: int, history: bytes = b"a") -> LedgerMark:
    return LedgerMark(count, bytes([count]) + history * 31)


@pytest.fixture
def private(running: Callable) -> Callable[..., ServiceSettings]:
    return lambda **changes: running(privacy=PRIVACY, selection="random", **changes)


async def test_a_receipt_says_the_most_that_other_updates_of_the_device_told(
    private: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = private(rounds=3)
    async with serving(settings) as (_, run, _records), connected("a") as a:
        first = await a.next_plan(1)
        payload = a.update(first, keeping(0), 0.5, ledger=mark(7))
        assert (await a.send(first, payload)).ledger is None
        second = await a.next_plan(2)
        receipt = await a.send(second, a.update(second, keeping(0), 0.5, ledger=mark(9)))
        assert (receipt.accepted, receipt.ledger) == (True, mark(7))
        assert (await a.send(first, payload)).ledger == mark(9)
        third = await a.next_plan(3)
        async with connected("b") as b:
            declined = b.sealed(third, messages.encode(Decline(run="run", round=3, cause="budget-spent")))
            assert (await b.send(third, declined)).ledger is None
        declined = a.sealed(third, messages.encode(Decline(run="run", round=3, cause="budget-spent")))
        receipt = await a.send(third, declined)
        assert (receipt.accepted, receipt.ledger) == (False, mark(9))
        assert not run.done()


async def test_the_second_copy_of_a_device_hears_of_the_first_in_the_same_round_and_in_any_other(
    private: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = private(rounds=3, min_devices=2)
    async with serving(settings) as (_, _run, _records), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5, ledger=mark(4)))).accepted
        conflict = await a.send(plan, a.update(plan, keeping(0), 0.25, ledger=mark(4, b"b")))
        assert (conflict.accepted, conflict.ledger) == (False, mark(4))
        await b.send(plan, b.update(plan, keeping(0), 0.5))
        second = await a.next_plan(2)
        ahead = await a.send(second, a.update(second, keeping(0), 0.5, ledger=mark(5, b"b")))
        assert (ahead.accepted, ahead.ledger) == (True, mark(4))
        await b.send(second, b.update(second, keeping(0), 0.5))
        third = await a.next_plan(3)
        behind = await a.send(third, a.update(third, keeping(0), 0.5, ledger=mark(5)))
        assert (behind.accepted, behind.ledger) == (True, mark(5, b"b"))


async def test_ledgers_are_remembered_over_restarts_and_runs_and_only_where_the_update_was_counted(
    private: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = private(min_devices=2)
    async with connected("a") as a, connected("b"):
        async with serving(settings):
            plan = await a.next_plan(1)
            wrong = a.update(msgspec.structs.replace(plan, model_version=9), keeping(0), 0.5, ledger=mark(9))
            assert "model_version" in (await a.send(plan, wrong)).reason
            payload = a.update(plan, keeping(0), 0.5, ledger=mark(5))
            assert (await a.send(plan, payload)).ledger is None
        async with serving(settings):
            assert (await a.send(plan, payload)).ledger is None
            conflict = await a.send(plan, a.update(plan, keeping(0), 0.25, ledger=mark(6)))
            assert conflict.ledger == mark(5)
        async with serving(replace(settings, run=replace(settings.run, run="other"))):
            while (plan := await a.next_plan(1)).run != "other":
                pass
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5, ledger=mark(6)))).ledger == mark(5)


async def test_a_run_that_is_not_private_is_told_of_no_ledger_and_tells_of_none(
    private: Callable, running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    async with connected("a") as a:
        async with serving(private()):
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5, ledger=mark(5)))).accepted
        open_run = running()
        async with serving(replace(open_run, run=replace(open_run.run, run="open"))):
            while (plan := await a.next_plan(1)).run != "open":
                pass
            refused = await a.send(plan, a.update(plan, keeping(0), 0.5, ledger=mark(6)))
            assert "the run is not private" in refused.reason
            assert refused.ledger is None
