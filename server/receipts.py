"""Which answer stands for an update of the open round, or of an earlier one whose updates still count. Sans-I/O.

Invariants: a device is counted at most once a round; the same hash again gets the same answer again; another hash after
an update was counted is refused, and is a conflict to be written down. A refusal is held in the account once, however
often it is asked for; all rounds whose updates count no more are one here, so that memory does not grow with them. Its
reason is cut to `LONGEST_REASON` characters, as it may quote what the device sent and is given again for every
manifest. After a restart the book is made anew from the rows of the round.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from server.records import ConflictRecord, RefusalRecord, UpdateRecord
from wire_protocol.messages import Receipt
from wire_protocol.topics import Part

LONGEST_REASON = 300
_NO_ROUND = 0
_Key = tuple[int, str]
"""Round and device."""


@dataclass(frozen=True)
class _Answer:
    sha256: bytes
    accepted: bool
    reason: str = ""


class ReceiptBook:
    """Answers given while round `number` is open, to updates of it and of the rounds `earlier`.

    `counted`, `refused` and `conflicts` are what another process gave in it.
    """

    def __init__(
        self,
        number: int,
        earlier: Iterable[int] = (),
        counted: Iterable[UpdateRecord] = (),
        refused: Iterable[RefusalRecord] = (),
        conflicts: Iterable[ConflictRecord] = (),
    ) -> None:
        self._number = number
        self._rounds = frozenset([number, *earlier])
        self._counted = {(record.round, record.device): record.sha256 for record in counted}
        self._refused = {
            (one.round, one.device): _Answer(one.sha256, accepted=False, reason=one.reason) for one in refused
        }
        self.accepted = len(self._counted)
        self.late = sum(made < number for made, _ in self._counted)
        self._refusals = len(self._refused) + sum(record.times for record in conflicts)
        self._conflicts: dict[_Key, ConflictRecord] = {}
        self.last_refusal = ""

    def following(self, number: int, earlier: Iterable[int]) -> ReceiptBook:
        """The book of the next round, with the answers given before to updates that still count."""
        book = ReceiptBook(number, earlier)
        book._counted = {key: sha256 for key, sha256 in self._counted.items() if key[0] in book._rounds}
        book._refused = {key: answer for key, answer in self._refused.items() if key[0] in book._rounds}
        return book

    @property
    def rejected(self) -> int:
        """Updates refused."""
        return self._refusals

    def has_answered(self, device: str) -> bool:
        """Whether the device's update of the open round was counted or refused."""
        key = (self._number, device)
        return key in self._counted or key in self._refused

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give at once, or None when this update is still to be judged."""
        counted = self._counted.get(self._key(part))
        if counted == sha256:
            return _receipt(part, _Answer(sha256, accepted=True))
        if counted is not None:
            return self.conflict(part, sha256)
        refused = self._refused.get(self._key(part))
        if refused is not None and refused.sha256 == sha256:
            return _receipt(part, refused)
        return None

    def accept(self, part: Part, sha256: bytes) -> Receipt:
        """Note that the update was durably counted."""
        key = self._key(part)
        if key not in self._counted:
            self.accepted += 1
            self.late += part.round < self._number
        self._counted[key] = sha256
        return _receipt(part, _Answer(sha256, accepted=True))

    def refuse(self, part: Part, sha256: bytes, reason: str) -> Receipt:
        """Note that the update will never be counted, and why."""
        answer = _Answer(sha256, accepted=False, reason=reason[:LONGEST_REASON])
        self.last_refusal = f"{part.device}: {answer.reason}"
        if self._refused.get(self._key(part)) != answer:
            self._refused[self._key(part)] = answer
            self._refusals += 1
        return _receipt(part, answer)

    def conflict(self, part: Part, sha256: bytes) -> Receipt:
        """Refuse an update because another one of this device was counted, and flag it."""
        before = self._refusals
        receipt = self.refuse(part, sha256, "another update of this device was counted in this round")
        if self._refusals > before:
            fresh = ConflictRecord(part.run, part.round, part.device, sha256, times=0)
            flagged = self._conflicts.get(self._key(part), fresh)
            self._conflicts[self._key(part)] = replace(flagged, sha256=sha256, times=flagged.times + 1)
        return receipt

    def take_conflicts(self) -> tuple[ConflictRecord, ...]:
        """Conflicts since this was last asked, one a device and round."""
        taken, self._conflicts = tuple(self._conflicts.values()), {}
        return taken

    def _key(self, part: Part) -> _Key:
        return part.round if part.round in self._rounds else _NO_ROUND, part.device


def refusal(part: Part, sha256: bytes, reason: str) -> Receipt:
    """A receipt that says why the update will never be counted."""
    return _receipt(part, _Answer(sha256, accepted=False, reason=reason[:LONGEST_REASON]))


def _receipt(part: Part, answer: _Answer) -> Receipt:
    return Receipt(run=part.run, round=part.round, sha256=answer.sha256, accepted=answer.accepted, reason=answer.reason)
