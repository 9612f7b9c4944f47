"""Which answer stands for an update of the open round, sans-I/O.

Invariants: a device is counted at most once; the same hash again gets the same answer again; another hash after an
update was counted is refused, and is a conflict to be written down. A refusal is held in the account once, however
often it is asked for. Its reason is cut to `LONGEST_REASON` characters, as it may quote what the device sent and is
given again for every manifest. After a restart the book is made anew from the rows of the round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.records import ConflictRecord, RefusalRecord, UpdateRecord
from wire_protocol.messages import Receipt
from wire_protocol.topics import Part

LONGEST_REASON = 300


@dataclass(frozen=True)
class _Answer:
    sha256: bytes
    accepted: bool
    reason: str = ""


class ReceiptBook:
    """Answers given in one round; the arguments are what another process gave."""

    def __init__(
        self,
        counted: Iterable[UpdateRecord] = (),
        refused: Iterable[RefusalRecord] = (),
        conflicts: Iterable[ConflictRecord] = (),
    ) -> None:
        self._counted = {record.device: record.sha256 for record in counted}
        self._refused = {one.device: _Answer(one.sha256, accepted=False, reason=one.reason) for one in refused}
        self._refusals = len(self._refused) + sum(record.times for record in conflicts)
        self._conflicts: dict[str, ConflictRecord] = {}
        self.last_refusal = ""

    @property
    def accepted(self) -> int:
        """Updates counted."""
        return len(self._counted)

    @property
    def rejected(self) -> int:
        """Updates refused."""
        return self._refusals

    def has_answered(self, device: str) -> bool:
        """Whether an update of this device was counted or refused."""
        return device in self._counted or device in self._refused

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give at once, or None when this update is still to be judged."""
        counted = self._counted.get(part.device)
        if counted == sha256:
            return _receipt(part, _Answer(sha256, accepted=True))
        if counted is not None:
            return self.conflict(part, sha256)
        refused = self._refused.get(part.device)
        if refused is not None and refused.sha256 == sha256:
            return _receipt(part, refused)
        return None

    def accept(self, part: Part, sha256: bytes) -> Receipt:
        """Note that the update was durably counted."""
        self._counted[part.device] = sha256
        return _receipt(part, _Answer(sha256, accepted=True))

    def refuse(self, part: Part, sha256: bytes, reason: str) -> Receipt:
        """Note that the update will never be counted, and why."""
        answer = _Answer(sha256, accepted=False, reason=reason[:LONGEST_REASON])
        self.last_refusal = f"{part.device}: {answer.reason}"
        if self._refused.get(part.device) != answer:
            self._refused[part.device] = answer
            self._refusals += 1
        return _receipt(part, answer)

    def conflict(self, part: Part, sha256: bytes) -> Receipt:
        """Refuse an update because another one of this device was counted, and flag it."""
        before = self._refusals
        receipt = self.refuse(part, sha256, "another update of this device was counted in this round")
        if self._refusals > before:
            fresh = ConflictRecord(part.run, part.round, part.device, sha256, times=0)
            flagged = self._conflicts.get(part.device, fresh)
            self._conflicts[part.device] = replace(flagged, sha256=sha256, times=flagged.times + 1)
        return receipt

    def take_conflicts(self) -> tuple[ConflictRecord, ...]:
        """Conflicts since this was last asked, one a device."""
        taken, self._conflicts = tuple(self._conflicts.values()), {}
        return taken


def refusal(part: Part, sha256: bytes, reason: str) -> Receipt:
    """A receipt that says why the update will never be counted."""
    return _receipt(part, _Answer(sha256, accepted=False, reason=reason[:LONGEST_REASON]))


def _receipt(part: Part, answer: _Answer) -> Receipt:
    return Receipt(run=part.run, round=part.round, sha256=answer.sha256, accepted=answer.accepted, reason=answer.reason)
