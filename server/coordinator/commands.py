"""What the round state machine asks of its shell. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OpenRound:
    """Publish a plan; neurons are those chosen at `resync_round`, which may be this round."""

    round: int
    resync_round: int
    deadline: float


@dataclass(frozen=True)
class ExtendRound:
    """Too few were counted in time: publish the plan again with a later deadline."""

    round: int
    deadline: float


@dataclass(frozen=True)
class CloseRound:
    """Take no more updates, apply their mean, and report `RoundApplied`."""

    round: int


@dataclass(frozen=True)
class AbandonRound:
    """Nobody was counted in time and nobody online can be: forget the round."""

    round: int


@dataclass(frozen=True)
class DropRound:
    """The run is stopped: forget the round and what was counted in it."""

    round: int


@dataclass(frozen=True)
class GiveUp:
    """Everyone online was refused and the run is to end then: forget the round and say so."""

    round: int


@dataclass(frozen=True)
class Finish:
    """The run is over: all rounds are closed, or it is stopped."""


Command = OpenRound | ExtendRound | CloseRound | AbandonRound | DropRound | GiveUp | Finish
