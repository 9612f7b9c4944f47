"""The operator's side of a fleet: its name and the private keys that sign for it, from the fleet's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wire_protocol.identity import MOST_VALID, Identity, IdentityError, load_fleet, load_identities

FLEET_NAME = "fleet.json"
OPERATOR_KEY_NAME = "operator.key"


@dataclass(frozen=True)
class Operator:
    """Who signs: `identities` are the one or two valid now, the newest first."""

    fleet: str
    identities: tuple[Identity, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.identities) <= MOST_VALID:
            raise IdentityError(f"an operator has 1 to {MOST_VALID} identities, got {len(self.identities)}")


def load_operator(folder: Path) -> Operator:
    """Read `fleet.json` and `operator.key`; raises `IdentityError` that says how to mend it."""
    if not (folder / FLEET_NAME).exists():
        raise IdentityError(f"there is no fleet in {folder}: make one with `fisherfleet fleet init {folder}`")
    fleet = load_fleet(folder / FLEET_NAME)
    identities = load_identities(folder / OPERATOR_KEY_NAME)
    if not any(identity.public in fleet.operator for identity in identities):
        raise IdentityError(
            f"{folder / OPERATOR_KEY_NAME} holds no key that {folder / FLEET_NAME} names, so no device would believe it"
        )
    return Operator(fleet.name, identities)
