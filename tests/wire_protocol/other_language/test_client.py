"""A client in another language, written after the page alone, and this one understand each other.

Needs Node.js (16 or later, its standard library only); without it the test is skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest

from server.screening import Screened, screen
from tests.golden_fleet import DEVICE, FLEET, GOLDEN, KITCHEN, OLD_OPERATOR, OPERATOR, ROUND, RUN, identity
from tests.wire_protocol.test_golden_bytes import FULL, KEPT, LAYOUT, MESSAGES
from wire_protocol.chunking import manifest_of
from wire_protocol.envelope import Context, open_sealed
from wire_protocol.messages import Decline, Manifest, Update, decode
from wire_protocol.sub_model import gather

NODE = shutil.which("node")
CLIENT = Path(__file__).with_name("client.mjs")
pytestmark = pytest.mark.skipif(NODE is None, reason="node is not installed")


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("node")


@pytest.fixture(scope="module")
def said(out: Path) -> dict:
    done = subprocess.run([str(NODE), CLIENT, GOLDEN, out], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def opened(out: Path, name: str) -> bytes:
    payload = (out / f"{name}.sealed").read_bytes()
    assert decode((out / f"{name}.manifest").read_bytes(), Manifest) == manifest_of(payload)
    context = Context("update", FLEET, RUN, ROUND, DEVICE)
    readers = (identity(OLD_OPERATOR), identity(OPERATOR))
    return open_sealed(payload, context, readers, [identity(KITCHEN).public])


def test_it_reads_what_was_signed_and_sealed_here(said: dict) -> None:
    plan = msgspec.to_builtins(MESSAGES["plan"], builtin_types=(bytes,))
    plan["ranking"] = {group: {"type": "Buffer", "data": list(order)} for group, order in plan["ranking"].items()}
    plan["differences"] = list(plan["differences"])
    assert said["plan"] == plan
    assert said["missing"] == [0, 2]
    assert said["values"] == MESSAGES["slice"].values.hex()


def test_it_refuses_what_was_altered_or_belongs_elsewhere(said: dict) -> None:
    assert said["refused"] == [True] * 5


def test_what_it_seals_is_counted_here(said: dict, out: Path) -> None:
    update = decode(opened(out, "update"), Update)
    assert (update.examples, update.trained) == (1000, 70000)
    verdict = screen(opened(out, "update"), plan_for(update), LAYOUT)
    assert isinstance(verdict, Screened)
    for name, array in gather(LAYOUT, KEPT, FULL).items():
        np.testing.assert_array_equal(verdict.values[name], array)


def plan_for(update: Update):
    from msgspec.structs import replace  # noqa: PLC0415

    return replace(MESSAGES["plan"], local_steps=update.trained)


def test_it_can_decline(said: dict, out: Path) -> None:
    assert decode(opened(out, "decline"), Decline).cause == "data"
