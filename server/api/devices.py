"""Devices: who belongs to the fleet, what each last said of itself, and the tags that an operator puts on them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response
from pydantic import BaseModel, Field

from server.api.examples import shown
from server.api.guarded_route import etag_of, guarded_router, names_etag
from server.api.names import AfterName, DeviceName, Identifier
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.clocks import SYSTEM_CLOCKS
from server.device_tags import MOST_TAGS
from server.fleet.durable_files import locked
from server.fleet.membership import revoke_device
from server.records import DeviceRecord, QuarantineRecord
from server.registry import Enrolled

Standing = Literal["enrolled", "quarantined", "revoked", "unknown"]
"""`unknown` is a device that was heard once and is no longer in the fleet's registry."""

_DEVICE: dict[str, Any] = {
    "id": "kitchen",
    "standing": "enrolled",
    "reason": "",
    "tags": ["floor-2", "pi-4"],
    "online": True,
    "heard": {
        "id": "kitchen",
        "online": True,
        "examples": 640,
        "runtime": "portable",
        "client": "0.1.0",
        "last_seen": 1764326400.0,
        "kept": {"hidden": 64},
        "conflicts": 0,
        "release": "",
        "temperature": 61.5,
        "throttled": False,
        "paused": "",
        "budget_left": 2.5,
        "free_mb": 12000,
    },
}
_HELD = {"standing": "quarantined", "reason": "a sensor hangs loose"}
_TAGS = {"tags": _DEVICE["tags"]}


@dataclass(frozen=True)
class DeviceView:
    """A device of the fleet; `heard` is what it last said of itself, null before it was ever on line. `reason` says why
    it is in quarantine.
    """

    id: str
    standing: Standing
    reason: str
    tags: tuple[str, ...]
    online: bool
    heard: DeviceRecord | None


class Tags(BaseModel):
    """All tags of a device."""

    tags: list[Identifier] = Field(max_length=MOST_TAGS, examples=[["floor-2", "pi-4"]])


class Hold(BaseModel):
    """Why a device is put into quarantine."""

    reason: str = Field(min_length=1, max_length=200, description="for people", examples=["a sensor hangs loose"])


@dataclass(frozen=True)
class Wanted:
    """Which devices are asked for; None is any. A query's parameters."""

    online: Annotated[bool | None, Query(description="only those on line, or only the others")] = None
    tag: Annotated[Identifier | None, Query(description="only those with this tag")] = None
    standing: Annotated[Standing | None, Query(description="only those that stand so")] = None


def router(sources: Sources) -> APIRouter:
    """Everything under `/devices` but enrolment."""
    routes = guarded_router(sources, "devices")
    _add_reading(routes, sources)
    _add_tags(routes, sources)
    _add_quarantine(routes, sources)
    _add_revoking(routes, sources)
    return routes


def _add_reading(routes: APIRouter, sources: Sources) -> None:
    @routes.get("/devices", responses=shown({"items": [_DEVICE], "next": None}))
    def list_devices(
        wanted: Annotated[Wanted, Depends()], limit: Limit = 100, after: AfterName = None
    ) -> Page[DeviceView]:
        """List devices by name: those enrolled, also before they were ever on line, and those heard."""
        names = sorted(name for name in _names(sources, wanted) if after is None or name > after)
        return page_of(_views(sources, names[: limit + 1]), limit, lambda view: view.id)

    @routes.get("/devices/{device}", responses=problems(404) | shown(_DEVICE))
    def get_device(device: DeviceName) -> DeviceView:
        """Show a device: whether it is on line, what it last said of itself, and its tags."""
        _require_known(sources, device)
        return _views(sources, [device])[0]


def _add_tags(routes: APIRouter, sources: Sources) -> None:
    @routes.get("/devices/{device}/tags", responses=problems(404) | shown(_TAGS))
    def get_tags(device: DeviceName, response: Response) -> Tags:
        """Show a device's tags. The ETag is for If-Match."""
        _require_known(sources, device)
        tags = sources.store.tags.of([device]).get(device, ())
        response.headers["ETag"] = _etag_of(tags)
        return Tags(tags=list(tags))

    @routes.put("/devices/{device}/tags", responses=problems(404, 412) | shown(_TAGS))
    def put_tags(
        device: DeviceName,
        tags: Tags,
        response: Response,
        if_match: Annotated[str | None, Header(description="the ETag of the tags that these are to replace")] = None,
    ) -> Tags:
        """Give a device these tags and no others."""
        _require_known(sources, device)
        was = sources.store.tags.of([device]).get(device, ())
        matches = if_match is None or names_etag(if_match, _etag_of(was))
        expected = None if if_match is None else was
        fresh = sources.store.tags.replace(device, tags.tags, expected) if matches else None
        if fresh is None:
            raise HTTPException(412, f"the tags of {device} are not those of If-Match: read them again")
        response.headers["ETag"] = _etag_of(fresh)
        return Tags(tags=list(fresh))


def _add_quarantine(routes: APIRouter, sources: Sources) -> None:
    quarantine = sources.store.quarantine

    @routes.post("/devices/{device}/quarantine", responses=problems(404) | shown(_DEVICE | _HELD))
    def quarantine_device(device: DeviceName, hold: Hold) -> DeviceView:
        """Count nothing from a device and wait for it no more, until it is released. May be repeated."""
        _require_known(sources, device)
        if quarantine.hold([QuarantineRecord(device, "", 0, SYSTEM_CLOCKS.wall(), hold.reason)]):
            sources.store.events.add("device-quarantined", hold.reason, device=device)
        return _views(sources, [device])[0]

    @routes.post("/devices/{device}/release", responses=problems(404) | shown(_DEVICE))
    def release_device(device: DeviceName) -> DeviceView:
        """Let a device take part again and forgive what it did before. May be repeated."""
        _require_known(sources, device)
        quarantine.release(device)
        return _views(sources, [device])[0]


def _add_revoking(routes: APIRouter, sources: Sources) -> None:
    @routes.post("/devices/{device}/revoke", responses=problems(404, 409) | shown(_DEVICE | {"standing": "revoked"}))
    def revoke(device: DeviceName) -> DeviceView:
        """Take a lost or stolen device out of the fleet for good: nothing more from it counts. May be repeated.

        Its certificates are on the fleet folder's revocation list then, which the broker must read again.
        """
        if device not in sources.registry.devices():
            raise HTTPException(404, f"there is no device {device!r} in the fleet's registry")
        with locked(sources.fleet.path):
            revoke_device(sources.fleet, device, datetime.now(UTC))
        sources.store.events.add("device-revoked", "out of the fleet", device=device)
        return _views(sources, [device])[0]


def _etag_of(tags: tuple[str, ...]) -> str:
    return etag_of(json.dumps(tags).encode())


def _names(sources: Sources, wanted: Wanted) -> set[str]:
    enrolled = sources.registry.devices()
    heard = sources.store.device_names()
    names = set(enrolled) | heard
    if wanted.online is not None:
        online = sources.store.device_names(online=True)
        names = names & online if wanted.online else names - online
    if wanted.tag is not None:
        names &= sources.store.tags.with_tag(wanted.tag)
    if wanted.standing is not None:
        held = {one.device for one in sources.store.quarantine.held}
        names = {name for name in names if _standing(enrolled.get(name), name in held) == wanted.standing}
    return names


def _views(sources: Sources, names: list[str]) -> list[DeviceView]:
    enrolled = sources.registry.devices()
    heard = {record.id: record for record in sources.store.devices(names)}
    tags = sources.store.tags.of(names)
    held = {one.device: one.reason for one in sources.store.quarantine.held}
    return [
        DeviceView(
            id=name,
            standing=_standing(enrolled.get(name), name in held),
            reason=held.get(name, ""),
            tags=tags.get(name, ()),
            online=name in heard and heard[name].online,
            heard=heard.get(name),
        )
        for name in names
    ]


def _standing(one: Enrolled | None, held: bool) -> Standing:
    if one is None:
        return "unknown"
    if one.revoked:
        return "revoked"
    return "quarantined" if held else "enrolled"


def _require_known(sources: Sources, device: str) -> None:
    if device not in sources.registry.devices() and not sources.store.devices([device]):
        raise HTTPException(404, f"there is no device {device!r}; GET /api/v1/devices lists those there are")
