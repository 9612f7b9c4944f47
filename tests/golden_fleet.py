"""The fleet of the golden files: keys that are no secret, and whom its messages concern."""

from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wire_protocol.identity import Identity

GOLDEN = Path(__file__).parent / "golden"
FLEET, RUN, ROUND, DEVICE = "fleet-1", "run-1", 3, "kitchen"
OPERATOR, KITCHEN, OLD_OPERATOR = 1, 2, 3


@cache
def identity(number: int) -> Identity:
    """Keys of 32 equal bytes each."""
    return Identity(
        Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32),
        X25519PrivateKey.from_private_bytes(bytes([number + 100]) * 32),
    )
