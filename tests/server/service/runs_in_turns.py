"""Runs that a service without a bundle finds running in its state folder: they take turns. And how they ended."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL

from server.config import RunConfig
from server.records import RunRecord
from server.run_codec import run_values
from server.run_files import RunFiles
from server.storage import Store


@dataclass(frozen=True)
class Ending:
    """A run's last model, and the updates that were counted, by round and device."""

    model: bytes
    counted: tuple[tuple[int, str], ...]


def make_running(state: Path, url: URL | None, bundle_folder: Path, configs: Iterable[RunConfig]) -> None:
    """The state folder of a service that was stopped while these runs were running and none had a round."""
    store = Store(state, url)
    bundle = RunFiles(state).add_bundle(bundle_folder)
    for number, config in enumerate(configs):
        store.begin_run(RunRecord(config.run, bundle.id, float(number), run_values(config)))
        store.orders.move(config.run, ("created",), "running")
    store.close()


def endings(state: Path, url: URL | None) -> Mapping[str, Ending]:
    """Of every run, all of which are over."""
    store = Store(state, url)
    ended = {}
    for record in store.runs():
        assert record.status == "finished", record
        last = store.archive.versions(record.run)[-1]
        assert last.version == record.rounds_closed
        counted = tuple((update.round, update.device) for update in store.updates.of_run(record.run))
        ended[record.run] = Ending(store.archive.open(record.run, last.version), counted)
    store.close()
    return ended
