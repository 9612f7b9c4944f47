"""How fast pages and interface answer with a large fleet: `python -m benchmarks.dashboard_load --devices 1000`.

A real service on a state folder whose run has that many devices, all rounds but one closed, with a selection of neurons
of each. Several readers look at one page after the other, each asking for all that the page asks for once a second, as
often as pages do at most, while devices come and go and events are written. Server and readers share the processors.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import numpy as np

from benchmarks.figures import benchmark_parser, publish
from devices.emulation.broker import embedded_broker
from devices.emulation.device_folders import create_emulated_fleet
from devices.emulation.emulate import prepare, service_settings
from devices.emulation.settings import EmulationSettings
from server.config import RunConfig
from server.records import Batch, DeviceRecord, OpeningRecord, RoundRecord, Selection, UpdateRecord
from server.round_plan import Opening, round_plan
from server.service import Service
from server.storage import Store
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, to_bitmaps

RUN = "emulation"
MOST_MILLISECONDS = 200
"""At the median: the bar for every page and every request."""
_PAGES = {
    "page: fleet": ("/devices?limit=1000",),
    "page: runs": ("/runs?limit=1000", "/results"),
    "page: run": tuple(
        f"/runs/{RUN}{part}" for part in ("", "/progress", "/rounds?limit=1000", "/privacy", "/neurons", "/stragglers")
    ),
    "page: events": ("/events?limit=100",),
}
_CHANGES_A_SECOND = 20
_EVERY_SECONDS = 1.0
_KEPT_SECONDS = 2.0
"""A connection is not used again later: the server lets go of idle ones after five."""


@dataclass(frozen=True)
class Load:
    """How many devices and closed rounds there are, and how many readers ask for how many seconds."""

    devices: int
    rounds: int
    readers: int
    seconds: float


def names(devices: int) -> tuple[str, ...]:
    """The devices' names."""
    return tuple(f"device-{number:05d}" for number in range(devices))


def fill(store: Store, config: RunConfig, layout: Layout, load: Load) -> None:
    """Write down a fleet and its closed rounds as a service would have, and one round that is open."""
    fleet, now, rng = names(load.devices), time.time(), np.random.default_rng(0)
    bundle = store.runs()[0].bundle
    store.save_devices([DeviceRecord(name, True, 200, "portable", "fisherfleet-edge/0.1.0", now) for name in fleet])
    for number in range(1, load.rounds + 2):
        opening = Opening(number, 1, number - 1, bundle, "0" * 64, now + 3600, {})
        store.open_round(OpeningRecord(round_plan(config, opening), frozenset(fleet), now))
        heard = fleet[: load.devices * 9 // 10] if number > load.rounds else fleet
        updates = tuple(UpdateRecord(RUN, number, name, bytes(32), 0, 1, number) for name in heard)
        chosen = tuple(_selection(name, number, layout, rng) for name in heard) if number == 1 else ()
        store.updates.commit(Batch(updates, chosen, (), now))
        if number <= load.rounds:
            store.close_round(RUN, _closed(number, load.devices))


def _selection(device: str, number: int, layout: Layout, rng: np.random.Generator) -> Selection:
    kept = {
        group.name: np.sort(rng.choice(group.size, max(1, group.size // 2), replace=False)) for group in layout.groups
    }
    sub_model = SubModel(kept)
    return Selection(device, number, 1, to_bitmaps(layout, sub_model), sub_model.widths)


def _closed(number: int, devices: int) -> RoundRecord:
    bytes_ = {"bytes_up": 10**5 * devices, "bytes_down": 10**5 * devices}
    dense = {"bytes_up_dense": 10**6 * devices, "bytes_down_dense": 10**6 * devices}
    macs = dict.fromkeys(("trained_macs", "scored_macs", "full_macs"), 10**9)
    accuracy = 1 - 0.9**number
    counts = {"updates_accepted": devices, "updates_rejected": 0}
    return RoundRecord(
        number,
        number == 1,
        accuracy,
        1 - accuracy,
        **counts,
        **bytes_,
        **dense,
        **macs,
        seconds=30,
        model_version=number,
    )


def ask(url: str, token: str, load: Load) -> dict[str, list[float]]:
    """Seconds of every request and page, by what was asked for; runs in a process of its own."""
    return asyncio.run(_ask(url, token, load))


async def _ask(url: str, token: str, load: Load) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = defaultdict(list)
    end = time.monotonic() + load.seconds
    headers = {"Authorization": f"Bearer {token}"}

    async def one(client: httpx.AsyncClient, path: str) -> None:
        begun = time.perf_counter()
        (await client.get(path)).raise_for_status()
        seconds[path].append(time.perf_counter() - begun)

    async def read(reader: int) -> None:
        await asyncio.sleep(_EVERY_SECONDS * reader / load.readers)
        kept = httpx.Limits(keepalive_expiry=_KEPT_SECONDS)
        async with httpx.AsyncClient(base_url=f"{url}/api/v1", headers=headers, timeout=60, limits=kept) as client:
            while time.monotonic() < end:
                for page, paths in _PAGES.items():
                    begun = time.perf_counter()
                    await asyncio.gather(*(one(client, path) for path in paths))
                    seconds[page].append(time.perf_counter() - begun)
                    await asyncio.sleep(begun + _EVERY_SECONDS - time.perf_counter())

    await asyncio.gather(*(read(reader) for reader in range(load.readers)))
    return dict(seconds)


async def change(store: Store, devices: tuple[str, ...]) -> None:
    """Devices come and go, and it is written down, until cancelled."""
    turn = 0
    while True:
        name = devices[turn % len(devices)]
        online = turn // len(devices) % 2 == 1
        record = DeviceRecord(name, online, 200, "portable", "fisherfleet-edge/0.1.0", time.time())
        await asyncio.to_thread(store.save_devices, [record])
        store.events.presence((name,) if online else (), () if online else (name,))
        turn += 1
        await asyncio.sleep(1 / _CHANGES_A_SECOND)


async def measure(folder: Path, load: Load) -> tuple[dict[str, list[float]], float]:
    """Serve the fleet in this process, and let another one ask; also the seconds of processor that serving took."""
    prepared = prepare(EmulationSettings(devices=1, rounds=load.rounds + 1, out=folder / "out"))
    async with embedded_broker(folder) as broker:
        fleet = create_emulated_fleet(folder / "fleet", 1, datetime.now(UTC))
        settings = service_settings(prepared, fleet.path, folder / "state", broker)
        async with Service(settings) as service:
            await asyncio.to_thread(fill, service.store, settings.run, prepared.manifest.layout, load)
            token = service.store.tokens.create("reader", "viewer")
            changing = asyncio.create_task(change(service.store, names(load.devices)))
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                begun = time.process_time()
                asking = process.submit(ask, service.http_url, token, load)
                found = await asyncio.wrap_future(asking)
            changing.cancel()
            await asyncio.gather(changing, return_exceptions=True)
            return found, time.process_time() - begun


def rows(found: dict[str, list[float]]) -> Iterator[dict[str, str]]:
    """A row a page and a row a request."""
    for what in sorted(found, key=lambda name: (not name.startswith("page"), name)):
        median, late = (1000 * float(np.percentile(found[what], part)) for part in (50, 99))
        within = "yes" if median <= MOST_MILLISECONDS else "no"
        yield {
            "what": what.partition("?")[0],
            "requests": str(len(found[what])),
            "median ms": f"{median:.0f}",
            "99th percentile ms": f"{late:.0f}",
            f"median within {MOST_MILLISECONDS} ms": within,
        }


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Median and 99th percentile of pages and requests with a large fleet.")
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=40, help="closed rounds (default 40)")
    parser.add_argument("--readers", type=int, default=4, help="people who look at once (default 4)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for which they look (default 20)")
    arguments = parser.parse_args()
    load = Load(arguments.devices, arguments.rounds, arguments.readers, arguments.seconds)
    with TemporaryDirectory(prefix="fisherfleet-load-") as folder:
        found, busy = asyncio.run(measure(Path(folder), load))
    pages = sum(len(seconds) for what, seconds in found.items() if what.startswith("page"))
    each = f"{1000 * busy / pages:.0f} ms of the server's processor a page"
    title = f"{load.devices} devices, {load.rounds} closed rounds, {load.readers} readers, {each}"
    publish(title, list(rows(found)), {what: sorted(seconds) for what, seconds in found.items()}, arguments.json)


if __name__ == "__main__":
    main()
