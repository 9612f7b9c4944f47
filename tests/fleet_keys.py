"""A fleet's keys for tests, made once: the operator's, some devices', and the files that hold them."""

from functools import cache
from pathlib import Path

from wire_protocol.envelope import Context, open_sealed, seal, sign
from wire_protocol.identity import Fleet, Identity, encode_fleet, new_identity, save_identities
from wire_protocol.messages import Message, RoundPlan, Slice, encode

FLEET = "test-fleet"


@cache
def operator(name: str = "operator") -> Identity:
    """The operator of the fleet, or by another name a stranger."""
    del name
    return new_identity()


@cache
def device(name: str) -> Identity:
    """A device's keys."""
    del name
    return new_identity()


def fleet(name: str = FLEET) -> Fleet:
    """What every device pins."""
    return Fleet(name, (operator().public,))


def write_identity(folder: Path, name: str) -> Path:
    """Write the folder `identity` of a device into `folder`; returns it."""
    identity = folder / "identity"
    identity.mkdir(parents=True, exist_ok=True)
    (identity / "fleet.json").write_bytes(encode_fleet(fleet()))
    save_identities(identity / "device.key", [device(name)])
    return identity


def signed(message: Message, context: Context, signer: Identity | None = None) -> bytes:
    """A message as the operator signs it."""
    return sign(encode(message), context, [signer or operator()])


def signed_plan(plan: RoundPlan) -> bytes:
    """The content of a retained plan."""
    return signed(plan, Context("plan", FLEET, plan.run))


def signed_for(kind: str, message: Message, name: str) -> bytes:
    """A `receipt` or `need` for a device."""
    return signed(message, Context(kind, FLEET, device=name))


def sealed_slice(content: Slice, name: str) -> bytes:
    """A slice for a device."""
    return seal(
        encode(content),
        Context("slice", FLEET, content.run, content.round, name),
        [operator()],
        device(name).public,
    )


def open_update(payload: bytes, run: str, number: int, name: str) -> bytes:
    """The body of what a device sent for a round."""
    return open_sealed(payload, Context("update", FLEET, run, number, name), [operator()], [device(name).public])
