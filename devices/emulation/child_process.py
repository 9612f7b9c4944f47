"""Child processes that never outlive us: started in a session of their own, asked to end, then made to.

The session of its own means that Ctrl-C in the terminal reaches us first, and we decide in which order things end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path

Process = asyncio.subprocess.Process

_STOP_SECONDS = 5.0
_LOG_TAIL_LINES = 5


async def start_child(command: Sequence[str], log: Path) -> Process:
    """Start a child whose output is appended to `log` and whose standard input is a pipe that stays open."""
    with log.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )


async def stop_child(process: Process) -> None:
    """End a child, by force where asking does not help; a cancellation in between makes it force at once."""
    if process.returncode is not None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def log_tail(log: Path) -> str:
    """The last lines of a child's log, on one line."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return " | ".join(lines[-_LOG_TAIL_LINES:]) or "its log is empty"
