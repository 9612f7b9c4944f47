"""Sums up the turns of a virtual fleet for the report. No I/O."""

from __future__ import annotations

from collections import Counter

from devices.emulation.fleet_account import FATES, KindAccount
from devices.emulation.report import KindEntry, Simulation, VirtualRound
from devices.emulation.settings import SimulationSettings
from devices.emulation.simulation import SimulatedRound
from devices.emulation.virtual_fleet import VirtualFleet


class FleetAccount:
    """What the devices of a fleet did, round by round; memory does not grow with the number of turns."""

    def __init__(self, fleet: VirtualFleet) -> None:
        self._fleet = fleet
        self._kinds = [KindAccount() for _ in fleet.profiles]
        self._rounds: list[VirtualRound] = []

    def add(self, closed: SimulatedRound) -> VirtualRound:
        """Add a round; returns its account."""
        for turn in closed.turns:
            self._kinds[self._fleet.kinds[turn.device]].add(turn)
        fates = Counter(turn.fate for turn in closed.turns)
        entry = VirtualRound(
            round=closed.record.round,
            opened=closed.opened,
            closed=closed.closed,
            online=closed.online,
            turns=len(closed.turns),
            fates={fate: fates[fate] for fate in FATES},
            joules=sum(turn.joules for turn in closed.turns),
        )
        self._rounds.append(entry)
        return entry

    def report(self, settings: SimulationSettings) -> Simulation:
        """The account of the run so far."""
        turns = sum(kind.turns for kind in self._kinds)
        heard = sum(kind.fates["heard"] for kind in self._kinds)
        return Simulation(
            deadline=settings.round_seconds,
            fitted=settings.fit,
            availability=settings.availability,
            seconds=self._rounds[-1].closed if self._rounds else 0.0,
            heard=heard / turns if turns else 0.0,
            joules=sum(kind.joules for kind in self._kinds),
            kinds=tuple(map(self._entry, range(len(self._kinds)))),
            rounds=tuple(self._rounds),
        )

    def _entry(self, number: int) -> KindEntry:
        profile, kind = self._fleet.profiles[number], self._kinds[number]
        heard = kind.fates["heard"]
        return KindEntry(
            profile=profile.id,
            name=profile.name,
            devices=int((self._fleet.kinds == number).sum()),
            turns=kind.turns,
            fates={fate: kind.fates[fate] for fate in FATES},
            bytes_up=kind.bytes_up,
            bytes_down=kind.bytes_down,
            joules=kind.joules,
            kept=min(1.0, kind.heard_kept / heard) if heard else None,
            least_kept=kind.least_kept if heard else None,
            seconds=kind.heard_seconds / heard if heard else None,
        )
