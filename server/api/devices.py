"""Devices as they were last heard."""

from __future__ import annotations

from fastapi import APIRouter

from server.api.sources import Sources
from server.records import DeviceRecord


def router(sources: Sources) -> APIRouter:
    """`GET /devices`."""
    routes = APIRouter(prefix="/devices", tags=["devices"])

    @routes.get("")
    def list_devices() -> tuple[DeviceRecord, ...]:
        """List all devices ever heard, by name."""
        return sources.store.devices()

    return routes
