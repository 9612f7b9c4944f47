from __future__ import annotations

import random
from hashlib import sha256

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire_protocol import bundle_manifest as bm
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

FILE = bm.BundleFile("0" * 64, 12)
LAYOUT = Layout((Parameter("fc.weight", (4, 3), (CutAxis(0, "fc", produces=True),), 1),), (NeuronGroup("fc", 4),))
MANIFEST = bm.BundleManifest(
    format=bm.FORMAT,
    model="mlp",
    input_shape=(3,),
    classes=2,
    layout=LAYOUT,
    files={bm.TRAIN_STEP: FILE, "ort/0/checkpoint": FILE},
    rungs=(bm.Rung("ort/0", {"fc": 2}),),
)


def test_a_manifest_round_trips() -> None:
    payload = bm.encode_manifest(MANIFEST)
    assert bm.decode_manifest(payload) == MANIFEST
    assert bm.encode_manifest(bm.decode_manifest(payload)) == payload
    assert bm.bundle_id(payload) == sha256(payload).hexdigest()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "/etc/passwd",
        "../x",
        "a/../../x",
        "a/..",
        "a//b",
        "./a",
        "a/",
        "a\\b",
        "C:a",
        "~/a",
        "a\x00",
        "a\n",
        ".hidden",
        "manifest.json",
        "\uff0e\uff0e/a",
    ],
)
def test_names_that_leave_the_folder_or_hide_are_refused(name: str) -> None:
    with pytest.raises(InvalidValueError, match="bundle file name must be "):
        msgspec.structs.replace(MANIFEST, files={name: FILE})
    if name != "manifest.json":
        with pytest.raises(InvalidValueError, match="rung folder must be "):
            bm.Rung(name, {"fc": 1})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"format": 2}, "bundle format"),
        ({"classes": 1}, "classes"),
        ({"input_shape": (3, 0)}, "input_shape"),
        ({"rungs": (bm.Rung("ort/0", {"fc": 5}),)}, "widths of rung ort/0"),
        ({"rungs": (bm.Rung("ort/0", {"fc": 0}),)}, "widths of rung ort/0"),
        ({"rungs": (bm.Rung("ort/0", {}),)}, "widths of rung ort/0"),
        ({"rungs": (bm.Rung("ort/0", {"fc": 1, "other": 1}),)}, "widths of rung ort/0"),
    ],
)
def test_a_manifest_outside_its_ranges_is_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{named} must be "):
        msgspec.structs.replace(MANIFEST, **changes)


@pytest.mark.parametrize(("digest", "size"), [("0" * 63, 1), ("A" * 64, 1), ("g" * 64, 1), ("0" * 64, -1)])
def test_a_file_needs_a_hash_and_a_size(digest: str, size: int) -> None:
    with pytest.raises(InvalidValueError):
        bm.BundleFile(digest, size)


@pytest.mark.parametrize("place", ["", "layout", "files.train_step.onnx", "layout.groups.0", "layout.parameters.0"])
def test_unknown_fields_are_refused_everywhere(place: str) -> None:
    document = msgspec.json.decode(bm.encode_manifest(MANIFEST))
    inner = document
    for step in {"files.train_step.onnx": ["files", "train_step.onnx"]}.get(place, place.split(".") if place else []):
        inner = inner[int(step) if step.isdigit() else step]
    inner["surplus"] = 1
    with pytest.raises(ProtocolError, match="unknown field"):
        bm.decode_manifest(msgspec.json.encode(document))


def require_total(payload: bytes) -> None:
    try:
        manifest = bm.decode_manifest(payload)
    except ProtocolError:
        return
    assert bm.decode_manifest(bm.encode_manifest(manifest)) == manifest


@given(payload=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_reading_any_bytes_is_total(payload: bytes) -> None:
    require_total(payload)


def test_reading_mutated_manifests_is_total() -> None:
    generator = random.Random(3)
    valid = bm.encode_manifest(MANIFEST)
    for _ in range(2000):
        mutated = bytearray(valid)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(mutated))
            mutated[place : place + generator.randint(0, 2)] = generator.choice(
                [b"", b"9", b'"', b"-", b"/", b"\xff", b"."]
            )
        require_total(bytes(mutated))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        bm.decode_manifest(b'{"layout":' + b"[" * 100_000)
