"""`fisher-cohort`: devices of one size keep the same neurons, those with the largest scores summed over the fleet.

A sum over devices of sums over examples is the Fisher information on all the fleet's examples. It is that of the
resync before, as devices send their scores with the update of a resync round; where the plan brings no ranking yet,
and on a device that joins between two resyncs, the device's own scores decide. A ranking may be shorter than what a
device can afford: it then keeps all of it.
"""

from __future__ import annotations

from edge_client.selection import fisher
from edge_client.selection.policy import Ground, first_of
from wire_protocol.sub_model import SubModel


def select(ground: Ground) -> SubModel:
    """Keep the front of the fleet's ranking, or else what `fisher` keeps."""
    return first_of(ground.ranking, ground.widths) if ground.ranking else fisher.select(ground)
