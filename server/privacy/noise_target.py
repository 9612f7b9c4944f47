"""A run's privacy with the noise that a promised epsilon takes, so that nobody has to know noise multipliers."""

from __future__ import annotations

import msgspec

from server.privacy.schedule import Schedule
from wire_protocol.privacy import Privacy


def within_target(privacy: Privacy, epsilon: float, delta: float, schedule: Schedule) -> Privacy:
    """`privacy`, whatever its noise multiplier, with the least that keeps `schedule` within `epsilon` at `delta`.

    `epsilon` is 0.05 to 50, `delta` 1e-12 to 0.1, else `InvalidValueError`. The first time it takes a second or two.
    """
    from server.privacy.calibration import Target, noise_multiplier_for  # noqa: PLC0415 - takes a second to load

    return msgspec.structs.replace(privacy, noise_multiplier=noise_multiplier_for(Target(epsilon, delta), schedule))
