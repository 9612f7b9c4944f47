"""What training and scoring cost a virtual device: a calibration as `edge_client.calibration` would measure it.

    seconds a step  = (3 x batch x (MACs + 120 x activations) + 40,000,000) / speed
    seconds a round = (80,000,000 + 400 x parameters) / speed, beside its steps
    peak megabytes  = 80 + (24 x parameters + 36 x batch x activations) / 10^6

with MACs and activations those of one example's forward pass, 3 passes a step (forward, and backward twice), and the
profile's multiply-accumulates a second as speed. The constants are those of an x86-64 core, where a step's time is
within a fifth of what LeNet, DS-CNN, ResNet-8 and MobileNet take (`python -m benchmarks.virtual_machine`); that
other boards have the same ones, in proportion to their speed, is assumed. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.profiles.profile import Profile
from edge_client.calibration import Calibration, widths_to_measure
from edge_client.cost_model import LayoutSizes, Measured, Widths
from edge_client.local_update import SCORING_BATCH
from wire_protocol.layout import Layout

PASSES = 3
ACTIVATION, STEP, ROUND, PARAMETER = 120.0, 4e7, 8e7, 400.0
"""In multiply-accumulates."""
BASE_MB, PARAMETER_BYTES, ACTIVATION_BYTES = 80.0, 24.0, 36.0


@dataclass(frozen=True)
class VirtualMachine:
    """One thread that makes `speed` multiply-accumulates a second, with batches of `batch` examples."""

    speed: float
    batch: int

    def calibration(self, layout: Layout) -> Calibration:
        """What a device of this kind would have measured."""
        sizes = LayoutSizes(layout)
        points = [self._measured(sizes, sizes.row(widths)) for widths in widths_to_measure(layout)]
        whole = sizes.row(layout.group_sizes)
        return Calibration(
            key="virtual",
            points=tuple(points),
            scoring_seconds=self._example_seconds(sizes, whole),
            scoring_mb=_peak_mb(sizes, whole, SCORING_BATCH),
        )

    def _measured(self, sizes: LayoutSizes, row: Widths) -> Measured:
        return Measured(
            widths=sizes.named(row[0]),
            step_seconds=self.batch * self._example_seconds(sizes, row) + STEP / self.speed,
            once_seconds=(ROUND + PARAMETER * float(sizes.elements(row)[0])) / self.speed,
            peak_mb=_peak_mb(sizes, row, self.batch),
        )

    def _example_seconds(self, sizes: LayoutSizes, row: Widths) -> float:
        work = sizes.multiply_accumulates(row)[0] + ACTIVATION * sizes.activations(row)[0]
        return float(PASSES * work / self.speed)


def machine_of(profile: Profile, batch: int) -> VirtualMachine:
    """The machine of a profile, with one thread as the client has by default."""
    return VirtualMachine(profile.compute.multiply_accumulates, batch)


def _peak_mb(sizes: LayoutSizes, row: Widths, batch: int) -> float:
    varying = PARAMETER_BYTES * sizes.elements(row)[0] + ACTIVATION_BYTES * batch * sizes.activations(row)[0]
    return float(BASE_MB + varying / 1e6)
