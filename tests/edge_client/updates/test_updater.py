"""What an updater believes of an offer, and how it fetches within what its owner allows."""

import asyncio
import time
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from hashlib import sha256
from threading import Event

import pytest

from edge_client.config import load_config
from edge_client.credentials import Credentials
from edge_client.errors import BundleError, ConfigError, PausedError
from edge_client.limits import Limits, read_limits
from edge_client.link_account import LinkAccount
from edge_client.machine_sensors import Sensors
from edge_client.updates.choice import Choice
from edge_client.updates.consent import Consent, read_consent
from edge_client.updates.device_updates import release_of, require_launched
from edge_client.updates.launch import OWN_VERSION
from edge_client.updates.promoted_models import PREDICT, PREVIOUS, PromotedModels
from edge_client.updates.release_folder import ReleaseFolder
from edge_client.updates.spare_fetch import SpareFetch, Target
from edge_client.updates.updater import Updater, UpdateTools
from tests.edge_client.updates.release_trees import archive_of, signed_release
from tests.edge_client.updates.release_trees import release_of as a_release
from tests.fleet_keys import FLEET, device, fleet, operator, signed
from wire_protocol.envelope import Context
from wire_protocol.errors import InvalidValueError
from wire_protocol.releases import ModelOffer, ReleaseOffer

HOUR = 3600.0
NOON = datetime(2026, 11, 28, 12, 0, tzinfo=timezone.utc)
SENSORS = Sensors(local_time=lambda: NOON, temperature=lambda: 50.0, on_battery=lambda: False)


class Shelf:
    """Files by their SHA-256, in the place of a server."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, content: bytes) -> str:
        digest = sha256(content).hexdigest()
        self.files[digest] = content
        return digest

    def fetch(self, wanted, http) -> None:
        self.asked.append(wanted.path)
        content = self.files.get(wanted.sha256)
        if content is None:
            raise BundleError("not there")
        for start in range(0, len(content), 100):
            http.received(min(100, len(content) - start))
            if http.stop.is_set():
                raise BundleError("stopped")
        wanted.target.write_bytes(content)

    def spare(self, limits: Limits | None = None) -> SpareFetch:
        account = LinkAccount(None, lambda: NOON)
        return SpareFetch("http://s", None, self.fetch, limits, account, SENSORS)


class Bench:
    def __init__(self, folder) -> None:
        self.shelf = Shelf()
        self.reports = []
        self.left: list[str] = []
        self.folder = ReleaseFolder(folder / "releases", "0.1.0")
        credentials = Credentials("pi", fleet(), (device("pi"),))
        tools = UpdateTools(credentials, "0.1.0", "0.1.0", self.folder, self.shelf.spare())
        self.updater = Updater(tools, self.left.append, self.reports.append)

    def offer(self, *releases: bytes, attempt: int = 1, ends: float = HOUR) -> None:
        self.updater.offer_arrived(ReleaseOffer(releases=releases, attempt=attempt, expires=time.time() + ends))

    @property
    def last(self) -> tuple[str, str]:
        return self.reports[-1].offered, self.reports[-1].status


@asynccontextmanager
async def bench(folder):
    made = Bench(folder)
    made.updater.link_changed(True)
    try:
        yield made
    finally:
        await made.updater.close()


async def until(condition) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(poll(), 20)


async def test_of_an_offer_the_release_for_this_machine_is_taken(tmp_path):
    async with bench(tmp_path) as at:
        content = archive_of(tmp_path, "0.2.0")
        at.shelf.add(content)
        other = signed_release(a_release(b"x", "0.2.0", python="3.1", system="other"))
        at.offer(other, signed_release(a_release(content, "0.2.0")))
        await until(lambda: at.left)
        assert at.left == ["release 0.2.0 is tried"]
        assert at.folder.choice() == Choice(trial="0.2.0", attempt=1)
        assert at.last == ("0.2.0", "ready")


async def test_an_offer_without_a_release_for_this_machine_is_refused(tmp_path):
    async with bench(tmp_path) as at:
        at.offer(signed_release(a_release(b"x", "0.2.0", architecture="m68k")))
        assert at.last == ("0.2.0", "refused")
        assert "no release of it is for Python" in at.reports[-1].reason


async def test_what_has_expired_is_old_or_not_the_operators_is_ignored(tmp_path):
    async with bench(tmp_path) as at:
        release = a_release(b"x", "0.2.0")
        at.offer(signed_release(release), ends=-1)
        stranger = signed(release, Context("release", FLEET), operator("stranger"))
        at.offer(stranger)
        at.offer(signed(release, Context("release", "another-fleet")))
        at.offer(signed(release, Context("plan", FLEET)))
        assert at.last == ("", "none")
        at.offer(signed_release(a_release(b"x", "0.1.0")), ends=2 * HOUR)
        assert at.last == ("0.1.0", "confirmed")
        at.offer(signed_release(release), ends=HOUR)
        assert at.last == ("0.1.0", "confirmed")
        assert at.shelf.asked == []


async def test_what_cannot_be_had_is_said_and_waited_for(tmp_path):
    async with bench(tmp_path) as at:
        at.offer(signed_release(a_release(b"x", "0.2.0")))
        await until(lambda: "not there" in at.reports[-1].reason or at.updater._host.state.known.outcome.reason)
        at.updater.link_changed(True)
        assert at.last == ("0.2.0", "waiting")
        assert at.reports[-1].reason == "not there"


def test_half_of_a_day_is_for_rounds_and_what_is_larger_comes_in_parts(tmp_path):
    shelf = Shelf()
    spare = shelf.spare(Limits(bytes_per_day=1000))
    target = Target("releases", shelf.add(bytes(900)), 900, tmp_path / "file")
    with pytest.raises(PausedError, match="what is left of today's bytes_per_day is for rounds"):
        spare(target, Event())
    assert spare.account.bytes_left(1000) == 500
    with pytest.raises(PausedError):
        spare(target, Event())
    assert shelf.asked == [f"releases/{target.sha256}"]
    shelf.spare(Limits(bytes_per_day=10_000))(target, Event())
    assert target.path.read_bytes() == bytes(900)


def test_nothing_is_fetched_when_the_owner_says_that_the_device_rests(tmp_path):
    shelf = Shelf()
    spare = shelf.spare(read_limits({"hours": "22:00-06:00"}))
    with pytest.raises(PausedError, match="hours allows 22:00-06:00"):
        spare(Target("promoted", shelf.add(b"x"), 1, tmp_path / "file"), Event())
    assert shelf.asked == []


def offered_model(shelf: Shelf, content: bytes, version: int, promotion: int) -> ModelOffer:
    return ModelOffer(run="r", version=version, promotion=promotion, sha256=shelf.add(content), size=len(content))


def test_a_model_takes_its_place_in_one_step_and_only_forward(tmp_path):
    shelf = Shelf()
    models = PromotedModels(tmp_path, shelf.spare(), check=lambda path: None)
    first, second = offered_model(shelf, b"one", 1, 10), offered_model(shelf, b"two", 2, 20)
    assert models.wants(first)
    for offer in (first, second):
        models.take(offer, Event())
    assert (tmp_path / "r" / PREDICT).read_bytes() == b"two"
    assert (tmp_path / "r" / PREVIOUS).read_bytes() == b"one"
    assert models.versions() == {"r": 2}
    assert not models.wants(first)
    assert not models.wants(second)
    assert models.wants(offered_model(shelf, b"one", 1, 30))
    (tmp_path / "r" / PREDICT).write_bytes(b"rotten")
    assert models.versions() == {}
    assert models.wants(second)


def test_models_of_the_runs_promoted_last_are_kept(tmp_path):
    shelf = Shelf()
    models = PromotedModels(tmp_path, shelf.spare(), check=lambda path: None)
    for number in range(18):
        digest = shelf.add(b"%d" % number)
        models.take(ModelOffer(run=f"r{number}", version=1, promotion=1, sha256=digest, size=len(str(number))), Event())
    assert len(models.versions()) == 16


def test_the_owners_word_is_read_strictly():
    assert read_consent({}) == Consent(client=False, models=False)
    assert read_consent({"client": True, "models": True}) == Consent(True, True)
    for table in ({"client": 1}, {"clients": True}, True):
        with pytest.raises(InvalidValueError):
            read_consent(table)


def test_a_client_that_nothing_would_go_back_from_is_refused(tmp_path):
    lines = ('device = "d"', 'broker = "mqtt://b"', 'server = "http://s"', 'data = "x"', "[updates]", "client = true")
    (tmp_path / "device.toml").write_text("\n".join(lines))
    config = load_config(tmp_path / "device.toml")
    assert config.releases == tmp_path / "releases"
    with pytest.raises(ConfigError, match="not started by the launcher"):
        require_launched(config, {})
    require_launched(config, {OWN_VERSION: "0.1.0"})
    assert release_of("0.2.0", {OWN_VERSION: "0.1.0"}) == "0.2.0"
    assert release_of("0.1.0", {OWN_VERSION: "0.1.0"}) == release_of("0.1.0", {}) == ""
