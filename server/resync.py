"""What devices receive of the model: all of it at a resync, later only the values of the neurons they kept.

Pure functions. Values are encoded from the server's float32 model, so rounding never accumulates over rounds. A model
that goes down as a difference is what a device makes of that (`wire_protocol.model_difference`), and what was lost is
part of the next difference.
"""

from __future__ import annotations

from wire_protocol import messages, tensor_codec
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.model_difference import Coded, Coding, DifferencePrecision, encode_difference
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, gather, sub_shapes
from wire_protocol.tensor_codec import Codec, DownlinkPrecision, Shapes


def encode_model(layout: Layout, parameters: Arrays, downlink: DownlinkPrecision) -> bytes:
    """The whole model as tensor_codec bytes; the same parameters always give the same bytes."""
    return tensor_codec.encode(parameters, _full_shapes(layout), Codec(downlink), compress=False)


def encode_model_since(
    layout: Layout, parameters: Arrays, base: bytes, downlink: DownlinkPrecision, precision: DifferencePrecision
) -> Coded:
    """The whole model by its difference from `base`, an earlier one's bytes at the same `downlink`."""
    shapes, whole = _full_shapes(layout), Codec(downlink)
    coding = Coding(shapes, whole, Codec(precision))
    return encode_difference(parameters, tensor_codec.decode(base, shapes, whole), coding)


def encode_slice(layout: Layout, parameters: Arrays, sub_model: SubModel, plan: RoundPlan) -> bytes:
    """The encoded `Slice` message of one device in the plan's round."""
    values = gather(layout, sub_model, parameters)
    encoded = tensor_codec.encode(values, sub_shapes(layout, sub_model.widths), plan.downlink_codec)
    return messages.encode(
        Slice(
            run=plan.run,
            round=plan.round,
            model_version=plan.model_version,
            precision=plan.downlink,
            values=encoded,
        )
    )


def _full_shapes(layout: Layout) -> Shapes:
    return sub_shapes(layout, full_sub_model(layout).widths)
