"""What a private run asks of a device, round by round, but for the noise that calibration finds."""

from __future__ import annotations

from dataclasses import dataclass

from wire_protocol.errors import require
from wire_protocol.privacy import GaussianReleases, joint_noise

MOST_STEPS = 10**6
"""Of a run; privacy loss distributions of more take minutes."""
_LEAST_RATE = 1e-9


@dataclass(frozen=True)
class RecordSchedule:
    """DP-SGD in each of `rounds` rounds: `local_steps` steps, each record in each with probability `sampling_rate`.

    Where `score_noise_multiplier` is above 0, the first round and every `resync_every`-th after it also releases Fisher
    scores of all records with noise of that multiplier; with `trial_round` the second round and every
    `resync_every`-th after that, too. Where `count_noise_multiplier` is above 0, every step also releases how many
    gradients are within the clip norm. Raises `InvalidValueError`.
    """

    rounds: int
    local_steps: int
    sampling_rate: float
    score_noise_multiplier: float = 0.0
    resync_every: int = 1
    trial_round: bool = False
    count_noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        _require_count("rounds", self.rounds)
        _require_count("local_steps", self.local_steps)
        steps = self.rounds * self.local_steps
        require(steps <= MOST_STEPS, "rounds * local_steps", steps, f"at most {MOST_STEPS}")
        require(_LEAST_RATE <= self.sampling_rate <= 1, "sampling_rate", self.sampling_rate, f"{_LEAST_RATE:g} to 1")
        for name in ("score_noise_multiplier", "count_noise_multiplier"):
            _require_noise(name, getattr(self, name))
        _require_count("resync_every", self.resync_every)

    def releases(self, noise_multiplier: float, rounds: int) -> tuple[GaussianReleases, ...]:
        """What the first `rounds` rounds, at least 1, release."""
        noise = joint_noise(noise_multiplier, self.count_noise_multiplier)
        steps = GaussianReleases(noise, self.sampling_rate, rounds * self.local_steps)
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
    """One update of the device, clipped and noised as a whole, in each of `rounds` rounds.

    Where `count_noise_multiplier` is above 0, it also tells with such noise whether it is within the clip norm.
    """

    rounds: int
    count_noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        _require_count("rounds", self.rounds)
        _require_noise("count_noise_multiplier", self.count_noise_multiplier)

    def releases(self, noise_multiplier: float, rounds: int) -> tuple[GaussianReleases, ...]:
        """What the first `rounds` rounds, at least 1, release."""
        return (GaussianReleases(joint_noise(noise_multiplier, self.count_noise_multiplier), count=rounds),)


Schedule = RecordSchedule | DeviceSchedule


def _require_noise(field: str, multiplier: float) -> None:
    require(0 <= multiplier < float("inf"), field, multiplier, "at least 0 and finite")


def _require_count(field: str, count: int) -> None:
    require(1 <= count <= MOST_STEPS, field, count, f"1 to {MOST_STEPS}")
