"""Carries out what the state machine of updates asks for, and tells the server what came of offers.

One step at a time works in a thread of its own; a fetch yields to rounds. Nothing that an offer, an archive or a disk
can do ends the device, but for a release that is ready: then `leave` is called between two rounds.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from threading import Event as Flag

from edge_client.credentials import Credentials
from edge_client.errors import BundleError, PausedError, ReleaseDiskError, ReleaseError
from edge_client.machine_host import Machine, MachineHost, Make
from edge_client.plan_clock import remaining_seconds
from edge_client.updates import update_phases as up
from edge_client.updates import update_state
from edge_client.updates.choice import Choice
from edge_client.updates.release_folder import ReleaseFolder
from edge_client.updates.spare_fetch import SpareFetch, Target
from edge_client.updates.update_phases import Offered, Outcome
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import decode
from wire_protocol.releases import MAX_REASON, Release, ReleaseOffer, ReleaseReport

logger = logging.getLogger(__name__)

_UNDER_WAY = frozenset({"waiting", "fetching"})
"""A report says which of the two it was when it was made; their changes are not worth another."""


@dataclass(frozen=True)
class UpdateTools:
    """What a device updates itself with: the versions of the package's own code and of what runs, and the rest."""

    credentials: Credentials
    own: str
    running: str
    folder: ReleaseFolder
    fetch: SpareFetch


class Updater:
    """The updates of one device; belongs to one event loop.

    `leave` is told why the process is to end; `send` gives a report to the link.
    """

    def __init__(self, tools: UpdateTools, leave: Callable[[str], None], send: Callable[[ReleaseReport], None]) -> None:
        self._tools = tools
        self._leave = leave
        self._send = send
        self._models: Mapping[str, int] = {}
        self._newest = 0.0
        self._stop = Flag()
        self._step_lock = asyncio.Lock()
        now = asyncio.get_running_loop().time()
        phase, commands = update_state.begin(tools.own, tools.running, tools.folder.choice(), now)
        machine: Machine[up.Phase, up.Command] = Machine(update_state.advance, update_state.due, self._carry_out)
        self._host = MachineHost(machine, phase)
        self._told: Outcome | None = None
        self._logged: Outcome | None = None
        for command in commands:
            self._carry_out(command)

    def offer_arrived(self, offer: ReleaseOffer | None) -> None:
        """An offer came, or it was withdrawn."""
        if offer is None:
            self._post(partial(up.OfferCame, offered=None))
            return
        if offer.expires < self._newest or remaining_seconds(offer.expires, time.time(), retained=True) <= 0:
            logger.warning("%s: an offer of a release has expired, or a newer one came before: ignored", self._name)
            return
        try:
            releases = [decode(self._tools.credentials.verify_release(one), Release) for one in offer.releases]
        except ProtocolError as error:
            logger.warning("%s: an offer of a release is ignored: %s", self._name, error)
            return
        self._newest = offer.expires
        python, architecture = f"3.{sys.version_info.minor}", platform.machine()
        fitting = [release for release in releases if release.fits(python, architecture)]
        if fitting:
            self._post(partial(up.OfferCame, offered=Offered(fitting[0], offer.attempt)))
            return
        reason = f"no release of it is for Python {python} on {architecture}"
        outcome = Outcome(releases[0].version, offer.attempt, "refused", reason)
        self._post(partial(up.NoneFits, outcome=outcome))

    def link_changed(self, up_now: bool) -> None:
        """The link went up or down."""
        self._post(partial(up.LinkChanged, up=up_now))
        if up_now:
            self._told = None
            self._report()

    def round_changed(self, busy: bool) -> None:
        """A round began, or the last one ended."""
        if busy != self._host.state.known.busy:
            self._post(partial(up.RoundChanged, busy=busy))

    def round_counted(self) -> None:
        """The server counted an update."""
        self._post(up.RoundCounted)

    def fault_seen(self) -> None:
        """The client failed in a way that nobody foresaw."""
        self._post(up.FaultSeen)

    def bytes_came(self) -> None:
        """Something came over the link: a fetch ends where the day's bytes are used up."""
        if isinstance(self._host.state, up.Fetching) and self._tools.fetch.day_is_used_up:
            self._stop.set()

    def infers_with(self, models: Mapping[str, int]) -> None:
        """Which promoted models are here, by run."""
        self._models = models
        self._told = None
        self._report()

    async def close(self) -> None:
        """End what is going on."""
        self._stop.set()
        await self._host.close()

    @property
    def _name(self) -> str:
        return self._tools.credentials.device

    def _post(self, make: Make) -> None:
        self._host.post(make)
        self._report()

    def _report(self) -> None:
        outcome = update_state.outcome_of(self._host.state)
        told = self._told
        same = told is not None and (told.version, told.attempt) == (outcome.version, outcome.attempt)
        if told == outcome or (same and told is not None and {told.status, outcome.status} <= _UNDER_WAY):
            return
        self._told = outcome
        if outcome.version and outcome != self._logged:
            self._logged = outcome
            level = logging.WARNING if outcome.reason else logging.INFO
            why = f": {outcome.reason}" if outcome.reason else ""
            logger.log(level, "%s: release %s: %s%s", self._name, outcome.version, outcome.status, why)
        report = ReleaseReport(
            version=self._tools.running,
            offered=outcome.version,
            attempt=outcome.attempt,
            status=outcome.status,
            reason=outcome.reason[:MAX_REASON],
            models=dict(self._models),
        )
        self._send(report)

    def _carry_out(self, command: up.Command) -> None:
        if isinstance(command, up.Fetch):
            logger.info("%s: fetching release %s", self._name, command.release.version)
            self._stop = Flag()
            self._host.spawn(self._fetch_soon(command.release, self._stop))
        elif isinstance(command, up.StopFetching):
            self._stop.set()
            self._stop = Flag()
        elif isinstance(command, up.Unpack):
            self._host.spawn(self._take_step(partial(self._unpack, command.release)))
        elif isinstance(command, up.Write):
            self._host.spawn(self._take_step(partial(self._write, command.choice)))
        else:
            logger.info("%s: starting again: %s", self._name, command.reason)
            self._leave(command.reason)

    async def _fetch_soon(self, release: Release, stop: Flag) -> None:
        async with self._step_lock:
            came = await asyncio.to_thread(self._fetch, release, stop)
        if stop is self._stop:
            self._post(came)

    async def _take_step(self, step: Callable[[], Make]) -> None:
        async with self._step_lock:
            came = await asyncio.to_thread(step)
        self._post(came)

    def _fetch(self, release: Release, stop: Flag) -> Make:
        tools = self._tools
        try:
            archive = tools.folder.archive(release)
            tools.folder.require_room(release)
            tools.fetch(Target("releases", release.sha256, release.size, archive), stop)
        except (BundleError, PausedError, ReleaseDiskError) as error:
            return partial(up.NotNow, reason=str(error))
        return up.Fetched

    def _unpack(self, release: Release) -> Make:
        try:
            self._tools.folder.install(release)
        except ReleaseDiskError as error:
            return partial(up.NotNow, reason=str(error))
        except ReleaseError as error:
            return partial(up.Illegal, reason=str(error))
        return up.Unpacked

    def _write(self, choice: Choice) -> Make:
        try:
            self._tools.folder.choose(choice)
            if choice.confirmed == self._tools.running:
                faulthandler.cancel_dump_traceback_later()
            if not choice.trial:
                self._tools.folder.tidy()
        except ReleaseDiskError as error:
            return partial(up.NotNow, reason=str(error))
        return partial(up.Written, choice=choice)
