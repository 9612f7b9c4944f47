"""Whole models on offer to devices: at a resync also as a difference from the model of the resync before.

With a difference, the model on offer is what devices make of it, so that those with and without the base have the same
bytes. Between resyncs it is encoded like slices from the server's own values: who lost a slice and fetches the model in
its place must train from just the same. Offering the same again gives the same, from what is on disk.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from server.errors import BundleError
from server.model_files import ModelFiles
from server.resync import encode_model, encode_model_since
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import DifferencePrecision, ModelDifference
from wire_protocol.sub_model import Arrays
from wire_protocol.tensor_codec import DownlinkPrecision

logger = logging.getLogger(__name__)


class _Base(NamedTuple):
    """From which model, and at what precision, another is a difference."""

    model: str
    precision: DifferencePrecision


@dataclass(frozen=True)
class Offer:
    """The SHA-256 of a whole model, and the differences that lead to it."""

    model: str
    differences: tuple[ModelDifference, ...] = ()


@dataclass(frozen=True)
class ModelOffers:
    """What is on offer of a run, in `files`."""

    layout: Layout
    files: ModelFiles

    def publish(self, parameters: Arrays, downlink: DownlinkPrecision, last_resync: RoundPlan | None = None) -> Offer:
        """Offer a model; that of the last resync stays too, for the next difference. Raises `StorageError`."""
        kept = () if last_resync is None else (last_resync.model,)
        return Offer(self.files.encoded.publish(encode_model(self.layout, parameters, downlink), kept))

    def publish_since(
        self, last_resync: RoundPlan, parameters: Arrays, downlink: DownlinkPrecision, precision: DifferencePrecision
    ) -> Offer:
        """Offer the model of a resync by its difference, or as it is where the last one's is lost or coded otherwise.

        Raises `StorageError`.
        """
        offer = None
        if last_resync.downlink == downlink:
            offer = self._publish_since(_Base(last_resync.model, precision), parameters, downlink)
        return offer or self.publish(parameters, downlink)

    def publish_again(self, plan: RoundPlan, parameters: Arrays, last_resync: RoundPlan | None) -> None:
        """Offer what the plan of an open round says; raises `BundleError` where that is lost, and `StorageError`."""
        offer: Offer | None
        if plan.differences:
            base = _Base(plan.differences[0].base, plan.differences[0].precision)
            offer = self._publish_since(base, parameters, plan.downlink)
        else:
            offer = self.publish(parameters, plan.downlink, last_resync)
        if offer is None or offer.model != plan.model:
            raise BundleError(f"run {plan.run}: model {plan.model} of the open round {plan.round} cannot be made again")

    def _publish_since(self, base: _Base, parameters: Arrays, downlink: DownlinkPrecision) -> Offer | None:
        content = self.files.encoded.content_of(base.model)
        if content is None:
            logger.warning("model %s is lost, from which the next was to be a difference", base.model)
            return None
        coded = encode_model_since(self.layout, parameters, content, downlink, base.precision)
        model = self.files.encoded.publish(coded.whole, (base.model,))
        sha256 = self.files.differences.publish(coded.difference)
        size, precision = len(coded.difference), base.precision
        return Offer(model, (ModelDifference(base=base.model, sha256=sha256, size=size, precision=precision),))
