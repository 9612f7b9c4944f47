"""The whole model that a plan names: made from the model of an earlier resync where the plan offers the difference.

What is made has the very bytes that the server would have sent, or it is not taken (`wire_protocol.model_difference`).
Whatever is wrong with a difference or its base, the model is then fetched whole; where the difference could only not be
had now, it is for the caller to try again. Functions block.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from edge_client.bundle_store import DIFFERENCES, MODELS, BundleStore, Shelf, resyncs_of
from edge_client.errors import AbsentError, SpoiltError
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import Coding, ModelDifference, apply_difference
from wire_protocol.sub_model import Arrays, full_sub_model, sub_shapes
from wire_protocol.tensor_codec import Shapes, decode, largest_size

logger = logging.getLogger(__name__)


def _ignore(count: int) -> None:
    del count


@dataclass(frozen=True)
class WholeModel:
    """The model of one plan in a device's `store`."""

    plan: RoundPlan
    layout: Layout
    store: BundleStore

    def bytes_to_fetch(self) -> int:
        """Bytes that `fetch` takes if all goes well; raises `BundleError`."""
        if self._is_here():
            return 0
        difference = self._usable()
        return self._size if difference is None else difference.size

    def fetch(self, require_bytes: Callable[[int], None] = _ignore) -> Arrays:
        """The model's full float32 arrays, which are on disk then too.

        `require_bytes` is told of the whole's where a difference failed, and may raise. Raises `BundleError`, and
        `ProtocolError` where the model is none.
        """
        difference = None if self._is_here() else self._usable()
        if difference is not None and not self._make(difference):
            require_bytes(self._size)
        content = self.store.model(self.plan.model, self._size, self._shelf)
        self.store.clear(DIFFERENCES)
        if self.plan.resync:
            self.store.clear(MODELS)
        return decode(content, self._shapes, self.plan.downlink_codec)

    @property
    def _shapes(self) -> Shapes:
        return sub_shapes(self.layout, full_sub_model(self.layout).widths)

    @property
    def _size(self) -> int:
        return largest_size(self._shapes, self.plan.downlink_codec)

    @property
    def _shelf(self) -> Shelf:
        resync = self.plan.resync or self._resync_model(self.plan.model) is not None
        return self._resyncs if resync else MODELS

    @property
    def _resyncs(self) -> Shelf:
        return resyncs_of(self.plan.run)

    def _is_here(self) -> bool:
        return self.store.model_here(self.plan.model, self._size, self._shelf) is not None

    def _resync_model(self, model: str) -> bytes | None:
        return self.store.model_here(model, self._size, self._resyncs)

    def _usable(self) -> ModelDifference | None:
        """The first difference of a possible size whose base is here."""
        for difference in self.plan.differences:
            possible = difference.size <= largest_size(self._shapes, difference.codec)
            if possible and self._resync_model(difference.base) is not None:
                return difference
        return None

    def _make(self, difference: ModelDifference) -> bool:
        """Whether the model could be made of its base and the difference; raises `BundleError` where it may yet be."""
        shapes, codec = self._shapes, self.plan.downlink_codec
        try:
            content = self.store.difference(difference.sha256, difference.size)
            base = decode(self._resync_model(difference.base) or b"", shapes, codec)
            whole = apply_difference(content, base, Coding(shapes, codec, difference.codec))
            self.store.keep_model(self.plan.model, whole, self._resyncs)
        except (AbsentError, SpoiltError, ProtocolError) as error:
            logger.warning("round %d: the model is fetched whole, as its difference failed: %s", self.plan.round, error)
            return False
        return True
