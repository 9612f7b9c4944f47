"""Refuse what must not be counted. Pure; total: any bytes give a `Screened` update or a `Refused` reason.

A `Decline`, sent in place of an update, is refused with what it says.

An update is counted only if it is a valid message of its round, made from the model version and at the precision
the plan names, with legal kept-neuron bitmaps, finite values of the right number, and counts that can be true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from server.update_values import decode_values
from wire_protocol import messages
from wire_protocol.errors import ProtocolError
from wire_protocol.flat_arrays import sent_entries
from wire_protocol.layout import Layout
from wire_protocol.messages import SELECTION_UNKNOWN, Decline, DeclineCause, RoundPlan, Update
from wire_protocol.neuron_scores import decode_scores
from wire_protocol.sub_model import Arrays, SubModel, from_bitmaps, selection_id, to_bitmaps

LARGEST_COUNT = 10**9
"""Examples a device can claim; keeps weights and compute sums exact."""
LARGEST_MAGNITUDE = 1e30
"""Of a difference; keeps the model finite in float32 whatever is counted."""
_VALUES_TOGETHER = 2**21
_DECLINED: dict[DeclineCause, str] = {
    "data": "the device's examples do not fit the model",
    "training": "training failed on the device (did it diverge? a lower learning rate may help)",
    "internal": "the device met an unexpected error",
    "cannot-afford": "even the smallest sub-model is more than the device can afford in this round",
    "paused": "the device rests, as its owner's limits say",
    "budget-spent": "its privacy budget is spent, or its ledger needs its owner",
    "not-private": "its owner lets it take part in private runs only",
}


@dataclass(frozen=True)
class Screened:
    """An update fit to be counted, with bitmaps even where it came without.

    `values` are float32 arrays of the sub-model's shapes.
    """

    update: Update
    sub_model: SubModel
    values: Arrays


RefusalCause = Literal[
    "declined", "not-drawn", "other-round", "unknown-selection", "malformed", "out-of-range", "not-opened", "stranger"
]
FAULTS: frozenset[RefusalCause] = frozenset({"malformed", "out-of-range"})
"""What no honest device sends: repeated, it ends in quarantine."""


@dataclass(frozen=True)
class Refused:
    """Why an update must not be counted, in words that the device is told, and in a word to count by.

    Values that are not finite are malformed, as no codec has them.
    """

    reason: str
    cause: RefusalCause = "malformed"


def screen(payload: bytes, plan: RoundPlan, layout: Layout, known: SubModel | None = None) -> Screened | Refused:
    """Decode an update of the round `plan` and check it; `known` are the neurons of the device's last slice.

    Whether its device was drawn is `not_drawn`'s to say.
    """
    if declined := _declined(payload):
        return declined
    try:
        update = messages.decode(payload, Update)
        if refused := _not_of(plan, update):
            return refused
        (screened,) = _decoded([_with_bitmaps(update, layout, known)], layout)
        if wide := _too_wide(screened.sub_model, plan.largest_widths(layout)):
            return Refused(wide)
    except ProtocolError as error:
        return Refused(str(error), "unknown-selection" if str(error) == SELECTION_UNKNOWN else "malformed")
    return _out_of_range(screened.values) or screened


def not_drawn(device: str, plan: RoundPlan) -> Refused | None:
    """The refusal of a device that does not take part in the round, None where it does."""
    if plan.draws(device):
        return None
    reason = f"device {device} was not drawn for round {plan.round} (participation {plan.participation:g})"
    return Refused(reason, "not-drawn")


def read_screened(bodies: Sequence[bytes], layout: Layout) -> Iterator[Screened]:
    """Decode updates that were screened before; raises `ProtocolError` when the bytes of one of the next have changed
    since.

    Those of one shape share the time that small ones take; `updates_together` says how many to give.
    """
    return _decoded([messages.decode(body, Update) for body in bodies], layout)


def updates_together(layout: Layout) -> int:
    """Updates that are read in one call: one, or as many as whole models have `_VALUES_TOGETHER` values."""
    return max(1, _VALUES_TOGETHER // max(1, layout.element_count))


def _decoded(updates: Sequence[Update], layout: Layout) -> Iterator[Screened]:
    sub_models = [from_bitmaps(layout, update.kept) for update in updates]
    for update in updates:
        if update.scores:
            decode_scores(layout, update.scores)
    coded = [(one.widths, update.codec, update.values) for one, update in zip(sub_models, updates, strict=True)]
    return map(Screened, updates, sub_models, decode_values(layout, coded))


def _with_bitmaps(update: Update, layout: Layout, known: SubModel | None) -> Update:
    if not update.selection:
        return update
    if known is None or selection_id(layout, known) != update.selection:
        raise ProtocolError(SELECTION_UNKNOWN)
    return msgspec.structs.replace(update, selection=b"", kept=to_bitmaps(layout, known))


def _declined(payload: bytes) -> Refused | None:
    try:
        decline = messages.decode(payload, Decline)
    except ProtocolError:
        return None
    return Refused(f"no update: {_DECLINED[decline.cause]}; its log says more", "declined")


def _too_wide(sub_model: SubModel, most: Mapping[str, int]) -> str:
    """Devices keep what they can afford, at most the plan's share."""
    for group, width in sub_model.widths.items():
        if width > most[group]:
            return f"update keeps {width} neurons of {group}, expected at most {most[group]}"
    return ""


def _out_of_range(values: Arrays) -> Refused | None:
    if all(_largest(entries) <= LARGEST_MAGNITUDE for entries in sent_entries(values)):
        return None
    for name, array in values.items():
        largest = _largest(array)
        if largest > LARGEST_MAGNITUDE:
            reason = f"{name} holds a value of magnitude {largest:.3g}, expected at most {LARGEST_MAGNITUDE:g}"
            return Refused(reason, "out-of-range")
    return None


def _largest(entries: NDArray[np.float32]) -> float:
    return float(np.abs(entries).max(initial=0.0))


def _not_of(plan: RoundPlan, update: Update) -> Refused | None:
    if other := _unlike(update, plan, ("run", "round", "model_version")):
        return Refused(other, "other-round")
    reason = _mismatch(update, plan)
    return Refused(reason) if reason else None


def _unlike(update: Update, plan: RoundPlan, fields: tuple[str, ...]) -> str:
    for field in fields:
        found, expected = getattr(update, field), getattr(plan, field)
        if found != expected:
            return f"update has {field} {found!r}, expected {expected!r}"
    return ""


def _mismatch(update: Update, plan: RoundPlan) -> str:
    if unlike := _unlike(update, plan, ("precision", "top_k")):
        return unlike
    if update.scores and not plan.wants_scores:
        return "update has scores, expected none as the plan does not ask for them"
    if update.ledger is not None and plan.privacy is None:
        return "update tells of a privacy ledger, expected none as the run is not private"
    counts = plan.privacy is not None and plan.privacy.count_noise_multiplier > 0
    if (update.within is not None) != counts:
        return f"update has within {update.within}, expected {'a share' if counts else 'none'} by the plan"
    limits = {
        "examples": LARGEST_COUNT,
        "trained": plan.local_steps * plan.batch_size,
        "scored": LARGEST_COUNT,
    }
    for field, most in limits.items():
        if getattr(update, field) > most:
            return f"update has {field} {getattr(update, field)}, expected at most {most}"
    return ""
