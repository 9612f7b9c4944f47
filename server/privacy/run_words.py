"""What a run promises about privacy, in words, for logs, reports and pages. Nothing is called private that is not."""

from __future__ import annotations

from server.config import RunConfig
from server.privacy.schedule import DeviceSchedule, RecordSchedule, Schedule
from server.run_schedule import schedule_of
from wire_protocol.messages import BY_SCORES
from wire_protocol.privacy import Privacy, RecordPrivacy

NOT_PRIVATE = "Not private: updates tell of the examples as they are."
DELTA = 1e-5
"""At which epsilon is said; the default cap of a device has it, too."""


def run_words(config: RunConfig) -> str:
    """A sentence or two; computing epsilon takes a second or two."""
    privacy = config.privacy
    if privacy is None:
        return NOT_PRIVATE
    from server.privacy.calibration import ledger_epsilon  # noqa: PLC0415 - dp-accounting takes a second to load

    releases = schedule_of_run(config, privacy).releases(privacy.noise_multiplier, config.rounds)
    what = "any one record" if isinstance(privacy, RecordPrivacy) else "any one device"
    return (
        f"Private for {what}: epsilon {ledger_epsilon(releases, DELTA):.3g} at delta {DELTA:g} for a device that takes "
        f"part in all {config.rounds} rounds, by its own ledger (clip norm {privacy.clip_norm:g}, noise multiplier "
        f"{privacy.noise_multiplier:g})."
    )


def schedule_of_run(config: RunConfig, privacy: Privacy) -> Schedule:
    """What a run asks of a device that takes part in every round."""
    if not isinstance(privacy, RecordPrivacy):
        return DeviceSchedule(config.rounds)
    scores = privacy.score_noise_multiplier if config.selection in BY_SCORES else 0.0
    return RecordSchedule(
        config.rounds,
        config.local_steps,
        privacy.sampling_rate,
        scores,
        config.resync_every,
        schedule_of(config).trial_round,
    )
