"""What a run promises about privacy, in words, for logs, reports and pages. Nothing is called private that is not."""

from __future__ import annotations

from server.config import RunConfig
from server.privacy.run_releases import private_schedule
from server.privacy.schedule import Schedule
from wire_protocol.privacy import Privacy, RecordPrivacy

NOT_PRIVATE = "Not private: updates tell of the examples as they are."
DELTA = 1e-5
"""At which epsilon is said; the default cap of a device has it, too."""


def run_words(config: RunConfig) -> str:
    """A sentence or two; computing epsilon takes a second or two."""
    privacy = config.privacy
    if privacy is None:
        return NOT_PRIVATE
    epsilon = epsilon_after(config, config.rounds)
    what = "any one record" if isinstance(privacy, RecordPrivacy) else "any one device"
    return (
        f"Private for {what}: epsilon {epsilon:.3g} at delta {DELTA:g} for a device that takes "
        f"part in all {config.rounds} rounds, by its own ledger (clip norm {privacy.clip_norm:g}{_moving(config)}, "
        f"noise multiplier {privacy.noise_multiplier:g})."
    )


def epsilon_after(config: RunConfig, rounds: int) -> float:
    """What a device's own ledger says at `DELTA` after it took part in the first `rounds` rounds, at least 1.

    0 where the run is not private; the first time it takes a second or two.
    """
    if config.privacy is None:
        return 0.0
    from server.privacy.calibration import ledger_epsilon  # noqa: PLC0415 - dp-accounting takes a second to load

    releases = schedule_of_run(config, config.privacy).releases(config.privacy.noise_multiplier, rounds)
    return ledger_epsilon(releases, DELTA)


def schedule_of_run(config: RunConfig, privacy: Privacy) -> Schedule:
    """What a run asks of a device that takes part in every round."""
    return private_schedule(privacy, config.selection, config.rounds, config.local_steps, config.resync_every)


def _moving(config: RunConfig) -> str:
    moves = config.clipping
    return "" if moves is None else f" at first, moving to the quantile {moves.quantile:g}"
