"""What charges have spent, where some protect single records and others a whole device.

Training and scores are counted for neighbours that differ in one record, an update for those that differ in all
records of a device. One record can move an update from any place within the clip norm to any other, twice as far as was
counted: so beside charges for records an update counts with half its noise multiplier, and what is told is for records.
Where there are updates alone it is for the whole device. No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from edge_client.privacy.accountant import NOTHING, Spent
from wire_protocol.privacy import GaussianReleases

Unit = Literal["record", "device"]
"""What neighbours differ in."""


@dataclass(frozen=True)
class Account:
    """`records` is what was spent of any one record's privacy, `devices` of a whole device's, by updates alone."""

    records: Spent = NOTHING
    devices: Spent = NOTHING
    unit: Unit | None = None

    def spend(self, unit: Unit, releases: Iterable[GaussianReleases]) -> Account:
        """This and `releases` more, which were counted for neighbours that differ in `unit`."""
        found = tuple(releases)
        if not found:
            return self
        if unit == "record":
            return replace(self, records=self.records.spend(found), unit="record")
        records = self.records.spend(_for_one_record(one) for one in found)
        return Account(records, self.devices.spend(found), self.unit or "device")

    def epsilon(self, delta: float) -> float:
        """At which all of it is (epsilon, `delta`)-differentially private for neighbours that differ in `unit`."""
        return (self.devices if self.unit == "device" else self.records).epsilon(delta)


def _for_one_record(update: GaussianReleases) -> GaussianReleases:
    """Whether the device takes part no longer helps, so the rate is 1; noise too small to be halved hides nothing."""
    return GaussianReleases(update.noise_multiplier / 2 or update.noise_multiplier, 1.0, update.count)
