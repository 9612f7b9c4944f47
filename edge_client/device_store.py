"""All that a device must not lose: its outbox and its memory, kept so that a kill at any moment does no harm.

    <state>/outbox/<run>.<round>.sealed
    <state>/memory

The order of writes makes it so. A payload is on disk before its round counts as answered, and a round counts as
answered on disk before its payload goes: so whatever is found after a kill, no round is trained twice or lost.
Functions block; any thread may call them.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from edge_client.device_memory import load_memory, save_memory
from edge_client.durable_files import plainly
from edge_client.errors import OutboxError
from edge_client.outbox import Outbox, Parcel
from edge_client.round_events import Selection
from edge_client.round_phases import Memory

logger = logging.getLogger(__name__)

SPARE_BYTES = 256 * 1024
"""Room asked for on top of a payload: header, memory, file system."""


@dataclass(frozen=True)
class Stored:
    """The parcel that answers a round, and those that had to go for it."""

    parcel: Parcel
    dropped: tuple[Parcel, ...]


class DeviceStore:
    """Outbox and memory of one device of `fleet`, in its `state` folder."""

    def __init__(self, state: Path, fleet: str, outbox_bytes: int) -> None:
        self.max_payload_bytes = outbox_bytes
        self._state = state
        self._fleet = fleet
        self._lock = Lock()
        self._outbox = Outbox(state / "outbox", fleet, outbox_bytes)
        self._outbox.load()
        self._on_disk = load_memory(state / "memory", fleet)
        self._memory = self._on_disk
        for parcel in reversed(self._outbox.parcels):
            self._remember(parcel.run, parcel.round, parcel.selection)

    @property
    def memory(self) -> Memory:
        """Rounds that have an answer, and the neurons of the last updates made."""
        return self._memory

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """What waits for a receipt, the newest first."""
        return self._outbox.parcels

    def require_room(self, size: int) -> None:
        """Raise `OutboxError` where a payload of `size` bytes could not be kept now."""
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            probe = self._state / "probe"
            probe.write_bytes(b"?")
            probe.unlink()
            free = shutil.disk_usage(self._state).free
        except OSError as error:
            raise OutboxError(f"{self._state} cannot be written: {plainly(error)}") from error
        if free < size + SPARE_BYTES:
            raise OutboxError(f"{self._state} has {free} bytes free, an update may need {size + SPARE_BYTES}")

    def store(self, run: str, number: int, payload: bytes, selection: Selection | None) -> Stored:
        """Keep the payload of a round for ever, or until `settle`; raises `OutboxError`.

        A round that was stored before keeps its first payload.
        """
        with self._lock:
            try:
                dropped = self._outbox.add(run, number, payload, selection)
            except OSError as error:
                raise OutboxError(f"the update cannot be kept in {self._state}: {plainly(error)}") from error
            self._remember(run, number, selection)
            self._save_memory()
            return Stored(self._outbox.of_round(run, number), dropped)

    def settle(self, parcel: Parcel, accepted: bool) -> None:
        """The server has answered for good: the parcel goes, and an accepted update's neurons are remembered."""
        with self._lock:
            if accepted and parcel.selection is not None:
                self._memory = self._memory.with_selection(parcel.selection)
            self._save_memory()
            if self._on_disk.newest.get(parcel.run, 0) >= parcel.round:
                self._outbox.remove(parcel)
            else:
                self._outbox.forget(parcel)

    def payload(self, parcel: Parcel) -> bytes:
        """The bytes of a parcel; raises `DamagedFileError` or `OutboxError`."""
        with self._lock:
            try:
                return self._outbox.payload(parcel)
            except OSError as error:
                raise OutboxError(f"the update cannot be read from {self._state}: {plainly(error)}") from error

    def _remember(self, run: str, number: int, selection: Selection | None) -> None:
        self._memory = self._memory.with_round(run, number)
        if selection is not None:
            self._memory = self._memory.with_selection(selection)

    def _save_memory(self) -> None:
        """Without room nothing is lost but the neurons, which then are chosen afresh after a restart."""
        if self._on_disk == self._memory:
            return
        try:
            self._state.mkdir(parents=True, exist_ok=True)
            save_memory(self._state / "memory", self._fleet, self._memory)
            self._on_disk = self._memory
        except OSError as error:
            logger.warning("%s cannot be written: %s", self._state / "memory", plainly(error))
