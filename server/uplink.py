"""Put devices' chunked updates together, sans-I/O but for `PartialFiles`: pieces in, what to answer out.

A device announces a payload and sends only chunks that a `Need` names; the server gives one when there is room
(`server.admission`). So however many announce at once, what is under way stays within the budget and one payload.

Invariants: at most one payload a device is under way, of at most `max_payload` bytes; another payload replaces it. Who
calls passes on payloads of rounds only whose updates count, and says when a round's count no more. A complete payload
is handed over once and held until `release`, so that a manifest repeated while it is being counted starts nothing; at
`let_go` its bytes make room for others. Payloads of several chunks wait in files where there are some, and go on where
they stopped; in memory what came of a payload is forgotten with its grant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from server.admission import Admission
from server.errors import StorageError
from server.partial_files import PartialFiles, PartialPayload
from wire_protocol.chunking import Assembly
from wire_protocol.envelope import SEALED_OVERHEAD
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.messages import MAX_NEED, Manifest, Need
from wire_protocol.neuron_scores import scores_size
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import Codec, largest_size
from wire_protocol.topics import MAX_NUMBER, Part

DEFAULT_BUDGET_BYTES = 5 * 1024 * 1024
"""On their way or waiting to be opened; what was written makes room before it is counted. Peak memory grows by once or
twice this: with 1,000 devices it is 1.12 times that with 10 (benchmarks/update_load.py)."""
_HEADER_BYTES = 1024
_BITMAP_HEADER_BYTES = 16


def max_update_size(layout: Layout, codec: Codec) -> int:
    """Bytes that no honest sealed update exceeds: full-width values, named bitmaps, scores, header and seal."""
    whole = full_sub_model(layout)
    bitmaps = sum(
        len(name.encode()) + len(bitmap) + _BITMAP_HEADER_BYTES for name, bitmap in to_bitmaps(layout, whole).items()
    )
    values = largest_size(sub_shapes(layout, whole.widths), codec)
    return values + bitmaps + scores_size(layout) + _HEADER_BYTES + SEALED_OVERHEAD


@dataclass(frozen=True)
class Complete:
    """A whole payload (sealed) whose hash is the announced one."""

    part: Part
    sha256: bytes
    payload: bytes = field(repr=False)


@dataclass
class _Transfer:
    """`part` has no chunk number. `pieces` is None before a grant; `awaited` chunks below `asked` are to come."""

    part: Part
    manifest: Manifest
    pieces: Assembly | PartialPayload | None = None
    awaited: int = 0
    asked: int = 0


@dataclass
class _Handed:
    cost: int
    files: PartialPayload | None


class Uplink:
    """All payloads under way. `clock` gives seconds and never goes back.

    Call `tick` several times a second and whenever something was released.
    """

    def __init__(
        self, budget_bytes: int, max_payload: int, partial: PartialFiles | None, clock: Callable[[], float]
    ) -> None:
        self._admission = Admission(budget_bytes, clock)
        self.budget_bytes = budget_bytes
        self._max_payload = max_payload
        self._partial = partial
        self._transfers: dict[str, _Transfer] = {}
        self._handed: dict[Part, _Handed] = {}
        self._due: dict[str, None] = {}

    @property
    def outstanding(self) -> int:
        """Bytes granted, or handed over and not yet let go of or released."""
        return self._admission.outstanding

    def manifest(self, part: Part, manifest: Manifest) -> Need | None:
        """Take an announcement: what to send now, or None, as there is no room yet or the payload is being counted.

        Raises `ProtocolError` when the payload is too large.
        """
        part = part._replace(chunk=None)
        if manifest.size > self._max_payload:
            raise ProtocolError(f"announced payload has {manifest.size} bytes, expected at most {self._max_payload}")
        if part in self._handed:
            return None
        transfer = self._transfers.get(part.device)
        if transfer is None or (transfer.part, transfer.manifest) != (part, manifest):
            self._admission.take_back(part.device)
            transfer = self._transfers[part.device] = _Transfer(part, manifest)
        self._admission.enter(part.device, manifest.size)
        self._begin(self._admission.admit())
        return self._ask(transfer) if self._admission.holds(part.device) else None

    def chunk(self, part: Part, content: bytes) -> Complete | None:
        """Take a chunk; one that was not asked for is ignored.

        Raises `ProtocolError` for a chunk that the manifest does not allow, and when the last chunk is there but the
        hash differs: then all chunks are needed again. Raises `StorageError` when it could not be kept: it is needed
        again.
        """
        transfer = self._transfers.get(part.device)
        if transfer is None or transfer.pieces is None or part.chunk is None:
            return None
        if transfer.part != part._replace(chunk=None):
            return None
        pieces = transfer.pieces
        last = len(pieces.arrived) == transfer.manifest.chunk_count - 1
        if last and not self._admission.may_finish(part.device):
            return None
        if pieces.add(part.chunk, content):
            self._admission.used(part.device, len(content))
            self._count_down(transfer, part.chunk)
        return self._hand_over(part, transfer, pieces) if pieces.complete else None

    def tick(self) -> list[tuple[str, Need]]:
        """Devices that may send now, or go on, and what; to be told."""
        self._begin(self._admission.admit())
        for device in self._admission.take_back_lapsed():
            self._park(self._transfers[device])
        self._begin(self._admission.admit())
        due = [device for device in self._due if self._admission.holds(device)]
        self._due.clear()
        return [(device, self._ask(self._transfers[device])) for device in due]

    def let_go(self, part: Part) -> None:
        """A payload handed over takes no more memory, others may come in its place; it is held until `release`."""
        handed = self._handed.get(part._replace(chunk=None))
        if handed is not None:
            self._admission.release(handed.cost)
            handed.cost = 0

    def release(self, part: Part) -> None:
        """Forget a payload handed over: it was counted, refused, or must be sent again. What came since is kept."""
        handed = self._handed.pop(part._replace(chunk=None), None)
        if handed is None:
            return
        self._admission.release(handed.cost)
        if self._partial is not None and handed.files is not None:
            self._partial.remove(handed.files)

    def clear(self) -> None:
        """Forget all, on disk too. What was handed over counts until it is released."""
        self.forget_before(MAX_NUMBER + 1)

    def forget_before(self, number: int) -> None:
        """Forget what is under way of rounds before `number`, on disk too; what was handed over stays."""
        for device, transfer in tuple(self._transfers.items()):
            if transfer.part.round < number:
                del self._transfers[device]
                self._due.pop(device, None)
                self._admission.leave(device)
        if self._partial is not None:
            self._partial.forget_before(number)

    def _begin(self, granted: Iterable[str]) -> None:
        for device in granted:
            transfer = self._transfers[device]
            if transfer.pieces is None:
                transfer.pieces = self._open(transfer)
            self._due[device] = None

    def _open(self, transfer: _Transfer) -> Assembly | PartialPayload:
        if self._partial is None or transfer.manifest.chunk_count == 1:
            return Assembly(transfer.manifest, self._max_payload)
        return self._partial.open(transfer.part, transfer.manifest)

    def _ask(self, transfer: _Transfer) -> Need:
        assert transfer.pieces is not None
        missing = transfer.pieces.arrived.missing(MAX_NEED)
        transfer.awaited, transfer.asked = len(missing), missing[-1] + 1
        self._due.pop(transfer.part.device, None)
        return Need(run=transfer.part.run, round=transfer.part.round, missing=missing)

    def _count_down(self, transfer: _Transfer, index: int) -> None:
        if index < transfer.asked:
            transfer.awaited -= 1
            if transfer.awaited == 0:
                self._due[transfer.part.device] = None

    def _park(self, transfer: _Transfer) -> None:
        """Without a grant nothing may fill the memory; what is on its way still goes to disk, or may be the whole."""
        if isinstance(transfer.pieces, Assembly) and transfer.manifest.chunk_count > 1:
            transfer.pieces = None

    def _hand_over(self, part: Part, transfer: _Transfer, pieces: Assembly | PartialPayload) -> Complete:
        try:
            payload = pieces.payload()
        except (ProtocolError, StorageError):
            self._admission.take_back(part.device)
            self._park(transfer)
            raise
        cost = transfer.manifest.size
        self._admission.hand_over(part.device, cost)
        del self._transfers[part.device]
        self._due.pop(part.device, None)
        self._handed[transfer.part] = _Handed(cost, pieces if isinstance(pieces, PartialPayload) else None)
        return Complete(part, transfer.manifest.sha256, payload)
