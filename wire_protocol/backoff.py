"""How long to wait before trying again, on either end: exponential back-off with full jitter.

Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations


def longest_wait(attempt: int, *, base: float, ceiling: float) -> float:
    """Seconds below which the wait before try number `attempt` + 1 is drawn: min(ceiling, base * 2^attempt)."""
    return min(ceiling, base * 2.0 ** min(attempt, 32))


def full_jitter(attempt: int, jitter: float, *, base: float, ceiling: float) -> float:
    """Seconds before try number `attempt` + 1: uniform below `longest_wait`.

    `attempt` counts the failures so far less one (at least 0); `jitter` is a draw from [0, 1).
    """
    return jitter * longest_wait(attempt, base=base, ceiling=ceiling)
