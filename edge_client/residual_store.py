"""A device's residuals on disk, so that error feedback survives restarts.

    <folder>/<run>.residual          what the next update takes along
    <folder>/<run>.<round>.took      what the update of this round took along
    <folder>/<run>.<round>.left      the residual after it, if it is counted

An update takes the residual along by a rename, and a receipt gives back either file by a rename, so each residual is in
one place whenever the device is killed; where another update was counted meanwhile, both are added up. A file is the
SHA-256 of what follows it, then the full model's residual as float16 tensor bytes: coordinates never trained are zeros,
which compress to nothing. A residual is a help and never needed: one that is missing, damaged, of another model, or of
an update whose receipt never comes counts as zero, and one that cannot be written is lost with a log line. Of the
newest runs `KEPT_RUNS` are kept, and of a run the newest `KEPT_ROUNDS` without a receipt.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

import numpy as np

from edge_client.durable_files import read_checked, write_checked
from edge_client.error_feedback import no_residual
from edge_client.errors import DamagedFileError
from wire_protocol.errors import FisherfleetError, ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays, full_sub_model, sub_shapes
from wire_protocol.tensor_codec import Codec, Shapes, decode, encode, largest_size

logger = logging.getLogger(__name__)

KEPT_RUNS, KEPT_ROUNDS = 4, 4
_CODEC = Codec("float16")


@dataclass(frozen=True)
class ResidualStore:
    """Residuals of one device in `folder`, made when needed. Functions block; any thread may call them."""

    folder: Path
    _lock: Lock = field(default_factory=Lock, compare=False, repr=False)

    def load(self, run: str, layout: Layout) -> Arrays:
        """The residual to add to the next update of a run; zeros where there is none.

        What is settled between this and that update's `propose` is carried off without having been added.
        """
        with self._lock:
            return self._read(self._settled(run), layout)

    def propose(self, run: str, number: int, residual: Arrays) -> None:
        """The update of a round took the residual along and leaves this one, if it is accepted (`settle`)."""
        shapes = {name: array.shape for name, array in residual.items()}
        body = encode(residual, shapes, _CODEC)
        try:
            with self._lock:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._forget_old(run)
                _move(self._settled(run), self._took(run, number))
                write_checked(self._left(run, number), body)
        except OSError as error:
            logger.warning("run %s round %d: its residual is lost: %s", run, number, error)

    def settle(self, run: str, number: int, accepted: bool, layout: Layout | None) -> None:
        """The server has answered the update of a round: what it left out, or took along where it was not accepted, is
        added to the next one. Without the model's layout that is lost where there is something else to add.
        """
        left, took = self._left(run, number), self._took(run, number)
        standing, void = (left, took) if accepted else (took, left)
        settled = self._settled(run)
        try:
            with self._lock:
                void.unlink(missing_ok=True)
                if settled.exists():
                    self._add(standing, settled, layout)
                else:
                    _move(standing, settled)
        except (OSError, FisherfleetError) as error:
            logger.warning("run %s round %d: its residual is lost: %s", run, number, error)

    def _add(self, standing: Path, settled: Path, layout: Layout | None) -> None:
        """A kill half-way loses the one file rather than adding it twice."""
        if layout is not None and standing.exists():
            one, other = self._read(settled, layout), self._read(standing, layout)
            standing.unlink()
            total = {name: np.asarray(array + other[name], dtype=np.float32) for name, array in one.items()}
            write_checked(settled, encode(total, _shapes(layout), _CODEC))
        standing.unlink(missing_ok=True)

    def _read(self, path: Path, layout: Layout) -> Arrays:
        shapes = _shapes(layout)
        try:
            return decode(read_checked(path, largest_size(shapes, _CODEC)), shapes, _CODEC)
        except FileNotFoundError:
            return no_residual(layout)
        except (OSError, DamagedFileError, ProtocolError) as error:
            logger.warning("the residual %s counts as zero: %s", path.name, error)
            return no_residual(layout)

    def _forget_old(self, run: str) -> None:
        files = sorted(self.folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        waiting = [file for file in files if file.name.startswith(f"{run}.") and file != self._settled(run)]
        rounds = list(dict.fromkeys(_round(file) for file in waiting))
        runs = list(dict.fromkeys([run, *(file.name.partition(".")[0] for file in files)]))
        for file in files:
            too_many = file in waiting and _round(file) in rounds[KEPT_ROUNDS - 1 :]
            if too_many or file.name.partition(".")[0] in runs[KEPT_RUNS:]:
                file.unlink(missing_ok=True)

    def _settled(self, run: str) -> Path:
        return self.folder / f"{run}.residual"

    def _took(self, run: str, number: int) -> Path:
        return self.folder / f"{run}.{number}.took"

    def _left(self, run: str, number: int) -> Path:
        return self.folder / f"{run}.{number}.left"


def _move(path: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        path.replace(target)


def _round(path: Path) -> str:
    return path.name.split(".")[1]


def _shapes(layout: Layout) -> Shapes:
    return sub_shapes(layout, full_sub_model(layout).widths)
