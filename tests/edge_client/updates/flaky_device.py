"""A device in virtual time whose power, link and disk come and go, with its real releases on a real disk.

Real are the launcher's choice, the machine of updates, the folder of releases and the privacy ledger; modelled are
time, the link, rounds and what a release does when it runs.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Literal

from edge_client.errors import ReleaseDiskError, ReleaseError
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger
from edge_client.round_events import Event, Tick
from edge_client.updates import launch, update_state
from edge_client.updates import update_phases as up
from edge_client.updates.choice import load_choice
from edge_client.updates.release_folder import ReleaseFolder
from edge_client.updates.update_phases import Offered
from tests.edge_client.fuse import Fuse, Killed
from wire_protocol.privacy import GaussianReleases

MINUTE, HOUR = 60.0, 3600.0
DAY = 24 * HOUR
OWN = "0.1.0"
RESTART_SECONDS = 30.0
GOES_BAD_AFTER = 8 * HOUR
Kind = Literal["good", "goes bad", "ends at start", "ends after minutes", "hangs", "is deaf", "fails in rounds"]
NOISE = (GaussianReleases(20.0),)


@dataclass(frozen=True)
class Published:
    """An offer as the server has it from `at` on; `content` is the archive's."""

    at: float
    offered: Offered
    kind: Kind
    content: bytes


@dataclass
class Account:
    """What the world saw of a device."""

    starts: Counter[tuple[str, int]] = field(default_factory=Counter)
    ran: list[str] = field(default_factory=list)
    cuts: int = 0
    bytes_written: int = 0
    trained: int = 0
    most_releases: int = 0


@dataclass
class Process:
    """One start: what runs, and what is to happen to it when."""

    version: str
    kind: Kind
    phase: up.Phase
    ends: float
    fetched_at: float = inf
    round_ends: float = inf


class FlakyDevice:
    """Lives in `folder` until `end`; `check_tree` is shown what a start runs."""

    def __init__(
        self, folder: Path, seed: int, offers: list[Published], fuse: Fuse, check_tree: Callable[[Path], None]
    ) -> None:
        self.account = Account()
        self.now = 0.0
        self.quiet = False
        self._folder = folder
        self._releases = folder / "releases"
        self._chance = random.Random(seed)
        self._offers = offers
        self._fuse = fuse
        self._check_tree = check_tree
        self._linked, self._link_changes = True, 0.0
        self._full_until = 0.0

    def live(self, end: float) -> str:
        """Start again and again until then; the version that runs in the end."""
        version = OWN
        while self.now < end:
            version = self._start(end)
            self.now += RESTART_SECONDS
        return version

    def _start(self, end: float) -> str:
        """One start of a process, to its end."""
        process: Process | None = None
        try:
            with self._risk():
                tree = next(iter(launch._trees(self._releases, OWN, True)), None)
            version = OWN if tree is None else tree.name
            if tree is not None:
                self._check_tree(tree)
            self.account.ran.append(version)
            choice = load_choice(self._releases)
            on_trial = choice.trial == version
            if on_trial:
                self.account.starts[version, choice.attempt] += 1
            process = self._process(version, on_trial)
            if process.kind not in ("ends at start", "hangs"):
                self._run(process, end)
            else:
                self.now = min(end, process.ends)
        except Killed:
            self.account.cuts += 1
            self._tear()
        return OWN if process is None else process.version

    def _process(self, version: str, on_trial: bool) -> Process:
        kinds = {one.offered.release.version: one.kind for one in self._offers}
        kind: Kind = kinds.get(version, "good")
        lives = {"ends at start": 1.0, "ends after minutes": 5 * MINUTE}.get(kind, inf)
        if kind == "goes bad" and self.now > self._offered_at(version) + GOES_BAD_AFTER:
            lives = MINUTE
        deadline = launch.TRIAL_SECONDS if on_trial else inf
        cut = inf if self.quiet else self._chance.expovariate(1 / (10 * HOUR))
        self._folder_of = ReleaseFolder(self._releases, version)
        phase, commands = update_state.begin(OWN, version, load_choice(self._releases), self.now)
        process = Process(version, kind, phase, self.now + min(lives, deadline, cut))
        self._cut_at = self.now + cut
        if kind not in ("ends at start", "hangs"):
            self._carry_out(process, commands)
        return process

    def _run(self, process: Process, end: float) -> None:
        linked: bool | None = None
        known_offer: Offered | None = None
        next_round = self.now + self._chance.uniform(0, 40) * MINUTE
        while self.now < min(end, process.ends) and not isinstance(process.phase, Gone):
            up_now = self._link_is_up() and process.kind != "is deaf"
            if up_now != linked:
                linked, known_offer = up_now, None
                self._post(process, up.LinkChanged(now=self.now, up=up_now))
            offer = self._offer_now() if up_now else None
            if offer is not None and offer != known_offer:
                known_offer = offer
                self._post(process, up.OfferCame(now=self.now, offered=offer))
            if up_now and self.now >= next_round and process.round_ends == inf:
                self._begin_round(process)
            self._wait(process, min(end, process.ends), next_round if up_now else inf)
            if self.now >= process.round_ends:
                self._end_round(process, up_now)
                next_round = self.now + self._chance.uniform(5, 60) * MINUTE
            if self.now >= process.fetched_at:
                self._end_fetch(process, up_now)
            self._post(process, Tick(now=self.now))
        if self.now >= self._cut_at and not isinstance(process.phase, Gone):
            raise Killed

    def _wait(self, process: Process, most: float, next_round: float) -> None:
        """To the next moment at which something happens."""
        moments = [most, self._link_changes, process.fetched_at, process.round_ends, self._next_offer()]
        if process.round_ends == inf:
            moments.append(max(next_round, self.now + 1))
        wanted = update_state.due(process.phase)
        if wanted is not None:
            moments.append(wanted)
        self.now = max(self.now + 0.001, min(moment for moment in moments if moment > self.now - 1e-9))

    def _post(self, process: Process, event: Event) -> None:
        if isinstance(process.phase, Gone):
            return
        process.phase, commands = update_state.advance(process.phase, event)
        self._carry_out(process, commands)

    def _carry_out(self, process: Process, commands: tuple[up.Command, ...]) -> None:
        for command in commands:
            if isinstance(command, up.Fetch):
                process.fetched_at = self.now + self._chance.uniform(1, 90) * MINUTE
            elif isinstance(command, up.StopFetching):
                process.fetched_at = inf
            elif isinstance(command, up.Leave):
                process.phase = Gone(process.phase.known)
            elif isinstance(command, up.Unpack | up.Write):
                self._post(process, self._on_disk(command))

    def _on_disk(self, command: up.Unpack | up.Write) -> Event:
        try:
            if self._disk_is_full():
                raise ReleaseDiskError("the disk is full")
            with self._risk():
                if isinstance(command, up.Unpack):
                    self.account.bytes_written += command.release.unpacked
                    self._folder_of.install(command.release)
                    return up.Unpacked(now=self.now)
                self.account.bytes_written += 300
                self._folder_of.choose(command.choice)
                if not command.choice.trial:
                    self._folder_of.tidy()
                return up.Written(now=self.now, choice=command.choice)
        except ReleaseDiskError as error:
            return up.NotNow(now=self.now, jitter=self._chance.random(), reason=str(error))
        except ReleaseError as error:
            return up.Illegal(now=self.now, reason=str(error))
        finally:
            self._count_releases()

    def _end_fetch(self, process: Process, linked: bool) -> None:
        process.fetched_at = inf
        wanted = process.phase
        if not isinstance(wanted, up.Fetching):
            return
        content = next(one.content for one in self._offers if one.offered.release == wanted.wanted.release)
        with self._risk():
            archive = self._folder_of.archive(wanted.wanted.release)
            if linked and not self._disk_is_full():
                if not archive.exists():
                    self.account.bytes_written += len(content)
                    part = archive.with_name(f"{archive.name}.part")
                    part.write_bytes(content)
                    part.replace(archive)
                self._post(process, up.Fetched(now=self.now))
                return
        self._post(process, up.NotNow(now=self.now, jitter=self._chance.random(), reason="no connection"))

    def _begin_round(self, process: Process) -> None:
        """Charged, and only then trained, as a device does."""
        self._post(process, up.RoundChanged(now=self.now, busy=True))
        if isinstance(process.phase, Gone):
            return
        process.round_ends = self.now + self._chance.uniform(1, 15) * MINUTE
        with self._risk():
            ledger = Ledger(self._folder / "state", Cap(epsilon=1e6))
            ledger.charge(self.now, Charge("run", ledger.count + 1, "training", NOISE))
        self.account.trained += 1

    def _end_round(self, process: Process, linked: bool) -> None:
        process.round_ends = inf
        if process.kind == "fails in rounds":
            self._post(process, up.FaultSeen(now=self.now))
        elif linked and self._chance.random() < 0.8:
            self._post(process, up.RoundCounted(now=self.now))
        self._post(process, up.RoundChanged(now=self.now, busy=False))

    def _link_is_up(self) -> bool:
        while self.now >= self._link_changes:
            self._linked = not self._linked or self.quiet
            mean = 5 * HOUR if self._linked else 2 * HOUR
            self._link_changes += self._chance.expovariate(1 / mean)
        return self._linked

    def _disk_is_full(self) -> bool:
        if not self.quiet and self._chance.random() < 0.1:
            self._full_until = self.now + self._chance.uniform(0, 3) * HOUR
        return not self.quiet and self.now < self._full_until

    def _offer_now(self) -> Offered | None:
        came = [one.offered for one in self._offers if one.at <= self.now]
        return came[-1] if came else None

    def _offered_at(self, version: str) -> float:
        return next(one.at for one in self._offers if one.offered.release.version == version)

    def _next_offer(self) -> float:
        return min((one.at for one in self._offers if one.at > self.now), default=inf)

    def _risk(self) -> _Risk:
        steps = self._chance.randrange(25) if not self.quiet and self._chance.random() < 0.12 else 10**9
        return _Risk(self._fuse, steps)

    def _tear(self) -> None:
        """What was being written when the power went is cut off somewhere."""
        self._fuse.left = 10**9
        for path in self._unfinished():
            size = path.stat().st_size
            with path.open("r+b") as file:
                file.truncate(self._chance.randrange(size + 1))
        if self._chance.random() < 0.1:
            shutil.rmtree(self._releases / "removing", ignore_errors=True)

    def _unfinished(self) -> Iterator[Path]:
        for pattern in ("*.new", "*.part", "unpacking/**/*"):
            yield from (path for path in self._releases.glob(pattern) if path.is_file())

    def _count_releases(self) -> None:
        here = sum(launch.version_of(path) != "" for path in self._releases.glob("[0-9]*"))
        self.account.most_releases = max(self.account.most_releases, here)


@dataclass(frozen=True)
class Gone(up.Phase):
    """The process has ended."""


@dataclass
class _Risk:
    """The power may go at the step that `steps` says."""

    fuse: Fuse
    steps: int

    def __enter__(self) -> None:
        self.fuse.left = self.steps

    def __exit__(self, *_: object) -> None:
        self.fuse.left = 10**9
