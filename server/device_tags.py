"""Words that an operator puts on devices to find them by, such as `kitchen` or `floor-2`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import delete, select

from server import tables
from server.database import Database
from wire_protocol.errors import require
from wire_protocol.topics import require_identifier

MOST_TAGS = 16
_columns = tables.device_tags.c


class DeviceTags:
    """The tags in `database`; any thread may use it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def of(self, devices: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """The tags of devices, sorted; devices without any are not in it."""
        query = select(_columns.device, _columns.tag).where(_columns.device.in_(devices)).order_by(_columns.tag)
        found: dict[str, tuple[str, ...]] = {}
        with self._database.transaction() as connection:
            for device, tag in connection.execute(query):
                found[device] = (*found.get(device, ()), tag)
        return found

    def with_tag(self, tag: str) -> frozenset[str]:
        """The devices that have a tag."""
        with self._database.transaction() as connection:
            return frozenset(connection.execute(select(_columns.device).where(_columns.tag == tag)).scalars())

    def replace(self, device: str, tags: Iterable[str], was: Sequence[str] | None = None) -> tuple[str, ...] | None:
        """Give a device these tags and no others; None, with nothing changed, where it has not those it `was` to have.

        Raises `InvalidValueError`.
        """
        fresh = sorted(set(tags))
        require(len(fresh) <= MOST_TAGS, "tags", fresh, f"at most {MOST_TAGS}")
        for tag in fresh:
            require_identifier("tag", tag)
        with self._database.transaction() as connection:
            dropped = delete(tables.device_tags).where(_columns.device == device).returning(_columns.tag)
            gone = connection.execute(dropped).scalars().all()
            if was is not None and sorted(gone) != sorted(was):
                connection.rollback()
                return None
            if fresh:
                connection.execute(tables.device_tags.insert(), [{"device": device, "tag": tag} for tag in fresh])
        return tuple(fresh)
