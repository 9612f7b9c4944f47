"""Do again what fails because the state folder cannot be written (a full disk), until it works; the log says so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any, TypeVar

from server.errors import StorageError

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_TRIES_A_LOG_LINE = 30

_T = TypeVar("_T")


async def until_written(what: str, action: Callable[..., _T], *arguments: Any) -> _T:
    """What `action`, which can be done again, gives in a worker thread; `what` is what waits for it."""
    for tries in count():
        with suppress(StorageError):
            return await asyncio.to_thread(_noting, tries, what, action, *arguments)
        await asyncio.sleep(_RETRY_SECONDS)
    raise AssertionError


def _noting(tries: int, what: str, action: Callable[..., _T], *arguments: Any) -> _T:
    try:
        return action(*arguments)
    except StorageError as error:
        if tries % _TRIES_A_LOG_LINE == 0:
            logger.error("%s waits until the state folder can be written: %s", what, error)
        raise
