"""What a device's owner lets the operator put on it: the table `[updates]` of `device.toml`, read strictly.

    [updates]
    client = true   # take releases of this program that the operator has signed
    models = true   # keep the models that the operator promotes, in state/promoted, to infer with them

Without the table, and of what it does not name, nothing is taken. New code may do anything with the data here that this
user may, so it is the owner's to allow, as Debian and Home Assistant leave it to theirs. No I/O.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.owner_table import Reader, flag, read_table


@dataclass(frozen=True)
class Consent:
    """Whether releases of the client, and promoted models, are taken."""

    client: bool = False
    models: bool = False


def read_consent(table: object) -> Consent:
    """The table of the file; raises `InvalidValueError` that names key, value and what is legal."""
    return Consent(**read_table("updates", table, _READERS))


_READERS: dict[str, Reader] = {"client": flag, "models": flag}
