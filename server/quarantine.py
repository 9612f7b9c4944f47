"""When a device's faults are too many: the rule, and who is held now. No clock, no network.

A fault is a round in which the device's own update was malformed, out of range, or an outlier. That it declined, came
late or was not drawn is none: honest devices do so. A device that is held is answered with why, nothing of it is
counted and nobody waits for it, until an operator releases it; what it did before is forgiven then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

from server.quarantine_rows import QuarantineRows
from server.records import FaultRecord, QuarantineRecord
from wire_protocol.errors import require


@dataclass(frozen=True)
class QuarantineRule:
    """A device is held at `faults` rounds with a fault, at least 1, among the last `rounds`, at least as many."""

    faults: int = 3
    rounds: int = 10

    def __post_init__(self) -> None:
        require(self.faults >= 1, "quarantine_faults", self.faults, "at least 1")
        legal = f"at least the {self.faults} faults"
        require(self.rounds >= self.faults, "quarantine_rounds", self.rounds, legal)

    def since(self, number: int) -> int:
        """The first round whose faults count in round `number`."""
        return number - self.rounds + 1


def too_many(
    rule: QuarantineRule, faults: Iterable[FaultRecord], number: int, released: Mapping[str, int]
) -> dict[str, str]:
    """Who is to be held as round `number` closes, and why; `faults` are those of one run.

    `released` has for devices that were held and released the round up to which this run's faults are forgiven.
    """
    by_device: dict[str, dict[int, FaultRecord]] = {}
    for fault in faults:
        if max(rule.since(number), released.get(fault.device, 0) + 1) <= fault.round <= number:
            by_device.setdefault(fault.device, {})[fault.round] = fault
    return {
        device: _words(rule, [found[one] for one in sorted(found)])
        for device, found in sorted(by_device.items())
        if len(found) >= rule.faults
    }


def _words(rule: QuarantineRule, faults: Sequence[FaultRecord]) -> str:
    rounds = ", ".join(str(fault.round) for fault in faults)
    return f"faults in {len(faults)} of the last {rule.rounds} rounds ({rounds}); the last: {faults[-1].reason}"


class Quarantine:
    """Who is held, as the database has it. Any thread may ask."""

    def __init__(self, rows: QuarantineRows) -> None:
        self._rows = rows
        self._lock = Lock()
        self._held = {one.device: one for one in rows.all() if one.held}

    def holds(self, device: str) -> bool:
        """Whether the device is held."""
        return device in self._held

    def reason(self, device: str) -> str:
        """Why its updates are refused; empty for a device that is not held."""
        one = self._held.get(device)
        return "" if one is None else f"device {device} is in quarantine until its operator releases it: {one.reason}"

    @property
    def held(self) -> tuple[QuarantineRecord, ...]:
        """All that are held, by name."""
        return tuple(self._held[device] for device in sorted(self._held))

    def released(self, run: str) -> dict[str, int]:
        """Of devices held for faults in this run and released since, the round up to which its faults are forgiven."""
        return self._rows.released(run)

    def hold(self, records: Iterable[QuarantineRecord]) -> tuple[QuarantineRecord, ...]:
        """Hold devices, durably; returns those that were not held before. Raises `StorageError`."""
        with self._lock:
            fresh = tuple(one for one in records if one.device not in self._held)
            self._rows.hold(fresh)
            self._held = self._held | {one.device: one for one in fresh}
            return fresh

    def release(self, device: str) -> bool:
        """Let a device take part again from its next birth message on; False where it was not held.

        Raises `StorageError`.
        """
        with self._lock:
            if device not in self._held:
                return False
            self._rows.release(device)
            self._held = {name: one for name, one in self._held.items() if name != device}
            return True
