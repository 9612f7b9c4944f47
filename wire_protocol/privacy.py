"""What private training releases about records: frozen values that both ends count, validated when made and when read.

Two settings are neighbours where one has one record more (`RecordPrivacy`), or all records of one more device
(`DevicePrivacy`). docs/privacy.md derives the sensitivities.
"""

from __future__ import annotations

from math import hypot

import msgspec

from wire_protocol.errors import require

MOST_RELEASES = 2**53
"""Counts stay exact as float64."""
SMALLEST_CLIP_NORM, LARGEST_CLIP_NORM = 1e-6, 1e6
"""The squares of these, and noise in proportion to them, are far from where float32 ends."""


class GaussianReleases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` releases of a sum over records plus Gaussian noise.

    The noise's standard deviation is `noise_multiplier` times the most that one record can change the sum (L2); each
    record takes part with probability `sampling_rate`, in (0, 1], drawn afresh each time. `count` is 1 to 2^53.
    """

    noise_multiplier: float
    sampling_rate: float = 1.0
    count: int = 1

    def __post_init__(self) -> None:
        _require_noise("noise_multiplier", self.noise_multiplier)
        _require_rate(self.sampling_rate)
        _require_count("count", self.count)


class RecordPrivacy(msgspec.Struct, frozen=True, tag="record", forbid_unknown_fields=True):
    """DP-SGD on a device (Abadi et al., 2016): neighbours differ in one record.

    An example's gradient is clipped to the L2 norm `clip_norm` over all parameters together. A step's sum of clipped
    gradients has noise of standard deviation `noise_multiplier * clip_norm` on every value; each record is in a step
    with probability `sampling_rate`, in (0, 1]. Fisher scores of clipped gradients have noise of standard deviation
    `score_noise_multiplier * clip_norm**2`; with 0 no scores are computed. How many of a step's gradients are within
    the norm, each counted as 1/2 where it is and as -1/2 where not, has noise of standard deviation
    `count_noise_multiplier / 2`; with 0 they are not counted.
    """

    clip_norm: float
    noise_multiplier: float
    sampling_rate: float
    score_noise_multiplier: float = 0.0
    count_noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        _require_clip_norm(self.clip_norm)
        _require_noise("noise_multiplier", self.noise_multiplier)
        _require_rate(self.sampling_rate)
        _require_noise_or_none("score_noise_multiplier", self.score_noise_multiplier)
        _require_noise_or_none("count_noise_multiplier", self.count_noise_multiplier)

    def releases(self, local_steps: int, scores: bool) -> tuple[GaussianReleases, ...]:
        """What a round of `local_steps` steps, at least 1, releases, and with `scores` of all records.

        Raises `InvalidValueError`, also for scores without noise.
        """
        _require_count("local_steps", local_steps)
        noise = joint_noise(self.noise_multiplier, self.count_noise_multiplier)
        steps = (GaussianReleases(noise, self.sampling_rate, local_steps),)
        if not scores:
            return steps
        _require_noise("score_noise_multiplier", self.score_noise_multiplier)
        return (*steps, GaussianReleases(self.score_noise_multiplier))


class DevicePrivacy(msgspec.Struct, frozen=True, tag="device", forbid_unknown_fields=True):
    """A device noises its own update before it leaves: neighbours differ in all records of one device.

    The whole update is clipped to the L2 norm `clip_norm` and has noise of standard deviation
    `noise_multiplier * clip_norm` on every value. Whether it is within the norm, 1/2 where it is and -1/2 where not,
    has noise of standard deviation `count_noise_multiplier / 2`; with 0 that is not told.
    """

    clip_norm: float
    noise_multiplier: float
    count_noise_multiplier: float = 0.0

    def __post_init__(self) -> None:
        _require_clip_norm(self.clip_norm)
        _require_noise("noise_multiplier", self.noise_multiplier)
        _require_noise_or_none("count_noise_multiplier", self.count_noise_multiplier)

    def releases(self) -> tuple[GaussianReleases, ...]:
        """What a round releases."""
        return (GaussianReleases(joint_noise(self.noise_multiplier, self.count_noise_multiplier)),)


def joint_noise(noise_multiplier: float, count_noise_multiplier: float) -> float:
    """The noise multiplier of values (z) and of a count beside them (y) as one release: (z^-2 + y^-2)^-1/2.

    With both divided by their noise, a neighbour moves the values by at most 1 / z and the count by at most 1 / y. With
    y = 0 there is no count, and it is z.
    """
    if count_noise_multiplier == 0:
        return noise_multiplier
    less, more = sorted((noise_multiplier, count_noise_multiplier))
    return less / hypot(1.0, less / more)


Privacy = RecordPrivacy | DevicePrivacy
"""Of a run whose updates are noised on the device."""


def _require_clip_norm(norm: float) -> None:
    legal = f"from {SMALLEST_CLIP_NORM:g} to {LARGEST_CLIP_NORM:g}"
    require(SMALLEST_CLIP_NORM <= norm <= LARGEST_CLIP_NORM, "clip_norm", norm, legal)


def _require_noise(field: str, multiplier: float) -> None:
    require(0 < multiplier < float("inf"), field, multiplier, "above 0 and finite")


def _require_noise_or_none(field: str, multiplier: float) -> None:
    require(0 <= multiplier < float("inf"), field, multiplier, "at least 0 and finite")


def _require_rate(rate: float) -> None:
    require(0 < rate <= 1, "sampling_rate", rate, "above 0 and at most 1")


def _require_count(field: str, count: int) -> None:
    require(1 <= count <= MOST_RELEASES, field, count, "1 to 2^53")
