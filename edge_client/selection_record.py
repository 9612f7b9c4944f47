"""A selection of neurons as it stands in files. Indices are little-endian unsigned 32-bit integers."""

from __future__ import annotations

from typing import Annotated

import msgspec
import numpy as np

from edge_client.round_events import Selection
from wire_protocol.layout import MAX_GROUPS
from wire_protocol.sub_model import SubModel

_INDEX = np.dtype("<u4")


class SelectionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of a `Selection`; `kept` holds the indices of each group."""

    run: str
    bundle: str
    resync_round: int
    round: int
    kept: Annotated[dict[str, bytes], msgspec.Meta(max_length=MAX_GROUPS)]
    private: bool = False

    @classmethod
    def of(cls, selection: Selection) -> SelectionRecord:
        """The record of a selection."""
        kept = {group: indices.astype(_INDEX).tobytes() for group, indices in selection.sub_model.kept.items()}
        return cls(selection.run, selection.bundle, selection.resync_round, selection.round, kept, selection.private)

    def read(self) -> Selection:
        """The selection; raises `ValueError` where the record makes no sense."""
        kept = {group: np.frombuffer(text, _INDEX).astype(np.int64) for group, text in self.kept.items()}
        return Selection(self.run, self.bundle, self.resync_round, self.round, SubModel(kept), self.private)
