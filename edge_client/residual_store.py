"""A device's residuals on disk, so that error feedback survives restarts.

    <folder>/<run>.residual            after the last update that the server counted
    <folder>/<run>.<round>.pending     after the last update made, until its receipt comes

A file is the SHA-256 of what follows it, then the full model's residual as float16 tensor bytes: coordinates never
trained are zeros, which compress to nothing. Files are replaced as a whole. A residual is a help and never needed: one
that is missing, damaged or of another model counts as zero, and one that cannot be written is lost with a log line.
Of the newest runs, `KEPT_RUNS` are kept.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from edge_client.durable_files import read_checked, write_checked
from edge_client.error_feedback import no_residual
from edge_client.errors import DamagedFileError
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays, full_sub_model, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode, largest_size

logger = logging.getLogger(__name__)

KEPT_RUNS = 4
_CODEC = Codec("float16")


@dataclass(frozen=True)
class ResidualStore:
    """Residuals of one device in `folder`, made when needed. Functions block."""

    folder: Path

    def load(self, run: str, layout: Layout) -> Arrays:
        """The residual to add to the next update of a run; zeros where there is none."""
        shapes = sub_shapes(layout, full_sub_model(layout).widths)
        try:
            return decode(read_checked(self._settled(run), largest_size(shapes, _CODEC)), shapes, _CODEC)
        except FileNotFoundError:
            return no_residual(layout)
        except (OSError, DamagedFileError, ProtocolError) as error:
            logger.warning("run %s: its residual counts as zero: %s", run, error)
            return no_residual(layout)

    def propose(self, run: str, number: int, residual: Arrays) -> None:
        """Write down the residual after the update of a round; it counts only once `accept` is called."""
        shapes = {name: array.shape for name, array in residual.items()}
        body = encode(residual, shapes, _CODEC)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._forget_old(run)
            write_checked(self._pending(run, number), body)
        except OSError as error:
            logger.warning("run %s round %d: its residual is lost: %s", run, number, error)

    def accept(self, run: str, number: int) -> None:
        """The server has counted the update of this round: what it left out is added to the next one."""
        try:
            self._pending(run, number).replace(self._settled(run))
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("run %s round %d: its residual is lost: %s", run, number, error)

    def _forget_old(self, run: str) -> None:
        """Updates that were never answered may not have been counted: what they left out is not known."""
        for pending in self.folder.glob(f"{run}.*.pending*"):
            pending.unlink(missing_ok=True)
        files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        kept = {run}
        for file in files:
            name = file.name.partition(".")[0]
            if len(kept) < KEPT_RUNS or name in kept:
                kept.add(name)
            else:
                file.unlink(missing_ok=True)

    def _settled(self, run: str) -> Path:
        return self.folder / f"{run}.residual"

    def _pending(self, run: str, number: int) -> Path:
        return self.folder / f"{run}.{number}.pending"
