"""Peak resident memory of a device that scores and trains LeNet, beside a torch process that trains it.

    python -m benchmarks.device_memory --json memory.json

Each side is a fresh process that takes the same steps on the same data and reports its own peak (VmHWM of /proc). The
device side is the real runtime and scorer of a device with its client modules loaded; it never loads torch.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.step_sides import TORCH_LOSSES, Subject
from benchmarks.zoo_subject import CLASSES, random_examples, zoo_subject
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import Codec, encode

STEPS, BATCH, EXAMPLES = 50, 32, 64

SCORING = """
from edge_client.fisher import FisherScorer
from edge_client.local_data import in_order
FisherScorer.open(folder, layout).scores(parameters, in_order(examples, {batch}))
"""

DEVICE = """
import sys, json
from pathlib import Path
import numpy as np
from edge_client import runner
from edge_client.local_data import batches
from edge_client.training.portable import PortableRuntime
from wire_protocol.bundle_manifest import decode_manifest
from wire_protocol.examples import fit_examples, load_examples
from wire_protocol.tensor_codec import Codec, decode
from wire_protocol.sub_model import full_sub_model, sub_shapes
folder = Path(sys.argv[1])
manifest = decode_manifest((folder / "manifest.json").read_bytes())
layout = manifest.layout
shapes = sub_shapes(layout, full_sub_model(layout).widths)
parameters = decode((folder / "model.bin").read_bytes(), shapes, Codec("float32"))
examples = fit_examples(load_examples(folder / "data.npz", labelled=False), manifest, "data.npz")
{scoring}
runtime = PortableRuntime.open(folder, layout)
loss = runtime.train(parameters, batches(examples, {batch}, {steps}, np.random.default_rng(0)), 0.01).loss
assert "torch" not in sys.modules
"""

TORCH = """
import sys, json
from pathlib import Path
import numpy as np
import torch
from model_export.module_rewrites.batch_norm import replace_batch_norm
from model_export.zoo import ZOO
torch.set_num_threads(1)
data = np.load(Path(sys.argv[1]) / "data.npz")
x, y = torch.from_numpy(data["x"]), torch.from_numpy(data["y"])
model, _ = replace_batch_norm(ZOO[sys.argv[2]](tuple(x.shape[1:]), {classes}))
loss_of = getattr(torch.nn.functional, sys.argv[3])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range({steps}):
    at = torch.randint(len(x), ({batch},))
    optimizer.zero_grad()
    loss = loss_of(model(x[at]), y[at])
    loss.backward()
    optimizer.step()
loss = loss.item()
"""

REPORT = """
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(json.dumps({"peak_mb": int(peak.split()[1]) * 1024 / 1e6, "loss": loss}))
"""


def peak_memory_mb(program: str, subject: Subject) -> float:
    """Peak resident memory of a fresh process that runs `program` on the subject, in MB (10^6 bytes)."""
    code = program + REPORT
    for name, value in (("batch", BATCH), ("steps", STEPS), ("classes", CLASSES)):
        code = code.replace(f"{{{name}}}", str(value))
    loss = TORCH_LOSSES[subject.manifest.loss].__name__
    command = [sys.executable, "-c", code, str(subject.bundle), subject.name, loss]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout)["peak_mb"])


def training_peaks_mb(subject: Subject, *, scoring: bool = False) -> tuple[float, float]:
    """Peaks of a device that trains, after scoring all neurons if asked to, and of torch that trains the same model."""
    _write_inputs(subject)
    device = DEVICE.replace("{scoring}", SCORING if scoring else "")
    return peak_memory_mb(device, subject), peak_memory_mb(TORCH, subject)


def main() -> None:
    """Run the benchmark."""
    options = benchmark_parser("Peak resident memory of a training device and of torch.").parse_args()
    with TemporaryDirectory() as folder:
        subject = zoo_subject("lenet", BATCH, Path(folder) / "bundle")
        device, torch = training_peaks_mb(subject, scoring=True)
    publish(
        f"LeNet 28 x 28, batch {BATCH}, {STEPS} steps, one thread",
        [
            {"process": "device (stock graphs, onnxruntime)", "peak resident MB": f"{device:.0f}"},
            {"process": "torch", "peak resident MB": f"{torch:.0f}"},
        ],
        {"device_mb": device, "torch_mb": torch, "device_vs_torch": device / torch},
        options.json,
    )


def _write_inputs(subject: Subject) -> None:
    shapes = sub_shapes(subject.manifest.layout, full_sub_model(subject.manifest.layout).widths)
    (subject.bundle / "model.bin").write_bytes(encode(dict(subject.parameters), shapes, Codec("float32")))
    examples = random_examples(subject.manifest, subject.words, EXAMPLES)
    np.savez(subject.bundle / "data.npz", x=examples.x, y=examples.y)


if __name__ == "__main__":
    main()
