"""End background tasks for certain.

Up to Python 3.11 `asyncio.wait_for`, which the MQTT client uses, loses a cancellation that arrives together with its
result (bpo-37658), so one `cancel()` may have no effect: it is repeated until the task has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

_AGAIN_SECONDS = 0.2


async def end_tasks(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until all have ended; how they ended is not looked at."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        done, running = await asyncio.wait(running, timeout=_AGAIN_SECONDS)
        for task in done:
            if not task.cancelled():
                task.exception()
