"""What private training clips, adds and divides by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wire_protocol.privacy import RecordPrivacy


@dataclass(frozen=True)
class Mechanism:
    """Clips and noises as `privacy` says; sums are divided by `divisor` (B). `noise` must be one nobody can repeat."""

    privacy: RecordPrivacy
    divisor: float
    noise: np.random.Generator
