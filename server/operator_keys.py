"""The operator's side of a fleet: the fleet's name and the private keys that sign for it, from the fleet's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wire_protocol.identity import Identity, IdentityError, load_fleet, load_identities

FLEET_NAME = "fleet.json"
OPERATOR_KEY_NAME = "operator.key"


@dataclass(frozen=True)
class Operator:
    """Who signs: `identities` are those valid now, the newest first."""

    fleet: str
    identities: tuple[Identity, ...]


def load_operator(folder: Path) -> Operator:
    """Read `fleet.json` and `operator.key`; raises `IdentityError` that names the command which makes them."""
    if not (folder / FLEET_NAME).exists():
        raise IdentityError(f"there is no fleet in {folder}: make one with `fisherfleet fleet init {folder}`")
    return Operator(load_fleet(folder / FLEET_NAME).name, load_identities(folder / OPERATOR_KEY_NAME))
