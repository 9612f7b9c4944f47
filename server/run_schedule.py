"""What the coordinator is told of a run's configuration."""

from __future__ import annotations

from server.config import RunConfig
from server.coordinator import Schedule
from wire_protocol.messages import SelectionPolicy


def has_trial_round(selection: SelectionPolicy) -> bool:
    """Whether the first round only brings the scores by which neurons are chosen in the second."""
    return selection == "fisher-cohort"


def schedule_of(config: RunConfig) -> Schedule:
    """The schedule of a run."""
    return Schedule(
        rounds=config.rounds,
        resync_every=config.resync_every,
        min_devices=config.min_devices,
        round_seconds=config.round_seconds,
        quorum=config.quorum,
        give_up=config.give_up,
        participation=config.participation,
        participation_seed=config.participation_seed,
        buffer_goal=None if config.buffer is None else config.buffer.goal,
        trial_round=has_trial_round(config.selection),
    )
