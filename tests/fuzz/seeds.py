"""Valid documents to start from, the same in every process: golden messages, and files of a small fleet."""

from __future__ import annotations

import atexit
import io
import os
from functools import cache
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import numpy as np
import safetensors.numpy

from tests.golden_fleet import DEVICE, FLEET, GOLDEN, KITCHEN, OPERATOR, ROUND, RUN, identity
from wire_protocol import bundle_manifest as bm
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel, sub_shapes

__all__ = ["DEVICE", "FLEET", "GOLDEN", "KITCHEN", "OPERATOR", "ROUND", "RUN", "identity"]

LAYOUT = Layout(
    (
        Parameter("fc1.weight", (10, 2), (CutAxis(0, "fc1", produces=True),), 1),
        Parameter("fc1.bias", (10,), (CutAxis(0, "fc1", produces=True),)),
        Parameter("fc2.weight", (2, 10), (CutAxis(1, "fc1"),), 1),
    ),
    (NeuronGroup("fc1", 10),),
)
"""The layout of the golden update and slice."""
KEPT = SubModel({"fc1": np.array([0, 7, 9])})
SHAPES = sub_shapes(LAYOUT, KEPT.widths)


def golden(name: str) -> bytes:
    """A golden message."""
    return (GOLDEN / f"{name}.bin").read_bytes()


TRAIN_STEP = b"not a graph, but nobody runs it"


@cache
def weights() -> bytes:
    """A model of the layout, as safetensors."""
    return safetensors.numpy.save({one.name: np.zeros(one.shape, np.float32) for one in LAYOUT.parameters})


@cache
def bundle_manifest() -> bytes:
    """A bundle's manifest with all that it can hold."""
    contents = {bm.TRAIN_STEP: TRAIN_STEP, bm.WEIGHTS: weights()}
    return bm.encode_manifest(
        bm.BundleManifest(
            format=bm.FORMAT,
            model="golden",
            input_shape=(2,),
            classes=2,
            layout=LAYOUT,
            files={
                name: bm.BundleFile(sha256(content).hexdigest(), len(content)) for name, content in contents.items()
            },
            rungs=(bm.Rung("rungs/half", {"fc1": 5}),),
        )
    )


@cache
def archives() -> tuple[bytes, ...]:
    """Data files: compressed and not, labels and float targets."""
    x = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
    contents = []
    for save in (np.savez, np.savez_compressed):
        for y in (np.array([0, 1, 2, 0]), np.ones((4, 2))):
            stream = io.BytesIO()
            save(stream, x=x, y=y)
            contents.append(stream.getvalue())
    return tuple(contents)


@cache
def scratch() -> Path:
    """A folder of this process for the files that are fuzzed, in memory where the system has such; gone at exit."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    folder = Path(mkdtemp(prefix="fisherfleet-fuzz-", dir=memory if usable else None))
    atexit.register(rmtree, folder, ignore_errors=True)
    return folder
