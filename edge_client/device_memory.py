"""What a device remembers across restarts, in one file: the newest round of each run that it has an answer to, and the
neurons of the last accepted updates.

A round counts as answered once its update is in the outbox; one that was only begun is begun again. Memory belongs to
one fleet. A file that is missing, damaged or of another fleet is an empty memory and a log line, never an error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import msgspec

from edge_client.durable_files import plainly, read_checked, write_checked
from edge_client.errors import DamagedFileError
from edge_client.round_phases import MAX_RUNS_REMEMBERED, MAX_SELECTIONS, Memory
from edge_client.selection_record import SelectionRecord

logger = logging.getLogger(__name__)

FORMAT = 2
MAX_BYTES = 16 * 1024 * 1024


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    fleet: str
    newest: Annotated[dict[str, int], msgspec.Meta(max_length=MAX_RUNS_REMEMBERED)]
    selections: Annotated[list[SelectionRecord], msgspec.Meta(max_length=MAX_SELECTIONS)]


def save_memory(path: Path, fleet: str, memory: Memory) -> None:
    """Write the file durably; raises `OSError`."""
    selections = [SelectionRecord.of(selection) for selection in memory.selections.values()]
    write_checked(path, msgspec.msgpack.encode(_Record(FORMAT, fleet, dict(memory.newest), selections)))


def load_memory(path: Path, fleet: str) -> Memory:
    """What the file holds for this fleet; nothing where it cannot be used."""
    try:
        record = msgspec.msgpack.decode(read_checked(path, MAX_BYTES), type=_Record)
        if record.format != FORMAT:
            logger.warning("%s has format %d, expected %d: nothing is remembered", path, record.format, FORMAT)
            return Memory()
        if record.fleet != fleet:
            logger.warning("%s is of fleet %.64r, this is %s: nothing is remembered", path, record.fleet, fleet)
            return Memory()
        selections = [selection.read() for selection in record.selections]
        return Memory({selection.run: selection for selection in selections}, record.newest)
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        logger.warning("%s cannot be read: %s: nothing is remembered", path, plainly(error))
    except (DamagedFileError, msgspec.DecodeError, ValueError):
        logger.warning("%s is damaged: nothing is remembered", path)
    return Memory()
