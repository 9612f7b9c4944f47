"""What a private run asks of a device, round by round, but for the noise that calibration finds."""

from __future__ import annotations

from dataclasses import dataclass

from wire_protocol.errors import require
from wire_protocol.privacy import GaussianReleases

MOST_STEPS = 10**6
"""Of a run; privacy loss distributions of more take minutes."""
_LEAST_RATE = 1e-9


@dataclass(frozen=True)
class RecordSchedule:
    """DP-SGD in each of `rounds` rounds: `local_steps` steps, each record in each with probability `sampling_rate`.

    Where `score_noise_multiplier` is above 0, the first round and every `resync_every`-th after it also releases Fisher
    scores of all records with noise of that multiplier; with `trial_round` the second round and every
    `resync_every`-th after that, too. Raises `InvalidValueError`.
    """

    rounds: int
    local_steps: int
    sampling_rate: float
    score_noise_multiplier: float = 0.0
    resync_every: int = 1
    trial_round: bool = False

    def __post_init__(self) -> None:
        _require_count("rounds", self.rounds)
        _require_count("local_steps", self.local_steps)
        steps = self.rounds * self.local_steps
        require(steps <= MOST_STEPS, "rounds * local_steps", steps, f"at most {MOST_STEPS}")
        require(_LEAST_RATE <= self.sampling_rate <= 1, "sampling_rate", self.sampling_rate, f"{_LEAST_RATE:g} to 1")
        noise = self.score_noise_multiplier
        require(0 <= noise < float("inf"), "score_noise_multiplier", noise, "at least 0 and finite")
        _require_count("resync_every", self.resync_every)

    def releases(self, noise_multiplier: float, rounds: int) -> tuple[GaussianReleases, ...]:
        """What the first `rounds` rounds, at least 1, release."""
        steps = GaussianReleases(noise_multiplier, self.sampling_rate, rounds * self.local_steps)
        if self.score_noise_multiplier == 0:
            return (steps,)
        return (steps, GaussianReleases(self.score_noise_multiplier, count=self.resyncs(rounds)))

    def resyncs(self, rounds: int) -> int:
        """How many of the first `rounds` rounds are resyncs."""
        if self.trial_round and rounds > 1:
            return 1 - (-(rounds - 1) // self.resync_every)
        return -(-rounds // self.resync_every)


@dataclass(frozen=True)
class DeviceSchedule:
    """One update of the device, clipped and noised as a whole, in each of `rounds` rounds."""

    rounds: int

    def __post_init__(self) -> None:
        _require_count("rounds", self.rounds)

    def releases(self, noise_multiplier: float, rounds: int) -> tuple[GaussianReleases, ...]:
        """What the first `rounds` rounds, at least 1, release."""
        return (GaussianReleases(noise_multiplier, count=rounds),)


Schedule = RecordSchedule | DeviceSchedule


def _require_count(field: str, count: int) -> None:
    require(1 <= count <= MOST_STEPS, field, count, f"1 to {MOST_STEPS}")
