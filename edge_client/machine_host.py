"""Runs one sans-I/O state machine on the event loop: gives its events their moment, wakes it when it wants to be woken,
and keeps the tasks that carry out its commands.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_client.round_events import Event, Tick

S = TypeVar("S")
C = TypeVar("C")
Make = Callable[..., Event]
"""Makes an event of a moment: keywords `now` and `jitter`."""


@dataclass(frozen=True)
class Machine(Generic[S, C]):
    """`advance` and `due` of a state machine, and who carries out its commands."""

    advance: Callable[[S, Event], tuple[S, tuple[C, ...]]]
    due: Callable[[S], float | None]
    carry_out: Callable[[C], None]


class MachineHost(Generic[S, C]):
    """A machine and its `state`; belongs to one event loop."""

    def __init__(self, machine: Machine[S, C], state: S) -> None:
        self.state = state
        self._machine = machine
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def post(self, make: Make) -> None:
        """Something happened, now."""
        if self._closed:
            return
        clock = asyncio.get_running_loop()
        self.state, commands = self._machine.advance(self.state, make(now=clock.time(), jitter=random.random()))
        for command in commands:
            self._machine.carry_out(command)
        if self._timer is not None:
            self._timer.cancel()
        when = self._machine.due(self.state)
        self._timer = None if when is None else clock.call_at(when, self.post, Tick)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` beside everything else, until `close`."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """No more events; cancel all tasks and wait for their end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
