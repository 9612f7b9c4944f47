"""Targets for what is signed and sealed, with changes inside envelopes that are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from random import Random

from edge_client.credentials import Credentials
from edge_client.downlink import Downlink
from server.opening import open_update
from server.operator_keys import Operator
from server.registry import Enrolled, Registry, encode_registry
from server.screening import screen
from server.uplink import Complete
from tests.fuzz.mutations import Mutate, of_messagepack, of_text
from tests.fuzz.seeds import (
    DEVICE,
    FLEET,
    KITCHEN,
    LAYOUT,
    OPERATOR,
    ROUND,
    RUN,
    golden,
    identity,
    scratch,
)
from tests.fuzz.target import Target
from wire_protocol import envelope, messages, topics
from wire_protocol.envelope import Context, Sealed, open_sealed, seal, sign, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Fleet
from wire_protocol.messages import Manifest, RoundPlan
from wire_protocol.topics import Part

UPDATE = Context("update", FLEET, RUN, ROUND, DEVICE)
SLICE = Context("slice", FLEET, RUN, ROUND, DEVICE)
PLAN = Context("plan", FLEET, RUN)
LARGE = 256 * 1024
"""A limit for messages with a long field."""


def golden_plan() -> RoundPlan:
    return messages.decode(golden("plan"), RoundPlan)


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
        screen(body, golden_plan(), LAYOUT)


def _registry() -> Registry:
    return Registry.load(scratch() / "devices.json")


def _downlink_examples() -> tuple[bytes, ...]:
    """Topic and content with a zero between them, two messages after one another with two."""
    for_device = Context("need", FLEET, device=DEVICE)
    sealed = seal(golden("slice"), SLICE, [identity(OPERATOR)], identity(KITCHEN).public)
    manifest = messages.encode(Manifest(sha256=sha256(sealed).digest(), size=len(sealed), chunk_bytes=len(sealed)))
    return (
        _message(topics.plan(RUN), _signed(golden("plan"), PLAN)),
        _message(topics.need(DEVICE), _signed(golden("need"), for_device)),
        _message(topics.receipt(DEVICE), _signed(golden("receipt"), replace(for_device, kind="receipt"))),
        _message(topics.release(DEVICE), _signed(golden("release_offer"), replace(for_device, kind="release-offer"))),
        _message(topics.model(RUN), _signed(golden("model_offer"), Context("model", FLEET, RUN))),
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
        manifest = Manifest(
            sha256=sha256(payload).digest(), size=max(1, len(payload)), chunk_bytes=max(1, len(payload))
        )
        downlink.read(topics.slice_(Part(DEVICE, RUN, ROUND, None)), messages.encode(manifest), LARGE)
        downlink.read(topics.slice_(Part(DEVICE, RUN, ROUND, 0)), payload, LARGE)
    else:
        downlink.read(name.decode(errors="surrogateescape"), payload, LARGE)


ENVELOPE_TARGETS = (
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
        mutate=_enveloped(of_messagepack, lambda body: _encrypted(_update_signed_by_device(body), UPDATE, OPERATOR)),
        run=_judge,
        refusals=(),
        limit=LARGE,
        cost=16,
    ),
    Target(
        name="downlink",
        covers=(
            "edge_client.downlink.Downlink.read",
            "edge_client.credentials.Credentials.verify_plan",
            "edge_client.credentials.Credentials.verify_need",
            "edge_client.credentials.Credentials.verify_receipt",
            "edge_client.credentials.Credentials.verify_release_offer",
            "edge_client.credentials.Credentials.verify_model",
            "edge_client.credentials.Credentials.open_slice",
        ),
        seeds=_downlink_examples,
        mutate=_downlink_mutant,
        run=_downlink,
        refusals=(ProtocolError,),
        limit=LARGE,
        cost=12,
    ),
)
