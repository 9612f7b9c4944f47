import asyncio
from collections import deque

from server.inbox import Inbox, StateReport, Waiting
from server.uplink import Complete
from wire_protocol.device_state import DeviceState
from wire_protocol.topics import Part

ONLINE, OFFLINE = DeviceState(online=True), DeviceState(online=False)
UPDATE = Complete(Part("a", "run", 1, 0), bytes(32), b"payload")


async def test_a_flood_of_states_takes_one_turn_and_the_newest_stands() -> None:
    inbox = Inbox()
    for _ in range(1000):
        inbox.put_state(StateReport("a", ONLINE))
    inbox.put_update(UPDATE)
    inbox.put_state(StateReport("b", ONLINE))
    inbox.put_state(StateReport("a", OFFLINE))
    assert await inbox.get_batch() == Waiting([StateReport("a", OFFLINE), StateReport("b", ONLINE)], deque([UPDATE]))
    inbox.put_state(StateReport("a", ONLINE))
    assert await inbox.get_batch() == Waiting([StateReport("a", ONLINE)])


async def test_a_batch_is_bounded_in_items_and_bytes_and_loses_nothing() -> None:
    inbox = Inbox()
    updates = [Complete(Part(f"d{i}", "run", 1, 0), bytes(32), bytes(10)) for i in range(7)]
    for update in updates:
        inbox.put_update(update)
    assert (await inbox.get_batch(limit=3)).updates == deque(updates[:3])
    assert (await inbox.get_batch(limit_bytes=11)).updates == deque(updates[3:5])
    assert (await inbox.get_batch(limit_bytes=1)).updates == deque(updates[5:6])
    assert (await inbox.get_batch()).updates == deque(updates[6:])


async def test_nothing_is_lost_when_waiting_is_given_up() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.get_batch())
    await asyncio.sleep(0)
    inbox.put_state(StateReport("a", ONLINE))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await inbox.get_batch() == Waiting([StateReport("a", ONLINE)])
