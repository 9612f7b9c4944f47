"""The bytes of the wire must not change within a protocol version: `tests/golden/*.bin` hold them.

`docs/wire-protocol.md` shows them, so that a client in another language can be checked against the same files.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import zstandard
from msgspec.structs import replace

from tests.golden_fleet import FLEET, OPERATOR, identity
from wire_protocol import messages, sub_model, tensor_codec
from wire_protocol.device_state import DeviceState
from wire_protocol.envelope import Context, sign
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import Decline, Manifest, Message, Need, Receipt, RoundPlan, Slice, Update, Want
from wire_protocol.model_difference import Coding, ModelDifference, apply_difference, encode_difference
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.releases import ModelOffer, Release, ReleaseOffer, ReleaseReport
from wire_protocol.sub_model import SubModel
from wire_protocol.tensor_codec import Codec

GOLDEN = Path(__file__).parents[1] / "golden"

LAYOUT = Layout(
    (
        Parameter("fc1.weight", (10, 2), (CutAxis(0, "fc1", produces=True),), 1),
        Parameter("fc1.bias", (10,), (CutAxis(0, "fc1", produces=True),)),
        Parameter("fc2.weight", (2, 10), (CutAxis(1, "fc1"),), 1),
    ),
    (NeuronGroup("fc1", 10),),
)
KEPT = SubModel({"fc1": np.array([0, 7, 9])})
FULL = {
    "fc1.weight": np.arange(20, dtype=np.float32).reshape(10, 2) / 8,
    "fc1.bias": -np.arange(10, dtype=np.float32),
    "fc2.weight": np.arange(20, dtype=np.float32).reshape(2, 10) * 1024,
}
ERROR = {"float32": 0, "float16": 0, "int8": 0.01, "int4": 0.1, "ternary": 0.51}
SHAPES = sub_model.sub_shapes(LAYOUT, KEPT.widths)


def values(precision: str) -> bytes:
    return tensor_codec.encode(sub_model.gather(LAYOUT, KEPT, FULL), SHAPES, Codec(precision), compress=False)


RELEASE = Release(
    version="0.2.0",
    system="trixie",
    python="3.13",
    architecture="aarch64",
    sha256="0123456789abcdef" * 4,
    size=37_128_690,
    unpacked=130_276_087,
)

MESSAGES: dict[str, Message] = {
    "plan": RoundPlan(
        run="run-1",
        round=3,
        resync_round=3,
        model_version=2,
        bundle="0123456789abcdef" * 4,
        model="fedcba9876543210" * 4,
        deadline=1767225600.5,
        local_steps=10,
        batch_size=32,
        learning_rate=0.1,
        keep=0.3,
        selection="fisher",
        precision="float16",
        top_k=1.0,
        downlink="float16",
        privacy=RecordPrivacy(1.5, 2.0, 0.25, 4.0, 8.0),
        score_examples=0,
        training=LocalTraining(optimizer="momentum", momentum=0.5, proximal=0.25, clip_gradient=5.0, hidden_gain=2.0),
        ranking={"fc1": b"\x01\x00\x00\x00\x00\x00\x00\x00"},
        participation=0.75,
        participation_seed=12,
        most_stale=2,
        differences=(ModelDifference(base="1" * 64, sha256="2" * 64, size=1000, precision="int4"),),
    ),
    "update": Update(
        run="run-1",
        round=3,
        model_version=2,
        examples=200,
        trained=320,
        scored=0,
        kept=sub_model.to_bitmaps(LAYOUT, KEPT),
        precision="float16",
        values=values("float16"),
        scores=tensor_codec.encode({"fc1": np.arange(10)}, {"fc1": (10,)}, Codec("float16"), compress=False),
        ledger=LedgerMark(57, bytes(range(32, 64))),
        within=0.625,
    ),
    "decline": Decline(run="run-1", round=3, cause="training"),
    "slice": Slice(run="run-1", round=3, model_version=2, precision="float16", values=values("float16")),
    "manifest": Manifest(sha256=bytes(range(32)), size=300_000, chunk_bytes=126_976),
    "need": Need(run="run-1", round=3, missing=(0, 2)),
    "receipt": Receipt(
        run="run-1",
        round=3,
        sha256=bytes(range(32)),
        accepted=False,
        reason="round 3 is not open",
        ledger=LedgerMark(56, bytes(range(64, 96))),
    ),
    "release": RELEASE,
    "release_offer": ReleaseOffer(
        releases=(
            sign(messages.encode(RELEASE), Context("release", FLEET), [identity(OPERATOR)]),
            sign(messages.encode(replace(RELEASE, system="bookworm")), Context("release", FLEET), [identity(OPERATOR)]),
        ),
        attempt=2,
        expires=1767225600.5,
    ),
    "model_offer": ModelOffer(run="run-1", version=12, promotion=1767225600, sha256="1" * 64, size=26_000),
    "release_report": ReleaseReport(
        version="0.1.0", offered="0.2.0", attempt=2, status="failed", reason="it had no link", models={"run-1": 12}
    ),
    "want": Want(path="models/" + "fedcba9876543210" * 4, sha256=bytes(range(32)), missing=(0, 2)),
    "state": DeviceState(
        online=True,
        examples=200,
        runtime="portable",
        client="0.1.0",
        release="2026.11",
        temperature=61.5,
        throttled=True,
        paused="the device runs on battery",
        budget_left=2.5,
        free_mb=12_000,
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_these_bytes(name: str) -> None:
    golden = (GOLDEN / f"{name}.bin").read_bytes()
    assert messages.encode(MESSAGES[name]) == golden
    assert messages.decode(golden, type(MESSAGES[name])) == MESSAGES[name]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "int4", "ternary"])
def test_tensors_have_these_bytes(precision: str) -> None:
    golden = (GOLDEN / f"tensors_{precision}.bin").read_bytes()
    assert values(precision) == golden
    for name, array in tensor_codec.decode(golden, SHAPES, Codec(precision)).items():
        wanted = sub_model.gather(LAYOUT, KEPT, FULL)[name]
        np.testing.assert_allclose(array, wanted, rtol=0, atol=np.abs(wanted).max() * ERROR[precision])


def test_golden_tensors_are_what_the_document_says() -> None:
    weight, bias, reader = [0, 0.125, 1.75, 1.875, 2.25, 2.375], [-0.0, -7, -9], [0, 7168, 9216, 10240, 17408, 19456]
    float32 = struct.pack("<15f", *weight, *bias, *reader)
    assert (GOLDEN / "tensors_float32.bin").read_bytes() == b"\0" + float32
    tensors = ((weight, -13), (bias, -11), (reader, 0))
    entries = [entry / 2.0**exponent for tensor, exponent in tensors for entry in tensor]
    halves = struct.pack("<15e", *entries)
    exponents = bytes(exponent % 256 for _, exponent in tensors)
    float16 = b"\0" + exponents + halves[::2] + halves[1::2]
    assert float16 == (GOLDEN / "tensors_float16.bin").read_bytes()


def test_golden_levels_are_what_the_document_says() -> None:
    """What `docs/wire-protocol.md` shows of the int4 file."""
    scales, levels = (0.33984375, 1.2890625, 2784.0), ([0, 0, 5, 6, 7, 7], [0, -5, -7], [0, 3, 3, 4, 6, 7])
    codes = [level + 8 for tensor in levels for level in tensor] + [8]
    packed = bytes(high << 4 | low for high, low in zip(codes[::2], codes[1::2], strict=True))
    halves = b"".join(struct.pack("<f", scale)[2:] for scale in scales)
    assert (GOLDEN / "tensors_int4.bin").read_bytes() == b"\0" + halves + packed


def test_a_model_and_its_difference_have_the_bytes_of_the_next_model() -> None:
    """The base has the values of `FULL`; the next model has a sixteenth more."""
    shapes = sub_model.sub_shapes(LAYOUT, LAYOUT.group_sizes)
    coding = Coding(shapes, Codec("float16"), Codec("int4"))
    model, difference, after = ((GOLDEN / f"{name}.bin").read_bytes() for name in ("model", "difference", "next_model"))
    assert tensor_codec.encode(FULL, shapes, coding.whole, compress=False) == model
    base = tensor_codec.decode(model, shapes, coding.whole)
    assert apply_difference(difference, base, coding) == after
    grown = {name: array * np.float32(1.0625) for name, array in FULL.items()}
    assert encode_difference(grown, base, coding).whole == after
    for name, array in tensor_codec.decode(after, shapes, coding.whole).items():
        np.testing.assert_allclose(array, grown[name], rtol=0, atol=np.abs(FULL[name]).max() / 16 / 13)


def test_golden_bytes_of_part_of_the_values_in_sections_of_both_kinds() -> None:
    """8 signs of 4000 values, 499 skipped before each. Only decoded, as versions of zstd differ in their frames."""
    codec, shapes = Codec("ternary", 0.002), {"x": (4000,)}
    golden = (GOLDEN / "tensors_top_k.bin").read_bytes()
    head = struct.pack("<BII", 0, 8, len(golden) - 9 - 1 - 3)
    frame = golden[9 : len(golden) - 4]
    assert golden.startswith(head + b"\1\x28\xb5\x2f\xfd")
    assert zstandard.ZstdDecompressor().decompress(frame[1:]) == b"\xff" * 8 + struct.pack("<I", 499) * 8
    assert golden.endswith(b"\0" + struct.pack("<f", 2.0)[2:] + bytes([0b10101010]))
    expected = np.zeros(4000, dtype=np.float32)
    expected[499::500] = [2, -2] * 4
    np.testing.assert_array_equal(tensor_codec.decode(golden, shapes, codec)["x"], expected)


def test_every_golden_file_is_tested() -> None:
    envelopes = {
        "signed_plan",
        "signed_need",
        "signed_receipt",
        "sealed_slice",
        "sealed_update",
    }  # test_golden_envelopes
    models = {"model", "difference", "next_model"}
    tested = {*MESSAGES, *envelopes, *models, *(f"tensors_{name}" for name in (*ERROR, "top_k"))}
    assert {path.stem for path in GOLDEN.glob("*.bin")} == tested
