"""Which release of the client a device starts: `releases/choice`, read by the launcher and written by the client.

    line 1   SHA-256 (hexadecimal) of line 2
    line 2   JSON: {"format": 1, "confirmed": "0.2.0", "confirmed_attempt": 1, "trial": "0.3.0", "attempt": 1,
                    "starts": 0, "failed": {"0.2.5": 1}}

The empty version is the package's own. Launchers live as long as their package and read what later releases write: so
this format stays as it is. Whatever else is found there counts as an empty choice, and the package's own code runs.
Standard library only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from wire_protocol.durable_files import sync_folder
from wire_protocol.release_version import is_newer, is_version

FORMAT = 1
NAME = "choice"
MOST_BYTES = 4096
MOST_STARTS = 3
"""Of a release on trial, as U-Boot's and RAUC's boot attempts; a power cut costs one, too."""
MOST_RELAPSES = 10
"""Starts in a row of a confirmed release none of which lived for long."""
MOST_FAILED = 8
"""Failed versions that are remembered, those that failed last."""

_DIGITS = 64


@dataclass(frozen=True)
class Choice:
    """`confirmed` proved itself, `trial` is to; each with the attempt at which it was offered. The one on trial, else
    the confirmed one, was started `starts` times since it last ran for long. `failed` holds versions with the attempt
    at which they failed.
    """

    confirmed: str = ""
    confirmed_attempt: int = 0
    trial: str = ""
    attempt: int = 0
    starts: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)

    def with_trial(self, version: str, attempt: int) -> Choice:
        """The next start runs this version."""
        return replace(self, trial=version, attempt=attempt, starts=0)

    def without_trial(self) -> Choice:
        """The next start runs the confirmed version."""
        return replace(self, trial="", attempt=0, starts=0)

    def started(self) -> Choice:
        """The version on trial, else the confirmed one, is about to run."""
        return replace(self, starts=self.starts + 1)

    def lived(self) -> Choice:
        """The confirmed version has run for long."""
        return replace(self, starts=0)

    def proven(self) -> Choice:
        """The version on trial is the one to run from now on."""
        kept = {version: attempt for version, attempt in self.failed.items() if version != self.trial}
        return Choice(self.trial, self.attempt, failed=kept)

    def failed_trial(self) -> Choice:
        """The version on trial is not started again."""
        return self.without_trial().with_failed(self.trial, self.attempt)

    def relapsed(self) -> Choice:
        """Nor is the confirmed one: it ends, again and again."""
        return Choice(failed=self.failed).with_failed(self.confirmed, self.confirmed_attempt)

    def with_failed(self, version: str, attempt: int) -> Choice:
        """This version is not taken unless it is offered at a higher attempt."""
        others = [(known, tried) for known, tried in self.failed.items() if known != version]
        return replace(self, failed=dict([*others[1 - MOST_FAILED :], (version, attempt)]))

    def above(self, own: str) -> Choice:
        """Without a confirmed version that is not newer than the package's own."""
        return self if is_newer(self.confirmed, own) else Choice(failed=self.failed)


def load_choice(releases: Path) -> Choice:
    """What the folder's file says; an empty choice where it is not as it was written. Never raises."""
    try:
        with (releases / NAME).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
        digest, _, text = content.partition(b"\n")
        whole = len(content) <= MOST_BYTES and sha256(text).hexdigest().encode() == digest
        return _choice(json.loads(text)) if whole else Choice()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Choice()


def save_choice(releases: Path, choice: Choice) -> None:
    """Make the file say so, in one step and on disk when this returns; raises `OSError` and leaves it as it was."""
    text = json.dumps({"format": FORMAT, **asdict(choice)}).encode()
    fresh = releases / f"{NAME}.new"
    with fresh.open("wb") as file:
        file.write(sha256(text).hexdigest().encode() + b"\n" + text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(releases / NAME)
    sync_folder(releases)


def _choice(table: dict[str, Any]) -> Choice:
    """Raises an error where anything is not as `save_choice` writes it."""
    if table.pop("format") != FORMAT:
        raise ValueError("another format")
    choice = Choice(**table)
    versions = [version for version in (choice.confirmed, choice.trial) if version != ""]
    counts = [choice.confirmed_attempt, choice.attempt, choice.starts, *choice.failed.values()]
    legal_versions = all(isinstance(version, str) and is_version(version) for version in (*versions, *choice.failed))
    if not legal_versions or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("not a choice")
    return choice
