"""Messages about what devices run: releases of the client and promoted models, offered, and what came of them.

What is signed follows The Update Framework (theupdateframework.io, specification 1.0): a `Release` is signed by the
operator once and says what it is and for which machines; a `ReleaseOffer` is signed for one device and ends soon, so
that who keeps back newer offers cannot hold out an old one for ever (freeze), and a version that is not newer than what
runs is never taken (roll-back). A fleet's name in the context keeps out another fleet's.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Literal, get_args

import msgspec

from wire_protocol import topics
from wire_protocol.errors import require, require_hex_sha256
from wire_protocol.messages import Message, require_count
from wire_protocol.release_version import require_version

ReleaseStatus = Literal["none", "refused", "waiting", "fetching", "ready", "trial", "confirmed", "failed"]
"""What became of an offer on a device: `refused` it does not fit, `waiting` it cannot be fetched now, `ready` it is on
disk, `trial` it runs and is not proven, `confirmed` and `failed` are final."""

MAX_ARCHIVE_BYTES = 512 * 2**20
MAX_UNPACKED_BYTES = 2 * 2**30
MAX_RELEASES = 8
"""Systems that one version is made for."""
MAX_ATTEMPTS = 1000
MAX_REASON = 200
MAX_MODELS = 16
"""Runs whose promoted model a device keeps, and tells of."""
MAX_MODEL_BYTES = 512 * 2**20

_PYTHON = re.compile(r"3\.(0|[1-9][0-9]?)")
_WORD = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class Release(Message, frozen=True, tag="release"):
    """One archive of the client, for one kind of machine.

    `python` (`3.13`) and `architecture` (as `uname -m` says, `aarch64`) must be the device's; `system` names what it
    was made for. `sha256` (lower-case hexadecimal) and `size` in bytes are the archive's, `unpacked` the bytes of its
    files.
    """

    version: str
    system: str
    python: str
    architecture: str
    sha256: str
    size: int
    unpacked: int

    def __post_init__(self) -> None:
        require_version("version", self.version)
        for field in ("system", "architecture"):
            word = getattr(self, field)
            require(_WORD.fullmatch(word) is not None, field, word, "1 to 32 small letters, digits, - or _")
        require(_PYTHON.fullmatch(self.python) is not None, "python", self.python, "as 3.13")
        require_hex_sha256("sha256", self.sha256)
        require(1 <= self.size <= MAX_ARCHIVE_BYTES, "size", self.size, f"1 to {MAX_ARCHIVE_BYTES}")
        require(1 <= self.unpacked <= MAX_UNPACKED_BYTES, "unpacked", self.unpacked, f"1 to {MAX_UNPACKED_BYTES}")

    def fits(self, python: str, architecture: str) -> bool:
        """Whether it is for this machine."""
        return (self.python, self.architecture) == (python, architecture)


class ReleaseOffer(Message, frozen=True, tag="release-offer"):
    """What a device is to run: one version, as signed `Release` messages, one for each kind of machine.

    A version that failed on a device is tried again only at a higher `attempt`. `expires` is in seconds since the Unix
    epoch.
    """

    releases: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_RELEASES)]
    attempt: int
    expires: float

    def __post_init__(self) -> None:
        require(1 <= len(self.releases) <= MAX_RELEASES, "releases", len(self.releases), f"1 to {MAX_RELEASES}")
        require(1 <= self.attempt <= MAX_ATTEMPTS, "attempt", self.attempt, f"1 to {MAX_ATTEMPTS}")
        require(isfinite(self.expires), "expires", self.expires, "finite")


class ModelOffer(Message, frozen=True, tag="model-offer"):
    """The version of a run's model that is promoted for inference; `predict.onnx` has `sha256` and `size` in bytes.

    `promotion` counts the run's promotions: one that is not higher than a device's own is never taken, while `version`
    may be an older one, as an operator may go back.
    """

    run: str
    version: int
    promotion: int
    sha256: str
    size: int

    def __post_init__(self) -> None:
        topics.require_identifier("run", self.run)
        require_count("version", self.version)
        require_count("promotion", self.promotion, least=1)
        require_hex_sha256("sha256", self.sha256)
        require(1 <= self.size <= MAX_MODEL_BYTES, "size", self.size, f"1 to {MAX_MODEL_BYTES}")


class ReleaseReport(Message, frozen=True, tag="release-report"):
    """What a device runs, and what became of the offer of `offered` at `attempt`, if any; `reason` is for people.

    `models` are the versions of promoted models that it infers with, by run.
    """

    version: str
    offered: str = ""
    attempt: int = 0
    status: ReleaseStatus = "none"
    reason: str = ""
    models: Annotated[dict[str, int], msgspec.Meta(max_length=MAX_MODELS)] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        for field in ("version", "offered"):
            if getattr(self, field):
                require_version(field, getattr(self, field))
        require(0 <= self.attempt <= MAX_ATTEMPTS, "attempt", self.attempt, f"0 to {MAX_ATTEMPTS}")
        require(self.status in get_args(ReleaseStatus), "status", self.status, ", ".join(get_args(ReleaseStatus)))
        require(len(self.reason) <= MAX_REASON, "reason", self.reason, f"at most {MAX_REASON} characters")
        require(len(self.models) <= MAX_MODELS, "models", len(self.models), f"at most {MAX_MODELS}")
        for run, version in self.models.items():
            topics.require_identifier("run", run)
            require_count("models", version)
