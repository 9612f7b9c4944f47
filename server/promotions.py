"""Promoted models as devices are offered them: one version a run, its `predict.onnx` on disk, and a number that rises.

The number is the time of the promotion where that is higher than the one before, so that it also rises after a
database was restored. Functions block; any thread may call them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from threading import Lock

from safetensors.numpy import load
from sqlalchemy import select

from model_export.trained_model import predict_model
from server import tables
from server.content_files import ContentFiles
from server.database import Database, insert
from server.model_archive import ModelArchive
from wire_protocol.releases import ModelOffer

MOST_KEPT = 256
"""Runs whose promoted model is on offer, those promoted last."""
_columns = tables.promotions.c


@dataclass(frozen=True)
class PromotionRecord:
    """The promoted version of a run; `sha256` (hexadecimal) and `size` are those of its `predict.onnx`."""

    run: str
    version: int
    promotion: int
    sha256: str
    size: int

    @property
    def offer(self) -> ModelOffer:
        """What devices are told."""
        return ModelOffer(
            run=self.run, version=self.version, promotion=self.promotion, sha256=self.sha256, size=self.size
        )


class Promotions:
    """The promotions of all runs; files are in `folder`, `clock` gives seconds since the Unix epoch."""

    def __init__(self, database: Database, archive: ModelArchive, folder: Path, clock: Callable[[], float]) -> None:
        self._database = database
        self._archive = archive
        self._clock = clock
        self._one_at_a_time = Lock()
        self.files = ContentFiles(folder, MOST_KEPT)
        self.files.resume(record.sha256 for record in self.records())

    def promote(self, run: str, version: int, bundle: Path) -> PromotionRecord:
        """Make a version the run's one for inference, in place of any other; `bundle` is the folder of its bundle.

        Raises `UnknownRunError`, `DamagedError` and `StorageError`.
        """
        with self._one_at_a_time:
            content = predict_model(bundle, load(self._archive.open(run, version)))
            self._archive.promote(run, version)
            self.files.publish(content)
            return self._note(run, version, content)

    def records(self) -> tuple[PromotionRecord, ...]:
        """All promotions, the oldest first."""
        columns = (_columns[field.name] for field in fields(PromotionRecord))
        with self._database.transaction() as connection:
            rows = connection.execute(select(*columns).order_by(_columns.promotion, _columns.run)).mappings()
            return tuple(PromotionRecord(**row) for row in rows)

    def _note(self, run: str, version: int, content: bytes) -> PromotionRecord:
        now, digest = self._clock(), sha256(content).hexdigest()
        with self._database.transaction() as connection:
            before = select(_columns.promotion).where(_columns.run == run)
            number = max(int(now), (connection.execute(before).scalar_one_or_none() or 0) + 1)
            row = {"version": version, "promotion": number, "sha256": digest, "size": len(content), "at": now}
            statement = insert(connection, tables.promotions).values(run=run, **row)
            connection.execute(statement.on_conflict_do_update(index_elements=["run"], set_=row))
        return PromotionRecord(run, version, number, digest, len(content))
