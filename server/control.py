"""What can be asked of a service's runs, whoever asks: the HTTP interface, a page, the command line.

An order that is answered with a record is durable: a service killed right after goes on from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from server.errors import ConflictError, ControlError, UnknownRunError
from server.records import RunRecord
from wire_protocol.errors import InvalidValueError

__all__ = ["ConflictError", "Control", "ControlError", "InvalidValueError", "UnknownRunError"]


class Control(Protocol):
    """Orders about runs. All raise `UnknownRunError` where there is no such run, and `StorageError`.

    `server.run_status` says which order a run takes in which status; the others raise `ConflictError`.
    """

    async def create(self, run: str, bundle: str, config: Mapping[str, Any], test: Path | None = None) -> RunRecord:
        """A new run of a bundle that `add_bundle` took; it waits for `start`.

        `config` has names and values as `server.run_codec` reads them; what is left out is the default, but for
        `privacy`, which must be said. `test` is a file of held-out examples, arrays x and y, that every version is
        evaluated on. Raises `InvalidValueError`, and `ConflictError` where there is a run of this name.
        """
        ...

    async def hold_out(self, run: str, test: Path) -> RunRecord:
        """Evaluate the run's versions on the examples of a file, in place of those it had; before it is started.

        Raises `InvalidValueError` where they are none, or none that the bundle's model takes.
        """
        ...

    async def start(self, run: str) -> RunRecord:
        """Open rounds."""
        ...

    async def pause(self, run: str) -> RunRecord:
        """Open no further round; one that is open goes on to its close."""
        ...

    async def resume(self, run: str) -> RunRecord:
        """Open rounds again; also of a run that failed, once what was wrong is mended."""
        ...

    async def stop(self, run: str) -> RunRecord:
        """End the run for good: its plan is withdrawn, and a round that is open comes to nothing."""
        ...

    async def resync(self, run: str) -> RunRecord:
        """Make the next round a resync, in which devices choose their neurons afresh."""
        ...

    async def clone(self, run: str, new: str) -> RunRecord:
        """A new run with the same bundle, configuration and held-out examples; it waits for `start`."""
        ...

    async def roll_back(self, run: str, version: int) -> RunRecord:
        """Let the next round start from an archived version of the model, which becomes a new version.

        Raises `UnknownRunError` where this version is not archived.
        """
        ...

    async def add_bundle(self, folder: Path) -> str:
        """Verify a bundle's folder and keep a copy; returns the bundle's id. Again is as good as once.

        Raises `BundleError`.
        """
        ...
