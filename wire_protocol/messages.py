"""Every message on the wire: frozen, validated when made and when read, MessagePack by msgspec.

Each message is a map whose `v` is the protocol version and whose `type` is its name. An unknown version is refused
before anything else is read. Decoding is total: a message, or `ProtocolError`; and it takes little more memory than the
message: apart from its one long field (`values`, `body` or `content`) a message has at most `LARGEST_HEADER` bytes, and
of what is small and many only few.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Literal, TypeVar, get_args

import msgspec

from wire_protocol import topics
from wire_protocol.errors import ProtocolError, require, require_hex_sha256
from wire_protocol.layout import MAX_GROUPS, Layout
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.model_difference import MAX_DIFFERENCES, ModelDifference
from wire_protocol.participation import takes_part
from wire_protocol.privacy import Privacy, RecordPrivacy
from wire_protocol.sub_model import SELECTION_ID_BYTES, widths_at
from wire_protocol.tensor_codec import Codec, DownlinkPrecision, Precision

PROTOCOL_VERSION = 1

SelectionPolicy = Literal["fisher", "fisher-cohort", "random", "magnitude", "prefix", "rolling", "full"]
BY_SCORES: frozenset[SelectionPolicy] = frozenset({"fisher", "fisher-cohort"})
"""Policies that rest on scores of a device's own examples."""
DeclineCause = Literal["data", "training", "internal", "cannot-afford", "paused", "budget-spent", "not-private"]
SHA256_BYTES = 32
SELECTION_UNKNOWN = "the server does not know this selection of neurons"
"""The reason of a receipt for an update without bitmaps. The server then sends no slice either, so that the device's
next update comes of the model and with bitmaps."""
MAX_CHUNKS = 65_536
SMALLEST_CHUNK = 1024
MOST_SMALL_CHUNKS = 64
"""A payload of more chunks has chunks of `SMALLEST_CHUNK` bytes or more: each costs time and memory, however short."""
MAX_NEED = 4096
"""Chunks named in one `Need`, so that it fits in any broker's message; the next one names the rest."""
LARGEST_HEADER = 32 * 1024
"""Bytes of a message besides its long field: the bitmaps of 200,000 neurons and their names."""
MAX_COUNT = 2**53
"""Counts stay exact as float64 and fit a database's integers."""

MAX_WANTED = 64
"""Chunks asked for in one `Want`."""
MAX_PATH = 512
MAX_FILE_BYTES = 64 * 2**20
"""Of a file that is fetched over MQTT: either end holds it in memory when it seals or opens it."""

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_FILE_PATH = re.compile(
    rf"bundles/[0-9a-f]{{64}}/{_NAME}(/{_NAME})*|(models|differences|releases|promoted)/[0-9a-f]{{64}}"
)


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    """Parent of all messages."""

    v: int = PROTOCOL_VERSION


class RoundPlan(Message, frozen=True, tag="plan"):
    """The server's order for one round, retained on the broker.

    `resync_round` is the round at which neurons were or are chosen; `resync` means it is this one. `bundle` and
    `model` are lower-case hexadecimal SHA-256; `deadline` is in seconds since the Unix epoch. `local_steps` steps at
    `learning_rate` on batches of `batch_size` examples are asked for, taken as `training` says. `keep` is the largest
    fraction of neurons that a device keeps in each group, in (0, 1]. Updates are coded at `precision`, the fraction
    `top_k` of their values of largest magnitude; models and slices at `downlink`. With `privacy` the run is private and
    updates are noised as it says; then `batch_size` is the number that a step's sum is divided by.
    Neurons are scored on `score_examples` of a device's examples, drawn at random, 0 for all.
    `ranking` is the fleet's own order of neurons (`neuron_scores`), in a resync by the selection `fisher-cohort` once
    there were scores, and in a buffered run in the rounds after it too. `differences`, in a resync only, give the model
    to devices that have an earlier one. Updates still count when the newest plan is up to `most_stale` model versions
    ahead; with 0, in their own round only.
    Who takes part is drawn at the rate `participation`, in (0, 1], by `participation_seed`.
    """

    run: str
    round: int
    resync_round: int
    model_version: int
    bundle: str
    model: str
    deadline: float
    local_steps: int
    batch_size: int
    learning_rate: float
    keep: float
    selection: SelectionPolicy = "fisher"
    precision: Precision = "float16"
    top_k: float = 1.0
    downlink: DownlinkPrecision = "float16"
    privacy: Privacy | None = None
    score_examples: int = 0
    training: LocalTraining = PLAIN
    ranking: dict[str, bytes] = {}
    participation: float = 1.0
    participation_seed: int = 0
    most_stale: int = 0
    differences: Annotated[tuple[ModelDifference, ...], msgspec.Meta(max_length=MAX_DIFFERENCES)] = ()

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)
        require(1 <= self.resync_round <= self.round, "resync_round", self.resync_round, f"1 to {self.round}")
        require_count("model_version", self.model_version)
        require_hex_sha256("bundle", self.bundle)
        require_hex_sha256("model", self.model)
        require(isfinite(self.deadline), "deadline", self.deadline, "finite")
        require_count("local_steps", self.local_steps, least=1)
        require_count("batch_size", self.batch_size, least=1)
        require(0 < self.learning_rate < float("inf"), "learning_rate", self.learning_rate, "above 0 and finite")
        _require_fraction("keep", self.keep)
        _require_fraction("top_k", self.top_k)
        require_fits_privacy(self.privacy, self.selection, self.score_examples)
        _require_fraction("participation", self.participation)
        require_count("participation_seed", self.participation_seed)
        require_count("most_stale", self.most_stale)
        require_count("score_examples", self.score_examples)
        count, most = len(self.differences), MAX_DIFFERENCES if self.resync else 0
        require(count <= most, "differences", count, f"at most {MAX_DIFFERENCES} in a resync, else none")

    @property
    def resync(self) -> bool:
        """Whether every device takes the whole model and chooses its neurons in this round."""
        return self.round == self.resync_round

    @property
    def wants_scores(self) -> bool:
        """Whether an update of this round brings the device's scores along."""
        return self.resync and self.selection == "fisher-cohort"

    def draws(self, device: str) -> bool:
        """Whether the device takes part in this round; see `participation`."""
        return takes_part(self.participation, self.participation_seed, self.round, device)

    @property
    def presumed_examples(self) -> int:
        """In a private run, the examples that a device has for all that it tells."""
        if isinstance(self.privacy, RecordPrivacy):
            return max(1, round(self.batch_size / self.privacy.sampling_rate))
        return self.local_steps * self.batch_size

    def scored_of(self, examples: int) -> int:
        """On how many of its examples a device scores neurons."""
        return min(examples, self.score_examples or examples)

    def takes_updates_of(self, earlier: RoundPlan) -> bool:
        """Whether updates by an earlier plan of the run still count while this is the newest."""
        return self.most_stale > 0 and 0 <= self.model_version - earlier.model_version <= self.most_stale

    def largest_widths(self, layout: Layout) -> dict[str, int]:
        """Neurons that a device keeps of each group, at most."""
        return widths_at(layout, 1.0 if self.selection == "full" else self.keep)

    @property
    def codec(self) -> Codec:
        """How updates are coded."""
        return Codec(self.precision, self.top_k)

    @property
    def downlink_codec(self) -> Codec:
        """How models and slices are coded."""
        return Codec(self.downlink)


class Update(Message, frozen=True, tag="update"):
    """The change of a sub-model's parameters; `values` is tensor_codec at `precision` and `top_k`.

    `kept` holds a bitmap for each neuron group. Where the update comes of a slice of the same round, the server knows
    the neurons: then `kept` is empty and `selection` is their id (`sub_model.selection_id`).
    `examples` weighs the update; `trained` and `scored` count the examples (with repetition) that passed forward and
    backward, for the compute account; in a private run they are what the plan says. `scores` are the device's scores of
    all neurons (`neuron_scores`), empty unless the plan is a resync by the selection `fisher-cohort`. In a private run
    `ledger` is how far the device's privacy ledger had come when this round was charged to it, and `within`, where the
    plan counts them, the noised share of gradients or updates that are within the clip norm, 0.5 for none known.
    """

    run: str
    round: int
    model_version: int
    examples: int
    trained: int
    scored: int
    kept: Annotated[dict[str, bytes], msgspec.Meta(max_length=MAX_GROUPS)]
    precision: Precision
    values: bytes
    selection: bytes = b""
    top_k: float = 1.0
    scores: bytes = b""
    ledger: LedgerMark | None = None
    within: float | None = None

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)
        require_count("model_version", self.model_version)
        require_count("examples", self.examples, least=1)
        require_count("trained", self.trained, least=1)
        require_count("scored", self.scored)
        _require_fraction("top_k", self.top_k)
        require(self.within is None or isfinite(self.within), "within", self.within, "finite")
        known = len(self.selection) == SELECTION_ID_BYTES and not self.kept
        legal = f"empty, or {SELECTION_ID_BYTES} bytes where kept is empty"
        require(not self.selection or known, "selection", self.selection, legal)

    @property
    def codec(self) -> Codec:
        """How `values` are coded."""
        return Codec(self.precision, self.top_k)


class Decline(Message, frozen=True, tag="decline"):
    """Sent in place of an update: the device will give none in this round, so the server need not wait for it.

    `cause` is one of few words, not a text, as what an error says may tell of the data: `data` the device's examples do
    not fit the model, `training` the training failed (it diverged, say), `cannot-afford` even the smallest sub-model is
    more than the device can afford by the deadline or within its owner's limits, `paused` its owner's limits say that
    it must rest now, `budget-spent` training would cost more privacy than its owner allows, `not-private` it takes part
    in private runs only, `internal` anything else.
    """

    run: str
    round: int
    cause: DeclineCause

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)


class Slice(Message, frozen=True, tag="slice"):
    """The current values of the neurons a device kept, sent between resyncs."""

    run: str
    round: int
    model_version: int
    precision: DownlinkPrecision
    values: bytes

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)
        require_count("model_version", self.model_version)


class Manifest(Message, frozen=True, tag="manifest"):
    """Announces a chunked payload: `sha256` (32 bytes), `size` and `chunk_bytes` in bytes."""

    sha256: bytes
    size: int
    chunk_bytes: int

    def __post_init__(self) -> None:
        _require_sha256(self.sha256)
        require(self.size >= 1, "size", self.size, "at least 1")
        require(self.chunk_bytes >= 1, "chunk_bytes", self.chunk_bytes, "at least 1")
        most = MAX_CHUNKS if self.chunk_bytes >= SMALLEST_CHUNK else MOST_SMALL_CHUNKS
        require(self.chunk_count <= most, "chunks", self.chunk_count, f"at most {most} of {self.chunk_bytes} bytes")

    @property
    def chunk_count(self) -> int:
        """Chunks that the payload has."""
        return -(-self.size // self.chunk_bytes)


class Need(Message, frozen=True, tag="need"):
    """The server's answer to a manifest: the chunks it has not got."""

    run: str
    round: int
    missing: Annotated[tuple[int, ...], msgspec.Meta(max_length=MAX_NEED)]

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)
        require(len(self.missing) <= MAX_NEED, "missing", self.missing, f"at most {MAX_NEED} chunk numbers")
        legal = all(0 <= index < MAX_CHUNKS for index in self.missing)
        require(legal, "missing", self.missing, f"chunk numbers from 0 to {MAX_CHUNKS - 1}")


class Want(Message, frozen=True, tag="want"):
    """A device that cannot reach the server by HTTP asks for a file, as one payload sealed for it.

    `path` is what stands behind `/api/v1/` in the file's URL. `sha256` names the sealed payload that the device has
    begun on, and `missing` the chunks to send of it. Without them the payload's manifest is asked for; it comes also
    where the server does not have that payload any more, and the device begins anew.
    """

    path: str
    sha256: bytes = b""
    missing: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        legal = len(self.path) <= MAX_PATH and _FILE_PATH.fullmatch(self.path) is not None
        require(
            legal,
            "path",
            self.path,
            f"bundles/HASH/FILE, or HASH in models, differences, releases or promoted, at most {MAX_PATH} characters",
        )
        if self.sha256 or self.missing:
            _require_sha256(self.sha256)
        require(len(self.missing) <= MAX_WANTED, "missing", self.missing, f"at most {MAX_WANTED} chunk numbers")
        legal = all(0 <= index < MAX_CHUNKS for index in self.missing)
        require(legal, "missing", self.missing, f"chunk numbers from 0 to {MAX_CHUNKS - 1}")


class Receipt(Message, frozen=True, tag="receipt"):
    """The server's word that the update with this hash was counted, or why it never will be.

    In a private run `ledger` is the most that other updates have told of the device's privacy ledger, in any run.
    """

    run: str
    round: int
    sha256: bytes
    accepted: bool
    reason: str = ""
    ledger: LedgerMark | None = None

    def __post_init__(self) -> None:
        _require_round(self.run, self.round)
        _require_sha256(self.sha256)


def require_fits_privacy(privacy: Privacy | None, selection: SelectionPolicy, score_examples: int) -> None:
    """In a private run, neurons are chosen by what is public, or by scores of all examples with noise of their own."""
    noised = isinstance(privacy, RecordPrivacy) and privacy.score_noise_multiplier > 0
    legal = privacy is None or noised or selection not in BY_SCORES
    public = ", ".join(name for name in get_args(SelectionPolicy) if name not in BY_SCORES)
    require(legal, "selection", selection, f"{public}; others want record privacy with score_noise_multiplier above 0")
    legal = privacy is None or score_examples == 0
    require(legal, "score_examples", score_examples, "0, for all, in a private run")


def _require_round(run: str, number: int) -> None:
    topics.require_identifier("run", run)
    require(1 <= number <= topics.MAX_NUMBER, "round", number, f"1 to {topics.MAX_NUMBER}")


def require_count(field: str, value: int, least: int = 0) -> None:
    """Raise `InvalidValueError` unless `value` is a count of `least` or more."""
    require(least <= value <= MAX_COUNT, field, value, f"{least} to 2^53")


def _require_fraction(field: str, value: float) -> None:
    require(0 < value <= 1, field, value, "above 0 and at most 1")


def _require_sha256(digest: bytes) -> None:
    require(len(digest) == SHA256_BYTES, "sha256", digest, f"{SHA256_BYTES} bytes")


_M = TypeVar("_M", bound=Message)


class _Header(msgspec.Struct, frozen=True):
    """What is looked at first; the other fields stay bytes and take no memory."""

    v: int
    type: msgspec.Raw = msgspec.Raw()
    values: msgspec.Raw = msgspec.Raw()
    body: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()

    @property
    def long_bytes(self) -> int:
        return sum(len(memoryview(field)) for field in (self.values, self.body, self.content))


def encode(message: Message) -> bytes:
    """MessagePack bytes of a message."""
    return msgspec.msgpack.encode(message)


def decode(payload: bytes, kind: type[_M]) -> _M:
    """Read a message of one kind strictly; raises `ProtocolError` on anything else."""
    try:
        header = msgspec.msgpack.decode(payload, type=_Header)
        if header.v != PROTOCOL_VERSION:
            raise ProtocolError(f"protocol version {header.v} is not known here, expected {PROTOCOL_VERSION}")
        if not memoryview(header.type):
            raise ProtocolError(f"not a valid {kind.__name__}: the field type is missing")
        if len(payload) - header.long_bytes > LARGEST_HEADER:
            raise ProtocolError(f"not a valid {kind.__name__}: more than {LARGEST_HEADER} bytes besides its values")
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid {kind.__name__}: {error}") from error
