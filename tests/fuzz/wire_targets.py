"""Targets for what comes over the wire, from a broker or from the other end."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from random import Random
from typing import get_args

import msgspec
import numpy as np

from server.screening import read_screened, screen
from server.uplink import max_update_size
from tests.fuzz import seeds
from tests.fuzz.envelope_targets import ENVELOPE_TARGETS, LARGE, PLAN, golden_plan
from tests.fuzz.mutations import of_bytes, of_json, of_messagepack, of_text
from tests.fuzz.seeds import (
    KEPT,
    KITCHEN,
    LAYOUT,
    OPERATOR,
    SHAPES,
    golden,
    identity,
)
from tests.fuzz.target import Target
from wire_protocol import messages, releases, tensor_codec, topics
from wire_protocol.bundle_manifest import MAX_MANIFEST_BYTES, decode_manifest
from wire_protocol.chunking import Assembly
from wire_protocol.device_state import DeviceState
from wire_protocol.envelope import Sealed, Signed, sign
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import Manifest, Message
from wire_protocol.model_difference import Coding, DifferencePrecision, apply_difference
from wire_protocol.neuron_scores import decode_ranking, decode_scores, encode_ranking, encode_scores, rank
from wire_protocol.sub_model import SubModel, from_bitmaps, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import Codec, Precision
from wire_protocol.tensor_codec.compression import open_section, section

JSON_MEMORY = 8

KINDS: dict[str, type[Message]] = {
    "plan": messages.RoundPlan,
    "update": messages.Update,
    "decline": messages.Decline,
    "slice": messages.Slice,
    "manifest": messages.Manifest,
    "need": messages.Need,
    "receipt": messages.Receipt,
    "state": DeviceState,
    "release": releases.Release,
    "release_offer": releases.ReleaseOffer,
    "model_offer": releases.ModelOffer,
    "release_report": releases.ReleaseReport,
    "signed": Signed,
    "sealed": Sealed,
}


def _examples(kind: str) -> tuple[bytes, ...]:
    if kind == "signed":
        signers = [identity(OPERATOR), identity(KITCHEN)]
        return tuple(sign(golden("plan"), PLAN, signers[:count]) for count in (1, 2))
    if kind == "sealed":
        return (golden("sealed_update"), golden("sealed_slice"))
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


def _screen(content: bytes) -> None:
    screen(content, golden_plan(), LAYOUT)


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
    for precision in get_args(Precision):
        for shapes in (
            SHAPES,
            {"w": (max(0, len(content) - 2) // 2,)},
            {"w": (len(content) // 4,)},
            {"w": (), "b": (0, 3)},
        ):
            with suppress(ProtocolError):
                tensor_codec.decode(content, shapes, Codec(precision))


def _tensor_examples() -> tuple[bytes, ...]:
    return *(golden(f"tensors_{precision}") for precision in get_args(Precision)), golden("tensors_float32") * 500


def _tensors_alike(content: bytes) -> None:
    """Beside good ones it is refused where it is alone, and else all are what they are alone."""
    for precision in get_args(Precision):
        codec, good = Codec(precision), golden(f"tensors_{precision}")
        payloads = [good, content, good]
        try:
            alone = [tensor_codec.decode(payload, SHAPES, codec).vector for payload in payloads]
        except ProtocolError:
            with suppress(ProtocolError):
                list(tensor_codec.decode_alike(payloads, SHAPES, codec))
                raise ValueError("taken beside others, refused alone") from None
            continue
        together = [one.vector for one in tensor_codec.decode_alike(payloads, SHAPES, codec)]
        if not all(map(np.array_equal, alone, together)):
            raise ValueError("values are others beside others")


SPARSE = {"x": (4000,)}


def _sparse_tensors(content: bytes) -> None:
    """Every precision, so that a form meets the bytes of another."""
    for precision in get_args(Precision):
        with suppress(ProtocolError):
            assert len(tensor_codec.decode(content, SPARSE, Codec(precision, 0.01)).vector) == 4000


def _sparse_examples() -> tuple[bytes, ...]:
    values = np.random.default_rng(0).standard_normal(4000).astype(np.float32)
    codecs = (Codec(precision, 0.01) for precision in get_args(Precision))
    return golden("tensors_top_k"), *(tensor_codec.encode({"x": values}, SPARSE, codec) for codec in codecs)


FULL_SHAPES = sub_shapes(LAYOUT, LAYOUT.group_sizes)


def _difference(content: bytes) -> None:
    """Whatever it says, what it makes of a model is a model or nothing."""
    for precision in get_args(DifferencePrecision):
        coding = Coding(FULL_SHAPES, Codec("float16"), Codec(precision))
        base = tensor_codec.decode(golden("model"), FULL_SHAPES, coding.whole)
        with suppress(ProtocolError):
            tensor_codec.decode(apply_difference(content, base, coding), FULL_SHAPES, coding.whole)


def _differences() -> tuple[bytes, ...]:
    change = {name: np.full(shape, 3e38, np.float32) for name, shape in FULL_SHAPES.items()}
    codecs = (Codec(precision) for precision in get_args(DifferencePrecision))
    return golden("difference"), *(tensor_codec.encode(change, FULL_SHAPES, codec) for codec in codecs)


def _sections() -> tuple[bytes, ...]:
    return section([bytes(1000)], None), section([bytes(1000)], 1), section([bytes(range(256))], 12)


def _script(content: bytes) -> None:
    """A manifest and chunks, as the content says: a length, the manifest; number, length and bytes of each chunk."""
    first = content[0] if content else 0
    assembly = Assembly(messages.decode(content[1 : 1 + first], Manifest), LARGE)
    at = 1 + first
    while at + 4 <= len(content):
        index, length = struct.unpack_from(">hH", content, at)
        at += 4
        with suppress(ProtocolError):
            assembly.add(index, content[at : at + length])
        at += length
        _ = assembly.complete, assembly.arrived.missing(16)
    assembly.payload()


def _script_examples() -> tuple[bytes, ...]:
    scripts = []
    for payload, size in ((b"abcdefghij", 4), (bytes(5000), 1000), (b"x", 1)):
        manifest = Manifest(sha256=sha256(payload).digest(), size=len(payload), chunk_bytes=size)
        encoded = messages.encode(manifest)
        pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
        chunks = b"".join(
            number.to_bytes(2, "big") + len(piece).to_bytes(2, "big") + piece for number, piece in enumerate(pieces)
        )
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
    words = (
        "/",
        "fl",
        "v1",
        "up",
        "down",
        "state",
        "slice",
        "manifest",
        "0",
        "1",
        "kitchen",
        "+",
        "#",
        "\uff11",
        "\xb2",
    )
    return Target(
        name=f"topic {name}",
        covers=(f"wire_protocol.topics.{name}",),
        seeds=lambda: [topic.encode() for topic in examples],
        mutate=of_text(words),
        run=partial(_topic, parse),
        refusals=(ProtocolError,),
    )


def _group_vectors() -> dict[str, np.ndarray]:
    return {group: np.arange(size, dtype=np.float32) for group, size in LAYOUT.group_sizes.items()}


def _ranking(content: bytes) -> None:
    try:
        encoded = msgspec.msgpack.decode(content, type=dict[str, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("not a map, which a plan would be refused for") from error
    decode_ranking(LAYOUT, encoded)


WIRE_TARGETS = (
    *ENVELOPE_TARGETS,
    *(_message_target(name, kind) for name, kind in KINDS.items()),
    Target(
        name="screen",
        covers=("server.screening.screen",),
        seeds=lambda: (golden("update"), golden("decline")),
        mutate=of_messagepack,
        run=_screen,
        refusals=(),
        limit=max_update_size(LAYOUT, Codec("float16")),
        cost=2,
    ),
    Target(
        name="read_screened",
        covers=("server.screening.read_screened", "server.update_values.decode_values"),
        seeds=lambda: (golden("update"),),
        mutate=of_messagepack,
        run=lambda content: list(read_screened([golden("update"), content], LAYOUT)),
        refusals=(ProtocolError,),
        cost=2,
    ),
    Target(
        name="tensor_codec",
        covers=("wire_protocol.tensor_codec.codec.decode",),
        seeds=_tensor_examples,
        mutate=of_bytes,
        run=_tensors,
        refusals=(),
        limit=LARGE,
        cost=4,
    ),
    Target(
        name="tensor_codec, several",
        covers=("wire_protocol.tensor_codec.codec.decode_alike",),
        seeds=_tensor_examples,
        mutate=of_bytes,
        run=_tensors_alike,
        refusals=(),
        cost=4,
    ),
    Target(
        name="tensor_codec, part of the values",
        covers=("wire_protocol.tensor_codec.codec.decode",),
        seeds=_sparse_examples,
        mutate=of_bytes,
        run=_sparse_tensors,
        refusals=(),
        cost=4,
    ),
    Target(
        name="difference of models",
        covers=("wire_protocol.model_difference.apply_difference",),
        seeds=_differences,
        mutate=of_bytes,
        run=_difference,
        refusals=(),
        cost=4,
    ),
    Target(
        name="section",
        covers=("wire_protocol.tensor_codec.compression.open_section",),
        seeds=_sections,
        mutate=of_bytes,
        run=lambda content: open_section(memoryview(content), 1000),
        refusals=(ProtocolError,),
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
    _topic_target(
        "parse_part", topics.parse_part, ["fl/v1/up/kitchen/run-1/3/0", "fl/v1/down/kitchen/slice/run-1/3/manifest"]
    ),
    _topic_target("parse_state", topics.parse_state, ["fl/v1/state/kitchen"]),
    _topic_target("parse_want", topics.parse_want, ["fl/v1/up/kitchen/want"]),
    _topic_target("parse_report", topics.parse_report, ["fl/v1/up/kitchen/report"]),
    _topic_target("parse_file", topics.parse_file, [f"fl/v1/down/kitchen/file/{'0' * 64}/manifest"]),
    Target(
        name="scores",
        covers=("wire_protocol.neuron_scores.decode_scores",),
        seeds=lambda: (encode_scores(LAYOUT, _group_vectors()),),
        mutate=of_bytes,
        run=lambda content: decode_scores(LAYOUT, content),
        refusals=(ProtocolError,),
        limit=4096,
    ),
    Target(
        name="ranking",
        covers=("wire_protocol.neuron_scores.decode_ranking",),
        seeds=lambda: (msgspec.msgpack.encode(encode_ranking(rank(_group_vectors()))),),
        mutate=of_messagepack,
        run=_ranking,
        refusals=(ProtocolError,),
        limit=4096,
    ),
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
