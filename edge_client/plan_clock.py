"""How long a plan has still to go, on a device whose clock may be wrong.

Boards without a battery wake up in 1970, and clocks jump. What protects from old plans is the number of the round; the
deadline only spares work. So a deadline is believed where the clock can be, and where the clock cannot be, because it
was never set or because it contradicts a plan that the broker just passed on, the plan is taken to have `ASSUMED`.
Nothing else on a device reads the wall clock but its owner's limits on hours and days (`machine_sensors`).
"""

from __future__ import annotations

EARLIEST = 1_767_225_600.0
"""2026-01-01: before there was this software. A clock that shows less was never set."""
ASSUMED = 3600.0
"""Seconds a plan is given whose deadline cannot be judged."""
LONGEST_WAY = 3600.0
"""Seconds that a plan may have been on its way from the server, on a slow link."""


def was_set(wall: float) -> bool:
    """Whether a clock that shows `wall` (Unix time) can be right."""
    return wall >= EARLIEST


def remaining_seconds(deadline: float, wall: float, *, retained: bool) -> float:
    """Seconds until `deadline` (Unix time), not positive when it is past; `wall` is what this device's clock shows.

    `retained` says that the broker kept the plan, so that it may be of any age; a plan that is passed on as it comes
    is at most `LONGEST_WAY` old, and one that seems older shows that this clock is ahead.
    """
    if not was_set(wall):
        return ASSUMED
    left = deadline - wall
    if not retained and left < -LONGEST_WAY:
        return ASSUMED
    return left
