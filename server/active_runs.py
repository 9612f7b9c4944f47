"""The runs that a service has at hand: they take turns, and one that cannot go on ends without the others."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterable, Iterator

from server.coordinator import DeviceOffline, DeviceOnline, Event
from server.errors import StorageError
from server.intake import Desk
from server.run_host import Premises, RunHost
from server.run_status import ACTIVE
from server.shelf import Offered
from server.turns import Claim, whose_turn
from server.uplink import Complete
from wire_protocol.errors import FisherfleetError

logger = logging.getLogger(__name__)


class ActiveRuns:
    """Belongs to one event loop. `desks` are those of the runs at hand, by name."""

    def __init__(self, premises: Premises) -> None:
        self.desks: dict[str, Desk] = {}
        self._at = premises
        self._hosts: dict[str, RunHost] = {}
        self._left: set[str] = set()
        self._last_turn: str | None = None

    def __iter__(self) -> Iterator[RunHost]:
        return iter(tuple(self._hosts.values()))

    def get(self, run: str) -> RunHost | None:
        """The run, None when it is not at hand."""
        return self._hosts.get(run)

    def offered(self) -> Iterable[Offered]:
        """What devices may fetch."""
        return [host.offered for host in self]

    def add(self, host: RunHost) -> None:
        """Take a run at hand."""
        self._hosts[host.run], self.desks[host.run] = host, host.desk
        self._left.discard(host.run)

    def join(self, host: RunHost) -> None:
        """Take a run at hand while others are: what is known of devices now holds for it."""
        self.add(host)
        online = frozenset(one for one in self._at.presence.online if not self._at.store.quarantine.holds(one))
        for device in online ^ host.rounds.online:
            host.rounds.observe(DeviceOnline(device) if device in online else DeviceOffline(device))

    def leave(self, run: str) -> None:
        """Let go of a run: its plan is withdrawn, also from a broker that is away now."""
        self._hosts.pop(run, None)
        self.desks.pop(run, None)
        self._left.add(run)
        self._at.downlink.withdraw_plan(run)

    async def prepare(self) -> None:
        """Before the first connection: offer what open rounds need; the round that was open last goes on.

        A run that cannot go on fails. Raises `StorageError`.
        """
        for host in self:
            await self._prepare(host)
        open_ones = [(claim.until, claim.run) for claim in self._claims() if claim.until is not None]
        self._last_turn = max(open_ones)[1] if open_ones else None
        self._pass_the_turn()

    def on_connected(self) -> None:
        """Tell a broker whose plan stands, and clear those of other runs."""
        for run in self._left:
            self._at.downlink.withdraw_plan(run)
        for host in self:
            host.rounds.publish_plan()

    def observe(self, event: Event) -> None:
        """Tell all runs a fact."""
        for host in self:
            host.rounds.observe(event)

    def leave_out_revoked(self) -> None:
        """Wait for no device that was revoked or is in quarantine."""
        for device in frozenset[str]().union(*(host.rounds.online for host in self)):
            if self._at.store.quarantine.holds(device):
                logger.warning("device %s is in quarantine: it is not waited for", device)
                self.observe(DeviceOffline(device))
        for device in self._at.presence.online.union(*(host.rounds.online for host in self)):
            if not self._at.registry.keys(device):
                logger.warning("device %s was revoked: it is not waited for", device)
                self._at.presence.note(device, online=False)
                self.observe(DeviceOffline(device))

    def look(self, waiting: int) -> None:
        """Look for causes of alerts; `waiting` counts what waits to be done."""
        idle = self.in_turn() is None
        for host in self:
            host.rounds.watch.look(waiting, goes_on=host.rounds.has_turn or (idle and not host.rounds.paused))

    def in_turn(self) -> RunHost | None:
        """The run whose turn it is."""
        return next((host for host in self if host.rounds.has_turn), None)

    async def decide(self) -> None:
        """Let runs decide until none has anything to do."""
        busy = True
        while busy:
            self._pass_the_turn()
            busy = False
            for host in self:
                busy |= await self._step(host)

    async def take_updates(self, completes: deque[Complete]) -> None:
        """Count what came, each update in its run; takes all out of `completes`."""
        of_runs: dict[str, deque[Complete]] = {}
        while completes:
            complete = completes.popleft()
            of_runs.setdefault(complete.part.run, deque()).append(complete)
        for host in self:
            if host.run in of_runs:
                await self._count(host, of_runs[host.run])
            host.ask_for_more()
            host.rounds.repeat_plan()

    async def _count(self, host: RunHost, completes: deque[Complete]) -> None:
        try:
            await host.take_updates(completes)
        except Exception as error:
            await self._fail(host, error)

    async def flag_conflicts(self) -> None:
        """Write down what was announced after something else was counted."""
        for host in self:
            await host.answers.flag_conflicts()

    def _pass_the_turn(self) -> None:
        now = self._at.clocks.steady()
        holder = whose_turn(self._last_turn, self._claims(), now)
        for host in self:
            if host.rounds.has_turn and host.run != holder:
                host.rounds.lose_turn()
        if holder is not None:
            rounds = self._hosts[holder].rounds
            if not rounds.has_turn:
                rounds.take_turn(after_another=self._last_turn not in (None, holder))
            self._last_turn = holder

    async def _prepare(self, host: RunHost) -> None:
        try:
            await host.rounds.prepare()
        except StorageError:
            raise
        except FisherfleetError as error:
            await self._fail(host, error)

    def _claims(self) -> list[Claim]:
        return [host.rounds.claim() for host in self]

    async def _step(self, host: RunHost) -> bool:
        try:
            busy = await host.rounds.take_step()
        except Exception as error:
            await self._fail(host, error)
            return True
        if host.rounds.finished:
            self._at.store.events.add("run-status", "is over", run=host.run)
            self.leave(host.run)
        return busy

    async def _fail(self, host: RunHost, error: Exception) -> None:
        """The run has failed; the others go on."""
        host.error = error
        unexpected = None if isinstance(error, FisherfleetError) else error
        reason = str(error) or type(error).__name__
        logger.error("run %s has failed: %s", host.run, reason, exc_info=unexpected)
        self._at.store.events.add("run-status", f"failed: {reason}", run=host.run)
        self.leave(host.run)
        try:
            await asyncio.to_thread(self._at.store.orders.move, host.run, ACTIVE, "failed", reason)
        except StorageError as failure:
            logger.error("that run %s has failed could not be written down: %s", host.run, failure)
