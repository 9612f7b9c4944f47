"""Targets for what comes over the wire, from a broker or from the other end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from random import Random

import msgspec

from edge_client.credentials import Credentials
from edge_client.downlink import Downlink
from server.opening import open_update
from server.operator_keys import Operator
from server.registry import Enrolled, Registry, encode_registry
from server.screening import read_screened, screen
from server.uplink import Complete, max_update_size
from tests.fuzz import seeds
from tests.fuzz.mutations import Mutate, of_bytes, of_json, of_messagepack, of_text
from tests.fuzz.seeds import DEVICE, FLEET, KEPT, KITCHEN, LAYOUT, OPERATOR, ROUND, RUN, SHAPES, golden, identity, scratch
from tests.fuzz.target import Target
from wire_protocol import envelope, messages, tensor_codec, topics
from wire_protocol.bundle_manifest import MAX_MANIFEST_BYTES, decode_manifest
from wire_protocol.chunking import Assembly
from wire_protocol.envelope import Context, Sealed, Signed, open_sealed, seal, sign, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Fleet
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import Manifest, Message, RoundPlan
from wire_protocol.sub_model import SubModel, from_bitmaps, sub_shapes, to_bitmaps
from wire_protocol.topics import Part

UPDATE = Context("update", FLEET, RUN, ROUND, DEVICE)
SLICE = Context("slice", FLEET, RUN, ROUND, DEVICE)
PLAN = Context("plan", FLEET, RUN)
LARGE = 256 * 1024
"""A limit for messages with a long field."""
JSON_MEMORY = 8

KINDS: dict[str, type[Message]] = {
    "plan": messages.RoundPlan,
    "update": messages.Update,
    "decline": messages.Decline,
    "slice": messages.Slice,
    "manifest": messages.Manifest,
    "need": messages.Need,
    "receipt": messages.Receipt,
    "state": messages.DeviceState,
    "signed": Signed,
    "sealed": Sealed,
}


def _examples(kind: str) -> tuple[bytes, ...]:
    if kind == "signed":
        signers = [identity(OPERATOR), identity(KITCHEN)]
        return tuple(sign(golden("plan"), PLAN, signers[:count]) for count in (1, 2))
    if kind == "sealed":
        return (seal(golden("update"), UPDATE, [identity(KITCHEN)], identity(OPERATOR).public),)
    return (golden(kind),)


def _read_message(kind: type[Message], content: bytes) -> None:
    """What is read can be written, and then reads the same."""
    message = messages.decode(content, kind)
    if messages.decode(messages.encode(message), kind) != message:
        raise ValueError("a message changed when it was written and read again")


def _message_target(name: str, kind: type[Message]) -> Target:
    limit = LARGE if name in ("update", "slice", "signed", "sealed") else 2 * messages.LARGEST_HEADER
    return Target(
        name=f"message {name}",
        covers=("wire_protocol.messages.decode",),
        seeds=partial(_examples, name),
        mutate=of_messagepack,
        run=partial(_read_message, kind),
        refusals=(ProtocolError,),
        limit=limit,
    )


def _enveloped(inner: Mutate, wrap: Callable[[bytes], bytes], container: Mutate = of_messagepack) -> Mutate:
    """Changes inside an envelope that is right, and of the envelope."""

    def mutate(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
        if draw.random() < 0.7:
            return wrap(inner(draw, examples, limit - envelope.SIGNED_OVERHEAD - envelope.SEALED_OVERHEAD))
        return container(draw, [wrap(draw.choice(examples))], limit)

    return mutate


def _signed(body: bytes, context: Context) -> bytes:
    return sign(body, context, [identity(OPERATOR)])


def _encrypted(signed: bytes, context: Context, reader: int) -> bytes:
    """`Sealed` around any bytes, where `seal` puts a `Signed` message."""
    recipient = identity(reader).public
    content = envelope._SUITE.encrypt(signed, recipient.seal_key, context.encoded())
    return messages.encode(Sealed(key_id=recipient.key_id, content=content))


def _update_signed_by_device(body: bytes) -> bytes:
    return sign(body, UPDATE, [identity(KITCHEN)])


def _open(content: bytes) -> bytes:
    return open_sealed(content, UPDATE, [identity(OPERATOR)], [identity(KITCHEN).public])


def _judge(content: bytes) -> None:
    """What the server does with a whole payload: it never raises."""
    registry = scratch() / "devices.json"
    if not registry.exists():
        registry.write_bytes(encode_registry({DEVICE: Enrolled((identity(KITCHEN).public,))}))
    complete = Complete(Part(DEVICE, RUN, ROUND, None), sha256(content).digest(), content)
    body = open_update(complete, Operator(FLEET, (identity(OPERATOR),)), _registry())
    if isinstance(body, bytes):
        screen(body, _plan(), LAYOUT)


def _registry() -> Registry:
    return Registry.load(scratch() / "devices.json")


def _plan() -> RoundPlan:
    return messages.decode(golden("plan"), RoundPlan)


def _screen(content: bytes) -> None:
    screen(content, _plan(), LAYOUT)


WIDE = Layout((Parameter("w", (4096, 4), (CutAxis(0, "g"),)),), (NeuronGroup("g", 4096),))


def _bitmaps(content: bytes) -> SubModel:
    """Bitmaps as they come in an update."""
    layout = WIDE if len(content) > 256 else LAYOUT
    try:
        bitmaps = msgspec.msgpack.decode(content, type=dict[str, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError("no bitmaps at all") from error
    return from_bitmaps(layout, bitmaps)


def _bitmap_examples() -> tuple[bytes, ...]:
    kept = (to_bitmaps(LAYOUT, KEPT), {"fc1": b"\xff\xc0"}, {"g": b"\xff" * 512})
    return tuple(msgspec.msgpack.encode(bitmaps) for bitmaps in kept)


def _tensors(content: bytes) -> None:
    for precision in ("float16", "float32"):
        for shapes in (SHAPES, {"w": (max(0, len(content) - 4) // 2,)}, {"w": (len(content) // 4,)}, {"w": (), "b": (0, 3)}):
            try:
                tensor_codec.decode(content, shapes, precision)
            except ProtocolError:
                continue


def _tensor_examples() -> tuple[bytes, ...]:
    return golden("tensors_float16"), golden("tensors_float32"), golden("tensors_float32") * 500


def _script(content: bytes) -> None:
    """A manifest and chunks, as the content says: a length, the manifest, then number, length and bytes of each chunk."""
    first = content[0] if content else 0
    assembly = Assembly(messages.decode(content[1 : 1 + first], Manifest), LARGE)
    at = 1 + first
    while at + 4 <= len(content):
        index, length = int.from_bytes(content[at : at + 2], "big", signed=True), int.from_bytes(content[at + 2 : at + 4], "big")
        at += 4
        try:
            assembly.add(index, content[at : at + length])
        except ProtocolError:
            pass
        at += length
        _ = assembly.complete, assembly.arrived.missing(16)
    assembly.payload()


def _script_examples() -> tuple[bytes, ...]:
    scripts = []
    for payload, size in ((b"abcdefghij", 4), (bytes(5000), 1000), (b"x", 1)):
        manifest = Manifest(sha256=sha256(payload).digest(), size=len(payload), chunk_bytes=size)
        encoded = messages.encode(manifest)
        pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
        chunks = b"".join(number.to_bytes(2, "big") + len(piece).to_bytes(2, "big") + piece for number, piece in enumerate(pieces))
        scripts.append(bytes([len(encoded)]) + encoded + chunks)
    return tuple(scripts)


def _script_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Half of the time the manifest is changed and stays readable."""
    script = draw.choice(examples)
    if draw.random() < 0.5:
        return of_bytes(draw, examples, limit)
    changed = of_messagepack(draw, [script[1 : 1 + script[0]]], 255)
    return (bytes([len(changed)]) + changed + of_bytes(draw, [script[1 + script[0] :]], limit))[:limit]


def _topic(parse: Callable[[str], object], content: bytes) -> None:
    parse(content.decode(errors="surrogateescape"))


def _topic_target(name: str, parse: Callable[[str], object], examples: Sequence[str]) -> Target:
    words = ("/", "fl", "v1", "up", "down", "state", "slice", "manifest", "0", "1", "kitchen", "+", "#", "１", "²")
    return Target(
        name=f"topic {name}",
        covers=(f"wire_protocol.topics.{name}",),
        seeds=lambda: [topic.encode() for topic in examples],
        mutate=of_text(words),
        run=partial(_topic, parse),
        refusals=(ProtocolError,),
    )


def _downlink_examples() -> tuple[bytes, ...]:
    """Topic and content with a zero between them, two messages after one another with two."""
    for_device = Context("need", FLEET, device=DEVICE)
    sealed = seal(golden("slice"), SLICE, [identity(OPERATOR)], identity(KITCHEN).public)
    manifest = messages.encode(Manifest(sha256=sha256(sealed).digest(), size=len(sealed), chunk_bytes=len(sealed)))
    return (
        _message(topics.plan(RUN), _signed(golden("plan"), PLAN)),
        _message(topics.need(DEVICE), _signed(golden("need"), for_device)),
        _message(topics.receipt(DEVICE), _signed(golden("receipt"), replace(for_device, kind="receipt"))),
        _message(topics.slice_(Part(DEVICE, RUN, ROUND, None)), manifest),
        _message(topics.slice_(Part(DEVICE, RUN, ROUND, 0)), sealed),
    )


def _message(topic: str, content: bytes) -> bytes:
    return topic.encode(errors="surrogateescape") + b"\0" + content


def _downlink_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """A changed topic, changed content, or changed content of the operator's own signature."""
    topic, _, content = draw.choice(examples).partition(b"\0")
    way = draw.randrange(4)
    if way == 0:
        return of_text(("/", "fl", "v1", "down", "plan", "+"))(draw, [topic], 300) + b"\0" + content
    if way == 1:
        return topic + b"\0" + of_messagepack(draw, [content], limit)
    kind = draw.choice(("plan", "need", "receipt"))
    body = of_messagepack(draw, [golden(draw.choice((kind, kind, "slice")))], limit - 600)
    if way == 2:
        context = PLAN if kind == "plan" else Context(kind, FLEET, device=DEVICE)
        where = {"plan": topics.plan(RUN), "need": topics.need(DEVICE), "receipt": topics.receipt(DEVICE)}[kind]
        return _message(where, _signed(body, context))
    body = of_messagepack(draw, [golden("slice")], limit - 600)
    return _message("slice", _encrypted(_signed(body, SLICE), SLICE, KITCHEN))


def _downlink(content: bytes) -> None:
    name, _, payload = content.partition(b"\0")
    fleet = Fleet(FLEET, (identity(OPERATOR).public,))
    downlink = Downlink(Credentials(DEVICE, fleet, (identity(KITCHEN),)))
    if name == b"slice":
        manifest = Manifest(sha256=sha256(payload).digest(), size=max(1, len(payload)), chunk_bytes=max(1, len(payload)))
        downlink.read(topics.slice_(Part(DEVICE, RUN, ROUND, None)), messages.encode(manifest), LARGE)
        downlink.read(topics.slice_(Part(DEVICE, RUN, ROUND, 0)), payload, LARGE)
    else:
        downlink.read(name.decode(errors="surrogateescape"), payload, LARGE)


WIRE_TARGETS = (
    *(_message_target(name, kind) for name, kind in KINDS.items()),
    Target(
        name="verify",
        covers=("wire_protocol.envelope.verify",),
        seeds=lambda: (golden("plan"),),
        mutate=_enveloped(of_messagepack, partial(_signed, context=PLAN)),
        run=lambda content: verify(content, PLAN, [identity(OPERATOR).public]),
        refusals=(ProtocolError,),
        limit=LARGE,
        cost=8,
    ),
    Target(
        name="open_sealed",
        covers=("wire_protocol.envelope.open_sealed",),
        seeds=lambda: (_update_signed_by_device(golden("update")),),
        mutate=_enveloped(of_messagepack, partial(_encrypted, context=UPDATE, reader=OPERATOR)),
        run=_open,
        refusals=(ProtocolError,),
        limit=LARGE,
        cost=12,
    ),
    Target(
        name="judged update",
        covers=("server.opening.open_update", "server.screening.screen"),
        seeds=lambda: (golden("update"), golden("decline")),
        mutate=_enveloped(
            of_messagepack, lambda body: _encrypted(_update_signed_by_device(body), UPDATE, OPERATOR)
        ),
        run=_judge,
        refusals=(),
        limit=LARGE,
        cost=16,
    ),
    Target(
        name="screen",
        covers=("server.screening.screen",),
        seeds=lambda: (golden("update"), golden("decline")),
        mutate=of_messagepack,
        run=_screen,
        refusals=(),
        limit=max_update_size(LAYOUT, "float16"),
        cost=2,
    ),
    Target(
        name="read_screened",
        covers=("server.screening.read_screened",),
        seeds=lambda: (golden("update"),),
        mutate=of_messagepack,
        run=lambda content: read_screened(content, LAYOUT),
        refusals=(ProtocolError,),
        cost=2,
    ),
    Target(
        name="downlink",
        covers=(
            "edge_client.downlink.Downlink.read",
            "edge_client.credentials.Credentials.verify_plan",
            "edge_client.credentials.Credentials.verify_need",
            "edge_client.credentials.Credentials.verify_receipt",
            "edge_client.credentials.Credentials.open_slice",
        ),
        seeds=_downlink_examples,
        mutate=_downlink_mutant,
        run=_downlink,
        refusals=(ProtocolError,),
        limit=LARGE,
        cost=12,
    ),
    Target(
        name="tensor_codec",
        covers=("wire_protocol.tensor_codec.decode",),
        seeds=_tensor_examples,
        mutate=of_bytes,
        run=_tensors,
        refusals=(),
        limit=LARGE,
        cost=2,
    ),
    Target(
        name="from_bitmaps",
        covers=("wire_protocol.sub_model.from_bitmaps",),
        seeds=_bitmap_examples,
        mutate=of_messagepack,
        run=_bitmaps,
        refusals=(ProtocolError,),
        limit=4096,
        cost=2,
    ),
    Target(
        name="chunks",
        covers=("wire_protocol.chunking.Assembly", "wire_protocol.chunking.ChunkSet"),
        seeds=_script_examples,
        mutate=_script_mutant,
        run=_script,
        refusals=(ProtocolError,),
    ),
    _topic_target("parse_part", topics.parse_part, ["fl/v1/up/kitchen/run-1/3/0", "fl/v1/down/kitchen/slice/run-1/3/manifest"]),
    _topic_target("parse_state", topics.parse_state, ["fl/v1/state/kitchen"]),
    Target(
        name="bundle manifest",
        covers=("wire_protocol.bundle_manifest.decode_manifest",),
        seeds=lambda: (seeds.bundle_manifest(),),
        mutate=of_json,
        run=decode_manifest,
        refusals=(ProtocolError,),
        limit=MAX_MANIFEST_BYTES,
        cost=30,
        times=JSON_MEMORY,
    ),
)
