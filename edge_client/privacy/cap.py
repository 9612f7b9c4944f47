"""What a device's owner allows of privacy: the table `[privacy]` of `device.toml`, read strictly.

    [privacy]
    epsilon = 10         # the most that all private runs together may spend; what would pass it is declined
    delta = 1e-5         # at this delta; well below one in the number of examples
    # public_size = false  whether the server may be told how many examples are here, to weigh updates by it
    # private_only = true  take part in private runs only, and do not tell how many examples are here

Without the table these same values hold, so that no private run spends without end because nobody wrote a number down,
but `private_only` is false.
What was spent is in the ledger, for ever: to allow more, raise `epsilon`. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import isfinite

from edge_client.owner_table import Reader, flag, number, read_table
from wire_protocol.errors import require

_EPSILONS, _DELTAS = "a finite number above 0", "a number above 0 and below 1"


@dataclass(frozen=True)
class Cap:
    """At most (`epsilon`, `delta`) over all that a device ever releases; `delta` is above 0 and below 1."""

    epsilon: float = 10.0
    delta: float = 1e-5
    public_size: bool = False
    private_only: bool = False

    @property
    def tells_size(self) -> bool:
        """Whether a device's presence on the broker may say how many examples it has."""
        return self.public_size or not self.private_only

    def __post_init__(self) -> None:
        legal = isfinite(self.epsilon) and self.epsilon > 0
        require(legal, "privacy.epsilon", self.epsilon, _EPSILONS)
        require(0 < self.delta < 1, "privacy.delta", self.delta, _DELTAS)


def read_cap(table: object) -> Cap:
    """The table of the file; raises `InvalidValueError` that names key, value and what is legal."""
    return Cap(**{"private_only": True, **read_table("privacy", table, _READERS)})


_READERS: dict[str, Reader] = {
    "epsilon": partial(number, legal=_EPSILONS),
    "delta": partial(number, legal=_DELTAS),
    "public_size": flag,
    "private_only": flag,
}
