"""Which of a run's settings say what its devices release."""

from __future__ import annotations

from server.privacy.schedule import DeviceSchedule, RecordSchedule, Schedule
from server.run_schedule import has_trial_round
from wire_protocol.messages import BY_SCORES, SelectionPolicy
from wire_protocol.privacy import Privacy, RecordPrivacy


def private_schedule(
    privacy: Privacy, selection: SelectionPolicy, rounds: int, local_steps: int, resync_every: int
) -> Schedule:
    """What a run by these settings asks of a device that takes part in every round; raises `InvalidValueError`."""
    counts = privacy.count_noise_multiplier
    if not isinstance(privacy, RecordPrivacy):
        return DeviceSchedule(rounds, counts)
    scores = privacy.score_noise_multiplier if selection in BY_SCORES else 0.0
    trial = has_trial_round(selection)
    return RecordSchedule(rounds, local_steps, privacy.sampling_rate, scores, resync_every, trial, counts)
