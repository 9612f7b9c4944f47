import asyncio

from server.inbox import Inbox, StateReport
from server.uplink import Complete
from wire_protocol.messages import DeviceState
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
    assert [await inbox.get() for _ in range(3)] == [StateReport("a", OFFLINE), UPDATE, StateReport("b", ONLINE)]
    inbox.put_state(StateReport("a", ONLINE))
    assert await inbox.get() == StateReport("a", ONLINE)


async def test_nothing_is_lost_when_waiting_is_given_up() -> None:
    inbox = Inbox()
    waiting = asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_state(StateReport("a", ONLINE))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await inbox.get() == StateReport("a", ONLINE)
