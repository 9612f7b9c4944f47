"""Whose turn it is to have a round open, where several runs share a fleet: a device trains one model at a time.

Runs take turns, a round each. A run keeps its turn while its round is open, until the round's deadline; then whoever
waits has it, and the round, which is not lost, goes on in the run's next turn. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Claim:
    """What a run would do with a turn: `wants` says that it would open a round, or go on with one.

    `until` is the deadline of a round that is open, in seconds of a clock that never jumps; None without one.
    """

    run: str
    wants: bool
    until: float | None = None


def whose_turn(last: str | None, claims: Sequence[Claim], now: float) -> str | None:
    """The run whose turn it is, None where none wants one; `last` had the last turn. Claims come in a fixed order."""
    names = [claim.run for claim in claims]
    after = names.index(last) + 1 if last in names else 0
    in_order = [*claims[after:], *claims[:after]]
    if last in names and in_order[-1].until is not None and now < in_order[-1].until:
        return last
    return next((claim.run for claim in in_order if claim.wants), None)
