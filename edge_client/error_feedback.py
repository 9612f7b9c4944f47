"""What updates left out, kept on the device and added to later ones.

A codec that leaves values out would never send small changes that all point one way. So the device adds what it has not
sent to the next change of the same coordinates, sends as much as the codec takes, and keeps the rest (Seide et al.
2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019, "Error feedback fixes SignSGD").

A residual is in the coordinates of the full model, zero where nothing was ever trained. An update takes it along: once
the update is counted, what it left out is the residual; once it is refused, the residual is what it was. Until then
updates of other rounds have none of it, so that nothing is ever sent twice. Private runs keep none, as it would carry
one round's examples into another's noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays, SubModel, gather, positions

Residual = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Sent:
    """Arrays of one sub-model: what was to be sent, and what the server decodes."""

    wanted: Arrays
    decoded: Arrays


def feeds_back(plan: RoundPlan) -> bool:
    """Whether rounds by this plan keep a residual: where values are left out, in runs that are not private."""
    return plan.codec.sparse and plan.privacy is None


def no_residual(layout: Layout) -> Residual:
    """The residual of a device that has sent nothing yet."""
    return {parameter.name: np.zeros(parameter.shape, dtype=np.float32) for parameter in layout.parameters}


def with_residual(layout: Layout, sub_model: SubModel, residual: Arrays, change: Arrays) -> Residual:
    """The change of the sub-model plus what was left out of its coordinates before."""
    before = gather(layout, sub_model, residual)
    return {name: np.asarray(array + before[name], dtype=np.float32) for name, array in change.items()}


def residual_after(layout: Layout, sub_model: SubModel, residual: Arrays, sent: Sent) -> Residual:
    """The residual once `sent` is counted; coordinates outside the sub-model keep theirs."""
    after = {}
    for parameter in layout.parameters:
        name = parameter.name
        after[name] = np.array(residual[name], dtype=np.float32)
        after[name][positions(parameter, sub_model)] = sent.wanted[name] - sent.decoded[name]
    return after
