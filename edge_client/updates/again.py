"""How long what can wait is left until it is tried again: a minute, and up to an hour more where it fails often."""

from __future__ import annotations

from wire_protocol.backoff import full_jitter

AGAIN_SECONDS, AGAIN_CEILING_SECONDS = 60.0, 3600.0


def again_after(failures: int, jitter: float) -> float:
    """Seconds after so many failures before this one; `jitter` in [0, 1)."""
    return AGAIN_SECONDS + full_jitter(failures, jitter, base=AGAIN_SECONDS, ceiling=AGAIN_CEILING_SECONDS)
