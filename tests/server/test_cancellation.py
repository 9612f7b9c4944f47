import asyncio
from contextlib import suppress

from server.cancellation import end_tasks


async def stubborn(losses: int) -> None:
    """Lose this many cancellations, as wait_for of Python 3.11 can."""
    for _ in range(losses):
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def failing() -> None:
    raise ValueError("its own fault")


async def test_every_task_has_ended() -> None:
    tasks = [asyncio.create_task(work) for work in (stubborn(0), stubborn(2), failing())]
    await asyncio.sleep(0)
    await end_tasks(tasks)
    assert all(task.done() for task in tasks)


async def test_no_tasks() -> None:
    await end_tasks([])
